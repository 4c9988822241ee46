//! Reads a message as its receiver does, by the file of its schema.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use switchyard_common::contract::answer::Answer;
use switchyard_common::contract::assignment::AgentMessage;
use switchyard_common::contract::cloudevent::CloudEvent;
use switchyard_common::contract::control::Control;
use switchyard_common::contract::event::EventType;
use switchyard_common::contract::parse::parse_event;
use switchyard_common::contract::report::Report;
use switchyard_common::contract::schema::{
    AGENT_MESSAGE_FILE, ANSWER_FILE, CONTROL_FILE, NOTIFICATION_FILE, REPORT_FILE, event_file,
};

use super::samples::now;

/// Whether the receiver takes the message.
pub(crate) fn reads(file: &str, message: &Value) -> bool {
    round_trip(file, message).is_ok()
}

/// Reads the message from its bytes and writes it again.
pub(crate) fn round_trip(file: &str, message: &Value) -> Result<Value, String> {
    match file {
        AGENT_MESSAGE_FILE => again::<AgentMessage>(message),
        CONTROL_FILE => again::<Control>(message),
        REPORT_FILE => again::<Report>(message),
        ANSWER_FILE => again::<Answer>(message),
        NOTIFICATION_FILE => again::<CloudEvent>(message),
        event => {
            read_event(EventType::ALL.into_iter().find(|known| event_file(*known) == event).unwrap(), message)
        }
    }
}

fn again<T: DeserializeOwned + Serialize>(message: &Value) -> Result<Value, String> {
    let bytes = serde_json::to_vec(message).unwrap();
    let read: T = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    Ok(serde_json::to_value(read).unwrap())
}

fn read_event(event_type: EventType, message: &Value) -> Result<Value, String> {
    let bytes = serde_json::to_vec(message).unwrap();
    let content_type = Some("application/cloudevents+json");
    let parsed = parse_event(event_type.as_str(), content_type, &BTreeMap::new(), &bytes, now())
        .map_err(|error| error.to_string())?;
    let mut event =
        CloudEvent::new(parsed.id, parsed.source, event_type.as_str(), parsed.data.to_value().unwrap());
    event.time = parsed.time;
    event.traceparent = parsed.traceparent;
    event.subject = message["subject"].as_str().map(str::to_owned);
    Ok(serde_json::to_value(event).unwrap())
}
