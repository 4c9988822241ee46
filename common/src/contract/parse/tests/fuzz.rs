//! No bytes at all can do worse than be rejected, with a reason and advice.

use proptest::prelude::*;

use super::*;
use crate::contract::event::EventType;

/// One valid event of each type.
fn valid(event_type: EventType) -> Value {
    let data = match event_type {
        EventType::WorkspaceRegistered => {
            json!({ "workspace_id": "w", "pool": "p", "labels": { "team": "infra" } })
        }
        EventType::TaskSubmitted => json!({
            "task_id": "t", "workspace_id": "w", "pool": "p", "kind": "plan", "payload": { "a": [1, 2.5, null, true] },
            "priority": 3, "not_before": "2026-02-01T00:00:00Z", "deadline": "2026-02-02T00:00:00Z",
            "auto_approve": false, "idempotency_key": "k", "replay_of": "t-0",
        }),
        EventType::TaskApproved => json!({ "task_id": "t", "approved_by": "ann", "comment": "ok" }),
        EventType::TaskDiscarded => json!({ "task_id": "t", "discarded_by": "ann" }),
        EventType::TaskCancelRequested => json!({ "task_id": "t", "requested_by": "ann", "force": true }),
    };
    event(event_type.as_str(), data)
}

/// Bytes that are JSON often enough to get past the first check.
fn json_like() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\\u0000",
        "\\ud800",
        "\\udc00",
        "1e400",
        "null",
        "true",
        "-1",
        "\"id\"",
        "\"data\"",
        "\"specversion\":\"1.0\"",
        "\"type\":\"switchyard.task.submitted.v1\"",
        "é",
        "\0",
    ]);
    prop::collection::vec(words, 0..60).prop_map(|words| words.concat().into_bytes())
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        ".{0,20}".prop_map(Value::from),
        "[a-z0-9]{100,200}".prop_map(Value::from),
        Just(json!("9999-12-31T23:59:59Z")),
    ]
}

fn any_value() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(".{0,8}", inner, 0..6)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

/// Puts `value` at a place of `target` that `path` leads to.
fn graft(target: &mut Value, path: &[usize], value: Value) {
    let Some((first, rest)) = path.split_first() else { return *target = value };
    match target {
        Value::Object(object) if !object.is_empty() => {
            let key = object.keys().nth(first % object.len()).cloned().unwrap();
            graft(&mut object[&key], rest, value);
        }
        Value::Array(items) if !items.is_empty() => {
            let at = first % items.len();
            graft(&mut items[at], rest, value);
        }
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => {
            *target = value;
        }
    }
}

fn any_event() -> impl Strategy<Value = EventType> {
    prop::sample::select(EventType::ALL.to_vec())
}

/// What must hold whatever comes in.
fn check(key: &str, content_type: Option<&str>, headers: &BTreeMap<String, String>, body: &[u8]) {
    match parse_event(key, content_type, headers, body, now()) {
        Ok(parsed) => {
            assert_eq!(parsed.data.event_type(), parsed.event_type);
            assert!(!parsed.id.is_empty() && !parsed.source.is_empty());
            let again = parsed.data.to_value().unwrap();
            assert!(!again.to_string().contains("\\u0000"), "NUL got through");
        }
        Err(error) => {
            assert!(!error.message.is_empty() && !error.what_to_do.is_empty());
            assert!(error.message.chars().count() < 400, "{}", error.message);
            assert!(!error.message.chars().any(char::is_control), "{:?}", error.message);
        }
    }
}

#[test]
fn the_valid_events_are_valid() {
    for event_type in EventType::ALL {
        let parsed = read(event_type.as_str(), valid(event_type).to_string().as_bytes());
        assert_eq!(parsed.unwrap().event_type, event_type);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_or_rejected(body in prop::collection::vec(any::<u8>(), 0..300)) {
        check(SUBMITTED, None, &BTreeMap::new(), &body);
    }

    #[test]
    fn bytes_that_look_like_json_are_read_or_rejected(body in json_like()) {
        check(SUBMITTED, None, &BTreeMap::new(), &body);
    }

    #[test]
    fn any_key_content_type_and_headers_are_read_or_rejected(
        key in ".{0,30}",
        content_type in prop::option::of(".{0,40}"),
        attributes in prop::collection::btree_map("(specversion|id|source|type|time|traceparent)", ".{0,40}", 0..6),
        body in any_value(),
    ) {
        let headers = attributes.into_iter().map(|(name, value)| (format!("cloudEvents:{name}"), value)).collect();
        check(&key, content_type.as_deref(), &headers, body.to_string().as_bytes());
        check(SUBMITTED, Some("application/json"), &headers, body.to_string().as_bytes());
    }

    #[test]
    fn a_valid_event_with_any_value_anywhere_is_read_or_rejected(
        event_type in any_event(),
        path in prop::collection::vec(0..12_usize, 0..5),
        value in any_value(),
    ) {
        let mut body = valid(event_type);
        graft(&mut body, &path, value);
        check(event_type.as_str(), None, &BTreeMap::new(), body.to_string().as_bytes());
    }

    #[test]
    fn a_valid_event_with_any_byte_changed_cut_or_doubled_is_read_or_rejected(
        event_type in any_event(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        how in 0..3_u8,
    ) {
        let mut body = valid(event_type).to_string().into_bytes();
        let at = at.index(body.len());
        match how {
            0 => body[at] = byte,
            1 => body.truncate(at),
            _ => body.insert(at, byte),
        }
        check(event_type.as_str(), None, &BTreeMap::new(), &body);
    }

    #[test]
    fn any_payload_that_is_accepted_comes_out_as_it_went_in(payload in any_value()) {
        let data = json!({ "workspace_id": "w", "kind": "plan", "payload": payload });
        let body = event(SUBMITTED, data).to_string();
        if let Ok(parsed) = read(SUBMITTED, body.as_bytes()) {
            let EventData::TaskSubmitted(submitted) = parsed.data else { panic!("not a submission") };
            prop_assert_eq!(submitted.payload, payload);
        }
    }
}
