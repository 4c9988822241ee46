//! From the bytes of an event to its typed data: pure, and total over any bytes.
//!
//! Errors name fields and limits, never values: a payload may hold secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::cloudevent::{BINARY_HEADER_PREFIX, SPEC_VERSION, STRUCTURED_CONTENT_TYPE};
use super::event::{EventData, EventType, TaskSubmitted};
use super::ids::{Digest, check_printable};
use super::limits::{
    COMMENT_MAX_CHARS, EVENT_BODY_MAX_BYTES, FUTURE_MAX_DAYS, ID_MAX_CHARS, JSON_DEPTH_MAX_LEVELS,
    LABELS_MAX_COUNT, PRIORITY_MAX, SOURCE_MAX_CHARS,
};
use crate::failure::FailureKind;

/// The other prefix that AMQP bindings of CloudEvents use.
const BINARY_HEADER_PREFIX_ALTERNATIVE: &str = "cloudEvents_";
/// Longest `traceparent` that is read, in characters.
const TRACEPARENT_MAX_CHARS: usize = 128;

/// An event whose form is right.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedEvent {
    /// CloudEvents `id`.
    pub id: String,
    /// CloudEvents `source`.
    pub source: String,
    /// CloudEvents `type`.
    pub event_type: EventType,
    /// The typed data.
    pub data: EventData,
    /// CloudEvents `time`, for people.
    pub time: Option<DateTime<Utc>>,
    /// W3C trace context, from the event or the headers.
    pub traceparent: Option<String>,
    /// SHA-256 of the body: the same id with another body is a conflict.
    pub body_hash: Digest,
}

/// Why an event is rejected by its form alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EventError {
    /// The reason, from the closed list.
    pub kind: FailureKind,
    /// What is wrong; names fields and limits, never values.
    pub message: String,
    /// What to do about it.
    pub what_to_do: String,
    /// The event's id and source, as far as they could be read.
    pub identity: (Option<String>, Option<String>),
}

impl EventError {
    fn new(kind: FailureKind, message: impl Into<String>, what_to_do: impl Into<String>) -> Self {
        Self { kind, message: message.into(), what_to_do: what_to_do.into(), identity: (None, None) }
    }

    fn malformed(message: impl Into<String>, what_to_do: impl Into<String>) -> Self {
        Self::new(FailureKind::MalformedEvent, message, what_to_do)
    }

    fn invalid(message: impl Into<String>, what_to_do: impl Into<String>) -> Self {
        Self::new(FailureKind::InvalidValue, message, what_to_do)
    }
}

/// Reads an event, structured or binary. `routing_key` must equal its type: bindings and permissions rest on it.
pub fn parse_event(
    routing_key: &str,
    content_type: Option<&str>,
    headers: &BTreeMap<String, String>,
    body: &[u8],
    now: DateTime<Utc>,
) -> Result<ParsedEvent, EventError> {
    if body.len() > EVENT_BODY_MAX_BYTES {
        return Err(EventError::new(
            FailureKind::OversizedEvent,
            format!("the event has {} bytes, the limit is {EVENT_BODY_MAX_BYTES}", body.len()),
            "leave large data in an object store and put a reference into the payload",
        ));
    }
    let value = parse_json(body)?;
    let binary = header(headers, "type").is_some() && !is_structured(content_type);
    let envelope = if binary { from_headers(headers, value) } else { from_body(value)? };
    let identity = (envelope.text("id"), envelope.text("source"));
    envelope.read(routing_key, headers, body, now).map_err(|error| EventError { identity, ..error })
}

fn is_structured(content_type: Option<&str>) -> bool {
    content_type
        .is_some_and(|text| text.trim_start().to_ascii_lowercase().starts_with(STRUCTURED_CONTENT_TYPE))
}

fn header<'a>(headers: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    [BINARY_HEADER_PREFIX, BINARY_HEADER_PREFIX_ALTERNATIVE]
        .iter()
        .find_map(|prefix| headers.get(&format!("{prefix}{name}")))
        .map(String::as_str)
}

/// The attributes and the data of an event, not yet checked.
struct Envelope {
    attributes: Map<String, Value>,
    data: Value,
}

fn from_body(value: Value) -> Result<Envelope, EventError> {
    let Value::Object(mut attributes) = value else {
        return Err(EventError::malformed(
            "the event is JSON, but not an object",
            "publish a CloudEvents 1.0 JSON object, see docs/contract",
        ));
    };
    let data = attributes.remove("data").unwrap_or(Value::Null);
    Ok(Envelope { attributes, data })
}

fn from_headers(headers: &BTreeMap<String, String>, data: Value) -> Envelope {
    let attributes =
        ["specversion", "id", "source", "type", "time", "subject", "datacontenttype", "traceparent"]
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), Value::String(header(headers, name)?.to_owned()))))
            .collect();
    Envelope { attributes, data }
}

