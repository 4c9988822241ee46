//! Structured and binary mode, content types, and what makes two copies the same event.

use super::*;

fn parse(
    content_type: Option<&str>,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<ParsedEvent, EventError> {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    parse_event(SUBMITTED, content_type, &headers, body.as_bytes(), now())
}

/// The attributes of a submission as headers.
fn headers(prefix: &str) -> Vec<(String, String)> {
    [("specversion", "1.0"), ("id", "e-1"), ("source", "/tests"), ("type", SUBMITTED)]
        .map(|(name, value)| (format!("{prefix}{name}"), value.to_owned()))
        .to_vec()
}

fn as_refs(headers: &[(String, String)]) -> Vec<(&str, &str)> {
    headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

#[test]
fn a_structured_event_is_read_under_any_content_type_of_json_or_none() {
    let body = event(SUBMITTED, task()).to_string();
    let types = [
        None,
        Some(""),
        Some("application/cloudevents+json"),
        Some("Application/CloudEvents+JSON; charset=utf-8"),
        Some("application/json"),
        Some("application/vnd.acme+json"),
    ];
    for content_type in types {
        assert!(parse(content_type, &[], &body).is_ok(), "{content_type:?}");
    }
}

#[test]
fn a_content_type_that_is_not_json_or_a_batch_is_refused() {
    let body = event(SUBMITTED, task()).to_string();
    for content_type in ["text/plain", "application/avro", "application/cloudevents-batch+json", "???"] {
        let error = parse(Some(content_type), &[], &body).unwrap_err();
        assert_eq!(*error.problem, EventProblem::ContentType, "{content_type}");
    }
}

#[test]
fn a_binary_event_is_read_with_either_prefix_and_equals_its_structured_copy() {
    let structured = parse(None, &[], &event(SUBMITTED, task()).to_string()).unwrap();
    for prefix in ["cloudEvents:", "cloudEvents_"] {
        let headers = headers(prefix);
        let binary = parse(Some("application/json"), &as_refs(&headers), &task().to_string()).unwrap();
        assert_eq!(binary, structured);
    }
}

#[test]
fn a_binary_event_without_an_attribute_is_refused_by_its_name() {
    for missing in ["id", "source"] {
        let mut headers = headers("cloudEvents:");
        headers.retain(|(name, _)| !name.ends_with(missing));
        let error = parse(None, &as_refs(&headers), &task().to_string()).unwrap_err();
        assert_eq!(*error.problem, EventProblem::AttributeMissing { name: missing });
    }
}

#[test]
fn the_content_type_decides_when_a_structured_event_also_has_attributes_in_headers() {
    let mut headers = headers("cloudEvents:");
    headers.iter_mut().filter(|(name, _)| name.ends_with(":id")).for_each(|(_, id)| *id = "other".into());
    let body = event(SUBMITTED, task()).to_string();
    let parsed = parse(Some("application/cloudevents+json"), &as_refs(&headers), &body).unwrap();
    assert_eq!(parsed.id, "e-1");
}

#[test]
fn extension_attributes_and_a_null_time_are_carried_without_being_read() {
    let mut body = event(SUBMITTED, task());
    body["partitionkey"] = json!("ws-1");
    body["time"] = Value::Null;
    assert_eq!(parse(None, &[], &body.to_string()).unwrap().time, None);
}

#[test]
fn the_trace_context_of_the_newest_hop_wins_and_a_broken_one_is_dropped() {
    let first = format!("00-{}-{}-01", "a".repeat(32), "b".repeat(16));
    let second = format!("00-{}-{}-00", "c".repeat(32), "d".repeat(16));
    let body = with(event(SUBMITTED, task()), "traceparent", json!(first)).to_string();
    let traced = |headers: &[(&str, &str)]| parse(None, headers, &body).unwrap().traceparent;
    assert_eq!(traced(&[]), Some(first.clone()));
    assert_eq!(traced(&[("traceparent", &second)]), Some(second));
    assert_eq!(traced(&[("traceparent", "00-nonsense")]), Some(first));
    let broken = with(event(SUBMITTED, task()), "traceparent", json!("x")).to_string();
    assert_eq!(parse(None, &[], &broken).unwrap().traceparent, None);
}

#[test]
fn forged_x_death_headers_are_not_read() {
    let body = event(SUBMITTED, task()).to_string();
    let plain = parse(None, &[], &body).unwrap();
    assert_eq!(parse(None, &[("x-death", "[{\"count\": 41}]")], &body).unwrap(), plain);
}

#[test]
fn the_hash_is_of_the_content_and_not_of_its_notation() {
    let hash = |body: &str| parse(None, &[], body).unwrap().body_hash;
    let one = hash(&event(SUBMITTED, task()).to_string());
    let reordered = format!(
        "{{ \"data\": {{\"payload\": {{\"folder\": \"prod\"}}, \"kind\": \"pl\\u0061n\", \"workspace_id\": \"ws-1\"}},
            \"time\": \"2026-01-01T00:00:00Z\", \"type\": \"{SUBMITTED}\", \"source\": \"/tests\", \"id\": \"e-1\",
            \"specversion\": \"1.0\" }}"
    );
    assert_eq!(hash(&reordered), one);
    let other = event(SUBMITTED, with(task(), "payload", json!({ "folder": "test" }))).to_string();
    assert_ne!(hash(&other), one);
}

#[test]
fn the_hash_tells_apart_what_only_looks_alike() {
    let payloads = [
        json!({ "a": 1 }),
        json!({ "a": "1" }),
        json!({ "a": [1] }),
        json!([{ "a": 1 }]),
        json!({ "a": null }),
        json!({}),
        json!([]),
        json!(""),
        json!({ "a": 1, "b": 2 }),
        json!({ "a": { "b": 2 } }),
        json!(["1,2"]),
        json!(["1", "2"]),
    ];
    let hashes: std::collections::BTreeSet<_> =
        payloads.iter().map(|payload| accepts(SUBMITTED, with_payload(payload)).body_hash).collect();
    assert_eq!(hashes.len(), payloads.len());
}

fn with_payload(payload: &Value) -> Value {
    json!({ "workspace_id": "w", "kind": "plan", "payload": payload })
}
