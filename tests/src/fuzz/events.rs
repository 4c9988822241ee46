//! An event as a stranger may send it: routing key, content type and headers on a line each (`name=value;name=value`), then the body.
//! It is read, admitted or rejected; a rejection is answered, and its letter keeps what can be kept.

use std::collections::BTreeMap;

use chrono::Utc;
use switchyard_common::broker::headers::{HeaderValue, Headers};
use switchyard_common::broker::{Message, Properties};
use switchyard_common::contract::answer::Answer;
use switchyard_common::contract::cloudevent::CloudEvent;
use switchyard_common::contract::limits::{EVENT_BODY_MAX_BYTES, FAILURE_MESSAGE_MAX_CHARS};
use switchyard_common::contract::parse::{ParsedEvent, parse_event};
use switchyard_common::failure::FailureKind;
use switchyard_common::task::Kinds;
use switchyard_dispatcher::dead_letters::kept::{Kept, LETTER_PAYLOAD_MAX_BYTES};
use switchyard_dispatcher::intake::command::{Admitted, Command, Rejection};
use switchyard_dispatcher::intake::run::admit_message;

use super::fields::{escapes_nul, line};

/// Longest message of a rejection, in characters: it names fields and limits, and repeats nothing that is long.
const REJECTION_MAX_CHARS: usize = 1_000;

/// Takes an event the whole way to its command or its rejection.
pub fn check(data: &[u8]) {
    let message = message(data);
    check_message(&message);
    let kept = Kept::of_event(&message);
    let text_bytes = kept.payload.text().map_or(0, str::len);
    let bytes = kept.payload.bytes().map_or(0, <[u8]>::len);
    assert!(text_bytes + bytes <= LETTER_PAYLOAD_MAX_BYTES, "a letter keeps more than its limit");
    assert!(!kept.payload.text().is_some_and(|text| text.contains('\0')), "NUL in a text for PostgreSQL");
}

/// What must hold of any message on the queue of events.
pub(super) fn check_message(message: &Message) {
    let kinds = Kinds::with_built_in([]).expect("the built-in kinds are in order");
    match admit_message(&kinds, message) {
        Ok(admitted) => check_admitted(&admitted, message),
        Err(rejection) => check_rejection(&rejection),
    }
}

fn message(data: &[u8]) -> Message {
    let (routing_key, rest) = line(data);
    let (content_type, rest) = line(rest);
    let (headers, body) = line(rest);
    let properties = Properties {
        content_type: (!content_type.is_empty()).then_some(content_type),
        headers: headers.split(';').filter_map(header).collect(),
        ..Properties::default()
    };
    Message {
        exchange: "switchyard.events".to_owned(),
        routing_key,
        redelivered: true,
        properties,
        headers_truncated: false,
        body: body.to_vec(),
    }
}

/// Whole numbers are numbers, as the broker's own count of deliveries is.
fn header(text: &str) -> Option<(String, HeaderValue)> {
    let (name, value) = text.split_once('=')?;
    Some((name.to_owned(), value.parse().map_or_else(|_| HeaderValue::from(value), HeaderValue::Int)))
}

fn check_rejection(rejection: &Rejection) {
    assert_ne!(rejection.code, FailureKind::DispatcherPanicked, "{rejection}");
    assert_eq!(FailureKind::parse(rejection.code.as_str()), Some(rejection.code), "its code can be stored");
    assert!(!rejection.message.is_empty() && !rejection.what_to_do.is_empty(), "it says what and what to do");
    assert!(rejection.message.chars().count() <= REJECTION_MAX_CHARS, "{rejection}");
    assert!(!rejection.message.chars().any(char::is_control), "{rejection:?}");
    assert!(rejection.failure().message.chars().count() <= FAILURE_MESSAGE_MAX_CHARS);
    let answer = Answer::Rejected(rejection.answer(None));
    let sent = serde_json::to_vec(&answer).expect("an answer can be written");
    assert_eq!(serde_json::from_slice::<Answer>(&sent).expect("and read"), answer);
}

fn check_admitted(admitted: &Admitted, message: &Message) {
    assert!(admitted.traceparent.is_some(), "whatever it does can be found by one id");
    if let Command::Submit(new) = &admitted.command {
        assert!(new.payload.to_string().len() <= EVENT_BODY_MAX_BYTES, "a payload that grew");
    }
    let parsed = parse(message).expect("what was admitted was read");
    // Sent on as it was understood, it is understood as the same.
    let data = parsed.data.to_value().expect("data can be written");
    let written = CloudEvent::new(&parsed.id, &parsed.source, parsed.event_type.as_str(), data);
    let body = serde_json::to_vec(&written).expect("an event can be written");
    if body.len() > EVENT_BODY_MAX_BYTES {
        return;
    }
    let again = Message {
        properties: Properties::persistent("application/cloudevents+json"),
        body,
        ..message.clone()
    };
    let twice = parse(&again).expect("its own form is read");
    assert_eq!((&twice.id, &twice.source, &twice.data), (&parsed.id, &parsed.source, &parsed.data));
    let text = String::from_utf8_lossy(&again.body);
    assert!(!escapes_nul(&text), "NUL got through");
}

fn parse(message: &Message) -> Option<ParsedEvent> {
    let headers: BTreeMap<String, String> = texts(&message.properties.headers);
    let content_type = message.properties.content_type.as_deref();
    parse_event(&message.routing_key, content_type, &headers, &message.body, Utc::now()).ok()
}

fn texts(headers: &Headers) -> BTreeMap<String, String> {
    headers.iter().filter_map(|(name, value)| Some((name.clone(), value.as_text()?.to_owned()))).collect()
}
