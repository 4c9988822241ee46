//! The data of an event: its values, then its shape, then what its type's rules say.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value};

use super::problem::{EventProblem, excerpt};
use crate::contract::event::{EventData, EventType, TaskSubmitted};
use crate::contract::ids::{Digest, IdError, check_label, check_printable};
use crate::contract::limits::{
    COMMENT_MAX_CHARS, FUTURE_MAX_DAYS, LABEL_KEY_MAX_CHARS, LABEL_VALUE_MAX_CHARS, LABELS_MAX_COUNT,
    PERSON_MAX_CHARS, PRIORITY_MAX,
};

/// The rule of an id.
type IdRule = fn(&str) -> Result<(), IdError>;

/// Fields that hold an id, whatever the type of the event, with the rule of each.
const IDS: [(&str, IdRule); 7] = [
    ("task_id", check_printable),
    ("workspace_id", check_printable),
    ("replay_of", check_printable),
    ("idempotency_key", check_printable),
    ("pool", |text| check_label(text, false)),
    ("kind", |text| check_label(text, true)),
    ("artifact_digest", |text| text.parse::<Digest>().map(|_| ())),
];

/// Fields that hold a time.
const TIMES: [&str; 2] = ["not_before", "deadline"];

/// Fields that name who acts.
const PERSONS: [&str; 3] = ["approved_by", "discarded_by", "requested_by"];

/// Reads the data of an event.
pub(super) fn read(
    event_type: EventType,
    value: Value,
    now: DateTime<Utc>,
) -> Result<EventData, EventProblem> {
    let Value::Object(object) = &value else { return Err(EventProblem::DataNotAnObject) };
    // Before the typed read, whose errors would call these a wrong shape, and could repeat the value.
    check_values(object)?;
    let data = event_type.parse_data_at(value).map_err(|error| shape(event_type, &error))?;
    check_rules(&data, now)?;
    Ok(data)
}

/// Reads a time.
pub(super) fn time(field: &'static str, text: &str) -> Result<DateTime<Utc>, EventProblem> {
    DateTime::parse_from_rfc3339(text).map(|at| at.to_utc()).map_err(|_| EventProblem::Time { field })
}

/// Checks each known field that is present and has the right JSON type.
fn check_values(object: &Map<String, Value>) -> Result<(), EventProblem> {
    let text = |field: &str| object.get(field).and_then(Value::as_str);
    for (field, check) in IDS {
        text(field).map_or(Ok(()), check).map_err(|error| EventProblem::Id { field, error })?;
    }
    for field in TIMES {
        text(field).map(|text| time(field, text)).transpose()?;
    }
    for field in PERSONS {
        if text(field).is_some_and(|name| !is_person(name)) {
            return Err(EventProblem::Person { field });
        }
    }
    match object.get("priority") {
        Some(Value::Number(number)) if number.as_u64().is_none_or(|n| n > u64::from(PRIORITY_MAX)) => {
            Err(EventProblem::Priority)
        }
        _ => Ok(()),
    }
}

fn is_person(name: &str) -> bool {
    let chars = name.chars().count();
    chars <= PERSON_MAX_CHARS && !name.trim().is_empty() && !name.chars().any(char::is_control)
}

/// Turns serde's error into a problem. Its messages repeat values, so that only what our own types put there is taken
/// over: the name of a missing field, and what stands after the last `expected`.
fn shape(event_type: EventType, error: &serde_path_to_error::Error<serde_json::Error>) -> EventProblem {
    let message = error.inner().to_string();
    if let Some(field) = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
        return EventProblem::FieldMissing { field: field.to_owned() };
    }
    let field = excerpt(&error.path().to_string());
    if message.starts_with("unknown field `") {
        return EventProblem::FieldUnknown { field, event_type };
    }
    let expected = match message.rsplit_once(", expected ") {
        // The name of a Rust type says nothing of the range.
        Some(_) if error.path().to_string() == "priority" => {
            format!("a whole number from 0 to {PRIORITY_MAX}")
        }
        Some((_, expected)) => expected.to_owned(),
        None => "another value".to_owned(),
    };
    EventProblem::FieldType { field, expected }
}

fn check_rules(data: &EventData, now: DateTime<Utc>) -> Result<(), EventProblem> {
    match data {
        EventData::WorkspaceRegistered(registered) => check_labels(registered.labels.as_ref()),
        EventData::TaskSubmitted(submitted) => check_times(submitted, now),
        EventData::TaskApproved(approved) => check_comment(approved.comment.as_deref()),
        EventData::TaskDiscarded(discarded) => check_comment(discarded.comment.as_deref()),
        EventData::TaskCancelRequested(_) => Ok(()),
    }
}

fn check_labels(labels: Option<&BTreeMap<String, String>>) -> Result<(), EventProblem> {
    let Some(labels) = labels else { return Ok(()) };
    if labels.len() > LABELS_MAX_COUNT {
        return Err(EventProblem::Labels { count: labels.len() });
    }
    let fits = |(key, value): (&String, &String)| {
        (1..=LABEL_KEY_MAX_CHARS).contains(&key.chars().count())
            && value.chars().count() <= LABEL_VALUE_MAX_CHARS
    };
    if labels.iter().all(fits) { Ok(()) } else { Err(EventProblem::Label) }
}

fn check_comment(comment: Option<&str>) -> Result<(), EventProblem> {
    let chars = comment.map_or(0, |text| text.chars().count());
    if chars <= COMMENT_MAX_CHARS { Ok(()) } else { Err(EventProblem::Comment { chars }) }
}

fn check_times(submitted: &TaskSubmitted, now: DateTime<Utc>) -> Result<(), EventProblem> {
    let horizon = now.checked_add_signed(TimeDelta::days(FUTURE_MAX_DAYS)).unwrap_or(now);
    for (field, at) in [("not_before", submitted.not_before), ("deadline", submitted.deadline)] {
        if at.is_some_and(|at| at > horizon) {
            return Err(EventProblem::TooFar { field });
        }
    }
    match (submitted.not_before, submitted.deadline) {
        (Some(not_before), Some(deadline)) if deadline <= not_before => {
            Err(EventProblem::DeadlineBeforeStart)
        }
        (Some(_) | None, Some(_) | None) => Ok(()),
    }
}
