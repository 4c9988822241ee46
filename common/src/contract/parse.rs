//! From the bytes of an event to its typed data: pure, and total over any bytes.
//!
//! The rules, in the order in which they are applied: [`json`] reads the bytes, this file finds the envelope in the body
//! (structured mode) or in the headers (binary mode) and checks its attributes, [`data`] reads and checks the data.
//! [`problem`] lists everything that can be wrong. Errors name fields and limits, never values: a payload may hold secrets.
//!
//! Nothing that was right when an event was first accepted may become wrong later, since a second copy of it must get the same
//! answer. So a deadline in the past is accepted here; the task then fails for its deadline.

mod data;
mod json;
mod problem;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

pub use problem::{EventError, EventProblem};

use super::cloudevent::{BINARY_HEADER_PREFIX, SPEC_VERSION, STRUCTURED_CONTENT_TYPE};
use super::event::{EventData, EventType};
use super::ids::{Digest, check_printable};
use super::limits::{EVENT_BODY_MAX_BYTES, SOURCE_MAX_CHARS};
use problem::excerpt;

/// The other prefix that AMQP bindings of CloudEvents use.
const BINARY_HEADER_PREFIX_ALTERNATIVE: &str = "cloudEvents_";

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
    /// W3C trace context of the newest hop: from the headers, else from the event. One that is not well formed is left out.
    pub traceparent: Option<String>,
    /// SHA-256 over type and data, whatever the order of keys, the blanks and the mode: the same id with another hash is a conflict.
    pub body_hash: Digest,
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
        return Err(EventProblem::Oversized { bytes: body.len() }.into());
    }
    let mode = Mode::of(content_type, headers)?;
    let value = json::parse(body)?;
    let envelope = match mode {
        Mode::Structured => from_body(value)?,
        Mode::Binary => from_headers(headers, value),
    };
    Ok(envelope.read(routing_key, headers, now)?)
}

/// Where the attributes are.
enum Mode {
    Structured,
    Binary,
}

impl Mode {
    fn of(content_type: Option<&str>, headers: &BTreeMap<String, String>) -> Result<Self, EventProblem> {
        let content_type = content_type.unwrap_or_default().to_ascii_lowercase();
        let media = content_type.split(';').next().unwrap_or_default().trim();
        let in_headers = ["specversion", "type"].iter().any(|name| header(headers, name).is_some());
        if media == STRUCTURED_CONTENT_TYPE {
            return Ok(Self::Structured);
        }
        // Publishers that do not say what they send, or say only that it is JSON, are understood all the same.
        if !(media.is_empty() || is_json(media)) || media == "application/cloudevents-batch+json" {
            return Err(EventProblem::ContentType);
        }
        Ok(if in_headers { Self::Binary } else { Self::Structured })
    }
}

fn is_json(media: &str) -> bool {
    media == "application/json" || media == "text/json" || media.ends_with("+json")
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
    data: Option<Value>,
}

fn from_body(value: Value) -> Result<Envelope, EventProblem> {
    let Value::Object(mut attributes) = value else { return Err(EventProblem::NotAnObject) };
    let data = attributes.remove("data");
    if data.is_none() && attributes.contains_key("data_base64") {
        return Err(EventProblem::DataBase64);
    }
    Ok(Envelope { attributes, data })
}

fn from_headers(headers: &BTreeMap<String, String>, data: Value) -> Envelope {
    let attributes = ["specversion", "id", "source", "type", "time", "traceparent"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), Value::String(header(headers, name)?.to_owned()))))
        .collect();
    Envelope { attributes, data: Some(data) }
}

impl Envelope {
    /// The text of an attribute. Null counts as absent, as CloudEvents has it.
    fn text(&self, name: &'static str) -> Result<Option<&str>, EventProblem> {
        match self.attributes.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                Err(EventProblem::AttributeNotText { name })
            }
        }
    }

    fn required(&self, name: &'static str) -> Result<&str, EventProblem> {
        match self.text(name)? {
            None | Some("") => Err(EventProblem::AttributeMissing { name }),
            Some(text) => Ok(text),
        }
    }

    fn read(
        self,
        routing_key: &str,
        headers: &BTreeMap<String, String>,
        now: DateTime<Utc>,
    ) -> Result<ParsedEvent, EventProblem> {
        if self.required("specversion")? != SPEC_VERSION {
            return Err(EventProblem::SpecVersion);
        }
        let id = self.required("id")?.to_owned();
        check_printable(&id).map_err(|error| EventProblem::Id { field: "id", error })?;
        let source = self.required("source")?.to_owned();
        if !is_source(&source) {
            return Err(EventProblem::Source);
        }
        let text = self.required("type")?;
        let event_type =
            EventType::parse(text).ok_or_else(|| EventProblem::UnknownType { found: excerpt(text) })?;
        if routing_key != event_type.as_str() {
            return Err(EventProblem::RoutingKey { event_type });
        }
        let time = self.text("time")?.map(|text| data::time("time", text)).transpose()?;
        let traceparent = self.traceparent(headers);
        let value = self.data.filter(|value| !value.is_null()).ok_or(EventProblem::DataMissing)?;
        let canonical = json::Canonical::of(&value);
        let bytes = canonical.stored_bytes();
        if bytes > EVENT_BODY_MAX_BYTES {
            return Err(EventProblem::WrittenOut { bytes });
        }
        let body_hash = canonical.hash(event_type.as_str());
        let data = data::read(event_type, value, now)?;
        Ok(ParsedEvent { id, source, event_type, data, time, traceparent, body_hash })
    }

    /// The trace context is for people who look for a fault: a broken one is dropped, it rejects nothing (W3C says the same).
    fn traceparent(&self, headers: &BTreeMap<String, String>) -> Option<String> {
        let in_event = || self.text("traceparent").ok().flatten();
        let newest = headers.get("traceparent").map(String::as_str).filter(|text| is_traceparent(text));
        newest.or_else(|| in_event().filter(|text| is_traceparent(text))).map(str::to_owned)
    }
}

fn is_source(text: &str) -> bool {
    text.chars().count() <= SOURCE_MAX_CHARS && text.chars().all(|c| c.is_ascii_graphic())
}

/// `<version>-<trace id>-<parent id>-<flags>` in lower-case hexadecimal digits.
fn is_traceparent(text: &str) -> bool {
    const WIDTHS: [usize; 4] = [2, 32, 16, 2];
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |part: &str| part.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
    parts.len() == WIDTHS.len()
        && parts.iter().zip(WIDTHS).all(|(part, width)| part.len() == width && hex(part))
}
