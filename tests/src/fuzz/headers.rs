//! Names and headers of a message, from the frame on: one byte for the kind of frame and the size of the pieces in which it arrives,
//! then its payload. Whatever a stranger put there, the connection lives, and what is read of it is within its limits.

use switchyard_common::broker::headers::{HeaderValue, Headers, deaths, delivery_count};
use switchyard_common::broker::limits::{
    DEATHS_READ_MAX_COUNT, HEADER_TEXT_READ_MAX_BYTES, HEADERS_READ_MAX_COUNT, HEADERS_READ_MAX_DEPTH,
};
use switchyard_common::broker::raw::{FrameKind, Read, read_frame, there_and_back};
use switchyard_common::broker::{Message, Outgoing, Properties};
use switchyard_common::contract::topology::Namespace;
use switchyard_dispatcher::dead_letters::arrival::Arrival;
use switchyard_dispatcher::dead_letters::kept::Kept;

use super::fields::{byte, escapes_nul};

/// Class 60 (basic), weight and body size: what the broker itself writes in front of the properties.
const CONTENT_HEAD: [u8; 12] = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
/// Largest JSON of the headers that a letter keeps, in bytes.
const KEPT_HEADERS_MAX_BYTES: usize = 16 * 1024;

/// Reads the frame, and does with its message what the dispatcher would.
pub fn check(data: &[u8]) {
    let (how, payload) = byte(data);
    let piece_bytes = usize::from(how >> 1) + 1;
    if how & 1 == 1 {
        let read = read_frame(FrameKind::Method, payload, piece_bytes);
        assert!(read.is_some(), "the filter changed the length of a frame");
        return;
    }
    let payload = [&CONTENT_HEAD[..], payload].concat();
    let read = read_frame(FrameKind::ContentHeader, &payload, piece_bytes);
    let read = read.expect("the filter does not change the length of a frame");
    if let Read::Properties(properties, _) = read {
        check_properties(*properties);
    }
}

fn check_properties(properties: Properties) {
    let headers = &properties.headers;
    assert!(values(headers) <= HEADERS_READ_MAX_COUNT);
    assert!(deaths(headers).len() <= DEATHS_READ_MAX_COUNT);
    headers.values().for_each(|value| check_value(value, HEADERS_READ_MAX_DEPTH));
    let _any_number = delivery_count(headers);
    check_sent_on(&properties);
    let message = Message {
        exchange: "switchyard.events".to_owned(),
        routing_key: "switchyard.task.submitted.v1".to_owned(),
        redelivered: true,
        properties,
        headers_truncated: false,
        body: b"{}".to_vec(),
    };
    super::events::check_message(&message);
    for kept in [Kept::of_event(&message), Kept::of_other(&message)] {
        let json = kept.headers.map(|headers| headers.to_string()).unwrap_or_default();
        assert!(json.len() <= KEPT_HEADERS_MAX_BYTES, "{} bytes", json.len());
        assert!(!escapes_nul(&json), "NUL in JSON for PostgreSQL");
    }
    let _whatever_it_is_about = Arrival::of(&Namespace::default(), &message);
}

/// What is sent on is what was read: nothing is lost or changed in the library's form.
fn check_sent_on(properties: &Properties) {
    if Outgoing::new("e", "k", properties.clone(), Vec::new(), true).is_ok() {
        let back = there_and_back(properties);
        // NaN is not equal to itself.
        assert_eq!(format!("{back:?}"), format!("{properties:?}"));
    }
}

fn values(headers: &Headers) -> usize {
    headers.values().map(count).sum()
}

fn count(value: &HeaderValue) -> usize {
    1 + match value {
        HeaderValue::List(items) => items.iter().map(count).sum(),
        HeaderValue::Table(table) => values(table),
        HeaderValue::Null
        | HeaderValue::Bool(_)
        | HeaderValue::Int(_)
        | HeaderValue::Double(_)
        | HeaderValue::Text(_)
        | HeaderValue::Bytes(_)
        | HeaderValue::Timestamp(_) => 0,
    }
}

fn check_value(value: &HeaderValue, depth_left: usize) {
    assert!(depth_left > 0, "deeper than is read");
    match value {
        HeaderValue::Text(text) => assert!(text.len() <= HEADER_TEXT_READ_MAX_BYTES),
        HeaderValue::Bytes(bytes) => assert!(bytes.len() <= HEADER_TEXT_READ_MAX_BYTES),
        HeaderValue::List(items) => items.iter().for_each(|item| check_value(item, depth_left - 1)),
        HeaderValue::Table(table) => table.values().for_each(|item| check_value(item, depth_left - 1)),
        HeaderValue::Null
        | HeaderValue::Bool(_)
        | HeaderValue::Int(_)
        | HeaderValue::Double(_)
        | HeaderValue::Timestamp(_) => {}
    }
}
