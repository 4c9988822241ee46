//! The bad input of the contract, case by case; and that no bytes at all can do worse than be rejected.

mod cases;
mod fuzz;
mod limits;
mod modes;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::*;
use crate::contract::cloudevent::CloudEvent;

const SUBMITTED: &str = "switchyard.task.submitted.v1";

fn now() -> DateTime<Utc> {
    "2026-01-31T12:00:00Z".parse().unwrap()
}

/// A valid submission.
fn task() -> Value {
    json!({ "workspace_id": "ws-1", "kind": "plan", "payload": { "folder": "prod" } })
}

/// `base` with a field set, or taken out where `value` is null.
fn with(mut base: Value, field: &str, value: Value) -> Value {
    let object = base.as_object_mut().unwrap();
    if value.is_null() {
        object.remove(field);
    } else {
        object.insert(field.to_owned(), value);
    }
    base
}

/// A structured event around `data`.
fn event(event_type: &str, data: Value) -> Value {
    serde_json::to_value(CloudEvent::new("e-1", "/tests", event_type, data)).unwrap()
}

fn read(key: &str, body: &[u8]) -> Result<ParsedEvent, EventError> {
    parse_event(key, Some("application/cloudevents+json"), &BTreeMap::new(), body, now())
}

/// What is wrong with a body that is published as a submission.
fn problem_of(body: &[u8]) -> EventProblem {
    *read(SUBMITTED, body).expect_err("accepted").problem
}

/// What is wrong with an event of this type with this data.
fn problem_with(event_type: &str, data: Value) -> EventProblem {
    let body = serde_json::to_vec(&event(event_type, data)).unwrap();
    *read(event_type, &body).expect_err("accepted").problem
}

fn accepts(event_type: &str, data: Value) -> ParsedEvent {
    let body = serde_json::to_vec(&event(event_type, data)).unwrap();
    read(event_type, &body).expect("rejected")
}