impl Envelope {
    fn text(&self, name: &str) -> Option<String> {
        self.attributes
            .get(name)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
            .map(ToOwned::to_owned)
    }

    fn required(&self, name: &str) -> Result<String, EventError> {
        self.text(name).ok_or_else(|| {
            EventError::malformed(
                format!("the event has no `{name}`, or it is not a text"),
                format!("set the CloudEvents attribute `{name}`"),
            )
        })
    }

    fn read(
        self,
        routing_key: &str,
        headers: &BTreeMap<String, String>,
        body: &[u8],
        now: DateTime<Utc>,
    ) -> Result<ParsedEvent, EventError> {
        if self.required("specversion")? != SPEC_VERSION {
            return Err(EventError::malformed(
                "the event's specversion is not 1.0",
                "publish CloudEvents 1.0: set specversion to \"1.0\"",
            ));
        }
        let (id, source) = (self.required("id")?, self.required("source")?);
        check_printable(&id).map_err(|error| {
            EventError::invalid(format!("the event's `id` {error}"), "use a shorter, printable id")
        })?;
        check_source(&source)?;
        let event_type = event_type(&self.required("type")?)?;
        if routing_key != event_type.as_str() {
            return Err(EventError::malformed(
                "the routing key differs from the event's `type`",
                format!("publish it with the routing key {}", event_type.as_str()),
            ));
        }
        let time = match self.text("time") {
            Some(text) => Some(
                DateTime::parse_from_rfc3339(&text)
                    .map_err(|_| {
                        EventError::malformed(
                            "the event's `time` is not an RFC 3339 time",
                            "write it as 2026-01-31T12:00:00Z, or leave it out",
                        )
                    })?
                    .to_utc(),
            ),
            None => None,
        };
        let traceparent = self
            .text("traceparent")
            .or_else(|| headers.get("traceparent").cloned())
            .filter(|text| text.chars().count() <= TRACEPARENT_MAX_CHARS && text.is_ascii());
        let data = event_type.parse_data(self.data).map_err(|error| shape(event_type, &error))?;
        check_data(&data, now)?;
        Ok(ParsedEvent { id, source, event_type, data, time, traceparent, body_hash: Digest::of(body) })
    }
}

fn check_source(source: &str) -> Result<(), EventError> {
    let fits = source.chars().count() <= SOURCE_MAX_CHARS && source.chars().all(|c| c.is_ascii_graphic());
    if fits {
        return Ok(());
    }
    Err(EventError::invalid(
        format!(
            "the event's `source` is not a URI reference of at most {SOURCE_MAX_CHARS} printable characters"
        ),
        "use a short URI reference such as /billing",
    ))
}

fn event_type(text: &str) -> Result<EventType, EventError> {
    EventType::parse(text).ok_or_else(|| {
        let known: Vec<&str> = EventType::ALL.into_iter().map(EventType::as_str).collect();
        EventError::new(
            FailureKind::UnknownType,
            "the event's `type` is not known",
            format!("use one of: {}", known.join(", ")),
        )
    })
}

/// serde's message names the field and what was expected there; for enums and ids it would echo the value, so it is cut there.
fn shape(event_type: EventType, error: &serde_json::Error) -> EventError {
    let text = error.to_string();
    let safe = match text.find("invalid type: ") {
        Some(_) => text.split("expected").nth(1).map_or_else(
            || "a field has the wrong type".to_owned(),
            |expected| format!("a field has the wrong type: expected{expected}"),
        ),
        None => text,
    };
    EventError::malformed(
        format!(
            "the data of {} has the wrong shape: {}",
            event_type.as_str(),
            crate::failure::bound(&safe, 300)
        ),
        "compare it with its schema in docs/contract",
    )
}

fn check_data(data: &EventData, now: DateTime<Utc>) -> Result<(), EventError> {
    match data {
        EventData::TaskSubmitted(submitted) => check_submitted(submitted, now),
        EventData::WorkspaceRegistered(registered) => {
            let labels = registered.labels.as_ref().map_or(0, BTreeMap::len);
            if labels <= LABELS_MAX_COUNT {
                return Ok(());
            }
            let message = format!("the workspace has {labels} labels, the limit is {LABELS_MAX_COUNT}");
            Err(EventError::invalid(message, "register fewer labels"))
        }
        EventData::TaskApproved(approved) => {
            check_person("approved_by", &approved.approved_by)?;
            check_comment(approved.comment.as_deref())
        }
        EventData::TaskDiscarded(discarded) => {
            check_person("discarded_by", &discarded.discarded_by)?;
            check_comment(discarded.comment.as_deref())
        }
        EventData::TaskCancelRequested(cancel) => check_person("requested_by", &cancel.requested_by),
    }
}

