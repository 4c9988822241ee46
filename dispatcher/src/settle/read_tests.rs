//! Reports as agents send them, and as nobody should.

use serde_json::json;
use switchyard_common::contract::artifact::ArtifactPart;
use switchyard_common::contract::limits::JSON_DEPTH_MAX_LEVELS;
use uuid::Uuid;

use super::*;

const OUTCOMES: [ReportKind; 2] = [ReportKind::Outcome, ReportKind::Artifact];
const KEY: &str = "outcome.default.worker-0";

fn claim() -> Value {
    json!({ "task_id": "t", "attempt": 1, "session": Uuid::nil(), "lease": Uuid::nil() })
}

fn outcome(end: Value) -> Value {
    let outcome = json!({ "claim": claim(), "ended_at": "2026-01-01T00:00:00Z", "log_lines": 0, "end": end });
    json!({ "epoch": 1, "body": { "type": "outcome", "outcomes": [outcome] } })
}

fn succeeded(result: Value) -> Value {
    outcome(json!({ "outcome": "succeeded", "changes": true, "artifacts": [], "result": result }))
}

fn bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

fn read_result(result: Value) -> Value {
    let heard = read(KEY, &bytes(&succeeded(result)), &OUTCOMES).unwrap();
    let ReportBody::Outcome(mut batch) = heard.body else { panic!("not an outcome") };
    let OutcomeEnd::Succeeded { result, .. } = batch.outcomes.remove(0).end else { panic!("not succeeded") };
    result.unwrap()
}

fn part(name: &str, part: u32, size: usize) -> Vec<u8> {
    let part = ArtifactPart { name: name.to_owned(), part, bytes: vec![7; size] };
    bytes(&json!({ "epoch": 1, "body": { "type": "artifact", "claim": claim(), "part": part } }))
}

fn log(lines: usize, first: u64, text: &str) -> Vec<u8> {
    let lines: Vec<Value> = (0..lines)
        .map(|n| json!({ "sequence": first + n as u64, "at": "2026-01-01T00:00:00Z", "stream": "stdout", "text": text }))
        .collect();
    bytes(&json!({ "epoch": 1, "body": { "type": "log", "claim": claim(), "lines": lines } }))
}

#[test]
fn incident_64_the_sender_is_who_the_routing_key_says_whatever_the_body_says() {
    let heard = read(KEY, &bytes(&succeeded(json!(1))), &OUTCOMES).unwrap();
    assert_eq!(heard.sender.to_string(), "default/worker-0");
    let forged =
        bytes(&json!({ "epoch": 1, "agent": "other", "body": { "type": "outcome", "outcomes": [] } }));
    assert!(read(KEY, &forged, &OUTCOMES).is_err(), "a body cannot name a sender at all");
}

#[test]
fn a_body_of_another_type_than_its_routing_key_is_refused() {
    let error = read("artifact.default.worker-0", &bytes(&succeeded(json!(1))), &OUTCOMES).unwrap_err();
    assert!(error.to_string().contains("the body says outcome"), "{error}");
    assert!(read("log.default.worker-0", &log(1, 1, "x"), &OUTCOMES).is_err());
    assert!(read("outcome.default", &bytes(&succeeded(json!(1))), &OUTCOMES).is_err());
}