fn check_person(field: &str, name: &str) -> Result<(), EventError> {
    let chars = name.chars().count();
    if (1..=ID_MAX_CHARS).contains(&chars) && !name.trim().is_empty() {
        return Ok(());
    }
    Err(EventError::invalid(
        format!("`{field}` has {chars} characters: 1 to {ID_MAX_CHARS} are allowed, and not only blanks"),
        "name the person or service",
    ))
}

fn check_comment(comment: Option<&str>) -> Result<(), EventError> {
    let chars = comment.map_or(0, |text| text.chars().count());
    if chars <= COMMENT_MAX_CHARS {
        return Ok(());
    }
    Err(EventError::invalid(
        format!("`comment` has {chars} characters, the limit is {COMMENT_MAX_CHARS}"),
        "shorten it",
    ))
}

fn check_submitted(submitted: &TaskSubmitted, now: DateTime<Utc>) -> Result<(), EventError> {
    if let Some(priority) = submitted.priority.filter(|priority| *priority > u64::from(PRIORITY_MAX)) {
        let message =
            format!("`priority` is {priority}: 0 to {PRIORITY_MAX} are allowed, {PRIORITY_MAX} goes first");
        return Err(EventError::invalid(message, "choose a priority from 0 to 9"));
    }
    if let Some(key) = &submitted.idempotency_key {
        check_printable(key).map_err(|error| {
            EventError::invalid(format!("`idempotency_key` {error}"), "use a shorter, printable key")
        })?;
    }
    let horizon = now.checked_add_signed(TimeDelta::days(FUTURE_MAX_DAYS)).unwrap_or(now);
    for (field, at) in [("not_before", submitted.not_before), ("deadline", submitted.deadline)] {
        if at.is_some_and(|at| at > horizon) {
            return Err(EventError::invalid(
                format!("`{field}` lies more than {FUTURE_MAX_DAYS} days in the future"),
                "choose an earlier time",
            ));
        }
    }
    if let (Some(not_before), Some(deadline)) = (submitted.not_before, submitted.deadline)
        && deadline <= not_before
    {
        return Err(EventError::invalid("`deadline` is not after `not_before`", "choose a later deadline"));
    }
    if submitted.deadline.is_some_and(|deadline| deadline <= now) {
        return Err(EventError::invalid("`deadline` has passed already", "choose a deadline in the future"));
    }
    Ok(())
}

/// Reads JSON under the rules of the store: UTF-8, bounded depth, no NUL in any text, no key twice, no number beyond a double.
fn parse_json(body: &[u8]) -> Result<Value, EventError> {
    let text = std::str::from_utf8(body).map_err(|error| {
        EventError::malformed(
            format!("the event is not UTF-8: byte {}", error.valid_up_to()),
            "encode it as UTF-8",
        )
    })?;
    if depth(text) > JSON_DEPTH_MAX_LEVELS {
        return Err(EventError::malformed(
            format!("the event is nested deeper than {JSON_DEPTH_MAX_LEVELS} levels"),
            "flatten the payload",
        ));
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let strict = Strict::deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
    let Strict(value) = strict.map_err(|error| {
        let text = error.to_string();
        if text.contains(NUL) {
            return EventError::malformed(
                "a text in the event contains NUL (\\u0000), which PostgreSQL cannot store",
                "remove it, or encode the text, for example as base64",
            );
        }
        if text.contains(TWICE) {
            return EventError::malformed("an object in the event has a key twice", "keep one of them");
        }
        if text.contains(NUMBER) {
            return EventError::malformed("a number in the event is out of range", "write it as a text");
        }
        EventError::malformed(
            format!("the event is not JSON: line {}, column {}", error.line(), error.column()),
            "publish a CloudEvents 1.0 JSON object, see docs/contract",
        )
    })?;
    Ok(value)
}

const NUL: &str = "text contains NUL";
const TWICE: &str = "key occurs twice";
const NUMBER: &str = "number out of range";

/// The deepest nesting of brackets outside texts. Counted before parsing, so that no parser recurses into hostile depth.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest, mut in_text, mut escaped) = (0_usize, 0_usize, false, false);
    for byte in text.bytes() {
        if in_text {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_text = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_text = true,
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// JSON that PostgreSQL can store and that means the same to every reader.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom(NUMBER))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        if value.contains('\0') { Err(E::custom(NUL)) } else { Ok(Value::String(value.to_owned())) }
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Strict(item)) = access.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut keys: BTreeSet<String> = BTreeSet::new();
        let mut object = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            if key.contains('\0') {
                return Err(de::Error::custom(NUL));
            }
            if !keys.insert(key.clone()) {
                return Err(de::Error::custom(TWICE));
            }
            let Strict(value) = access.next_value()?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}