#[test]
fn bytes_that_are_no_report_are_refused_with_a_bounded_complaint() {
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let nested = format!(r#"{{"epoch":1,"body":{{"type":"outcome","outcomes":{deep}}}}}"#);
    let long_name = format!(r#"{{"epoch":1,"{}":2}}"#, "x".repeat(100_000));
    for bad in [
        b"".as_slice(),
        b"not json",
        b"\xff\xfe",
        b"{}",
        b"null",
        deep.as_bytes(),
        nested.as_bytes(),
        long_name.as_bytes(),
    ] {
        let error = read(KEY, bad, &OUTCOMES).unwrap_err();
        assert!(error.0.chars().count() <= COMPLAINT_MAX_CHARS, "{}", error.0.len());
    }
}

#[test]
fn a_result_nested_to_the_limit_of_the_parser_is_refused_not_overflowed() {
    let mut result = json!(1);
    for _ in 0..JSON_DEPTH_MAX_LEVELS {
        result = json!([result]);
    }
    assert!(read(KEY, &bytes(&succeeded(result)), &OUTCOMES).is_err());
}

#[test]
fn a_report_at_the_size_limit_is_read_and_one_byte_over_is_refused() {
    let mut at_limit = bytes(&succeeded(json!(1)));
    at_limit.resize(BROKER_MESSAGE_MAX_BYTES, b' ');
    assert!(read(KEY, &at_limit, &OUTCOMES).is_ok());
    at_limit.push(b' ');
    assert!(read(KEY, &at_limit, &OUTCOMES).is_err());
}

#[test]
fn incident_14_a_missing_required_field_is_an_error_never_a_default() {
    for field in ["claim", "ended_at", "log_lines", "end"] {
        let mut report = succeeded(json!(1));
        report["body"]["outcomes"][0].as_object_mut().unwrap().remove(field);
        assert!(read(KEY, &bytes(&report), &OUTCOMES).is_err(), "{field} was not missed");
    }
}

#[test]
fn a_result_at_the_limit_is_kept_and_one_over_is_left_out_without_failing_the_outcome() {
    let quotes = 2;
    let at_limit = json!("x".repeat(RESULT_MAX_BYTES - quotes));
    assert_eq!(read_result(at_limit.clone()), at_limit);
    let left_out = read_result(json!("x".repeat(RESULT_MAX_BYTES - quotes + 1)));
    assert!(left_out.as_str().unwrap().starts_with("left out"), "{left_out}");
}

#[test]
fn nul_in_a_result_is_replaced_because_postgresql_refuses_it() {
    let cleaned = read_result(json!({ "a\0": ["b\0c", { "d": "\0" }], "n": 1 }));
    assert_eq!(cleaned, json!({ "a\u{fffd}": ["b\u{fffd}c", { "d": "\u{fffd}" }], "n": 1 }));
}

#[test]
fn an_artifact_part_is_read_up_to_its_limits() {
    let read_part = |bytes: Vec<u8>| read("artifact.default.worker-0", &bytes, &OUTCOMES);
    assert!(read_part(part("plan", 0, ARTIFACT_PART_MAX_BYTES)).is_ok());
    assert!(read_part(part("plan", 0, ARTIFACT_PART_MAX_BYTES + 1)).is_err());
    assert!(read_part(part("plan", 0, 0)).is_err());
    let parts = part_count(ARTIFACTS_TOTAL_MAX_BYTES as u64);
    assert!(read_part(part("plan", parts - 1, 1)).is_ok());
    assert!(read_part(part("plan", parts, 1)).is_err());
    assert!(read_part(part("../plan", 0, 1)).is_err());
}

#[test]
fn log_lines_are_read_up_to_their_limits_and_long_ones_are_cut() {
    let read_log = |bytes: Vec<u8>| read("log.default.worker-0", &bytes, &[ReportKind::Log]);
    assert!(read_log(log(LOG_REPORT_MAX_LINES, 1, "x")).is_ok());
    assert!(read_log(log(LOG_REPORT_MAX_LINES + 1, 1, "x")).is_err());
    assert!(read_log(log(1, 0, "x")).is_err());
    let ReportBody::Log(lines) = read_log(log(1, 1, &"é\0".repeat(LOG_LINE_MAX_CHARS))).unwrap().body else {
        panic!("not a log")
    };
    assert_eq!(lines.lines[0].text.chars().count(), LOG_LINE_MAX_CHARS);
    assert!(!lines.lines[0].text.contains('\0'));
}

#[test]
fn times_that_postgresql_cannot_store_are_left_out() {
    assert!(usable_time("2026-01-01T00:00:00Z".parse().unwrap()).is_some());
    assert_eq!(usable_time(DateTime::<Utc>::MAX_UTC), None);
    assert_eq!(usable_time(DateTime::<Utc>::MIN_UTC), None);
}
