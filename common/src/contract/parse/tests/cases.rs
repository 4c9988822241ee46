//! Each kind of bad input has its own problem, reason and advice.

use super::*;
use crate::contract::event::EventType;
use crate::contract::ids::IdError;
use crate::failure::FailureKind;

#[test]
fn what_is_not_json_is_malformed_and_the_place_is_named() {
    assert_eq!(problem_of(b""), EventProblem::NotJson { line: 1, column: 0 });
    assert_eq!(problem_of(b"{\n\"id\" 7}"), EventProblem::NotJson { line: 2, column: 6 });
    assert_eq!(problem_of(b"{} {}"), EventProblem::NotJson { line: 1, column: 4 });
    assert_eq!(problem_of(b"\"a"), EventProblem::NotJson { line: 1, column: 2 });
}

#[test]
fn what_is_not_utf_8_is_malformed_and_the_byte_is_named() {
    assert_eq!(problem_of(b"{\"id\": \"\xff\"}"), EventProblem::NotUtf8 { at: 8 });
}

#[test]
fn json_that_is_no_object_is_malformed() {
    for body in ["7", "null", "[]", "\"event\""] {
        assert_eq!(problem_of(body.as_bytes()), EventProblem::NotAnObject);
    }
}

#[test]
fn a_missing_empty_or_null_attribute_is_named() {
    for name in ["specversion", "id", "source", "type"] {
        for value in [Value::Null, json!("")] {
            let body = serde_json::to_vec(&with(event(SUBMITTED, task()), name, value)).unwrap();
            let problem = problem_of(&body);
            assert!(matches!(problem, EventProblem::AttributeMissing { name: named } if named == name));
            assert_eq!(problem.kind(), FailureKind::MalformedEvent);
        }
        let mut null = event(SUBMITTED, task());
        null[name] = Value::Null;
        let problem = problem_of(null.to_string().as_bytes());
        assert!(matches!(problem, EventProblem::AttributeMissing { name: named } if named == name));
    }
}

#[test]
fn an_attribute_that_is_no_text_is_named() {
    for name in ["specversion", "id", "source", "type", "time"] {
        let body = with(event(SUBMITTED, task()), name, json!(1.0)).to_string();
        let problem = problem_of(body.as_bytes());
        assert!(matches!(problem, EventProblem::AttributeNotText { name: named } if named == name));
    }
}

#[test]
fn another_version_of_cloudevents_is_refused() {
    let body = with(event(SUBMITTED, task()), "specversion", json!("0.3")).to_string();
    assert_eq!(problem_of(body.as_bytes()), EventProblem::SpecVersion);
}

#[test]
fn an_unknown_type_is_refused_with_the_list_of_known_ones() {
    let problem = problem_with("switchyard.task.destroyed.v1", task());
    assert_eq!(problem.kind(), FailureKind::UnknownType);
    for known in EventType::ALL {
        assert!(problem.what_to_do().contains(known.as_str()));
    }
}

#[test]
fn a_routing_key_other_than_the_type_is_refused_and_the_right_one_is_named() {
    let body = event(SUBMITTED, task()).to_string();
    let error = read("switchyard.task.approved.v1", body.as_bytes()).unwrap_err();
    assert!(error.what_to_do.contains(SUBMITTED));
    assert_eq!(*error.problem, EventProblem::RoutingKey { event_type: EventType::TaskSubmitted });
}

#[test]
fn an_event_without_data_or_with_data_of_another_form_is_refused() {
    let mut body = event(SUBMITTED, task());
    body["data"] = Value::Null;
    assert_eq!(problem_of(body.to_string().as_bytes()), EventProblem::DataMissing);
    let body = with(body, "data", Value::Null);
    assert_eq!(problem_of(body.to_string().as_bytes()), EventProblem::DataMissing);
    let body = with(body, "data_base64", json!("e30="));
    assert_eq!(problem_of(body.to_string().as_bytes()), EventProblem::DataBase64);
    assert_eq!(problem_with(SUBMITTED, json!([])), EventProblem::DataNotAnObject);
    assert_eq!(problem_with(SUBMITTED, json!("{}")), EventProblem::DataNotAnObject);
}

#[test]
fn a_missing_unknown_or_mistyped_field_is_named() {
    let missing = problem_with(SUBMITTED, with(task(), "kind", Value::Null));
    assert_eq!(missing, EventProblem::FieldMissing { field: "kind".into() });
    let unknown = problem_with(SUBMITTED, with(task(), "not_befor", json!("2027-01-01T00:00:00Z")));
    let event_type = EventType::TaskSubmitted;
    assert_eq!(unknown, EventProblem::FieldUnknown { field: "`not_befor`".into(), event_type });
    let mistyped = problem_with(SUBMITTED, with(task(), "auto_approve", json!("yes")));
    assert_eq!(
        mistyped,
        EventProblem::FieldType { field: "`auto_approve`".into(), expected: "a boolean".into() }
    );
    let registered = json!({ "workspace_id": "w", "pool": "p", "labels": { "team": 7 } });
    let nested = problem_with("switchyard.workspace.registered.v1", registered);
    assert_eq!(
        nested,
        EventProblem::FieldType { field: "`labels.team`".into(), expected: "a string".into() }
    );
}

#[test]
fn incident_65_a_missing_input_is_an_error_and_never_a_default() {
    for (event_type, data) in [
        (SUBMITTED, json!({ "workspace_id": "w", "kind": "plan" })),
        ("switchyard.workspace.registered.v1", json!({ "workspace_id": "w" })),
        ("switchyard.task.approved.v1", json!({ "task_id": "t" })),
        ("switchyard.task.discarded.v1", json!({ "task_id": "t" })),
        ("switchyard.task.cancel_requested.v1", json!({ "requested_by": "ann" })),
    ] {
        assert!(matches!(problem_with(event_type, data), EventProblem::FieldMissing { .. }), "{event_type}");
    }
}

#[test]
fn nul_in_a_text_or_a_key_is_refused_and_postgresql_is_named() {
    let escaped = with(task(), "payload", json!({ "a": "x\0y" }));
    assert_eq!(problem_with(SUBMITTED, escaped), EventProblem::Nul);
    assert_eq!(problem_with(SUBMITTED, with(task(), "payload", json!({ "a\0": 1 }))), EventProblem::Nul);
    assert_eq!(problem_with(SUBMITTED, with(task(), "workspace_id", json!("\0"))), EventProblem::Nul);
    assert_eq!(problem_of(b"{\"id\": \"\0\"}"), EventProblem::Nul);
    assert!(EventProblem::Nul.to_string().contains("PostgreSQL"));
}

#[test]
fn half_of_a_surrogate_pair_is_refused_and_a_whole_pair_is_read() {
    let body = |text: &str| {
        let event = event(SUBMITTED, with(task(), "payload", json!("TEXT"))).to_string();
        event.replace("TEXT", text)
    };
    for half in ["\\ud800", "\\udc00", "\\ud800x", "\\ud800\\n", "\\udc00\\ud800", "\\\\\\ud800"] {
        assert_eq!(problem_of(body(half).as_bytes()), EventProblem::LoneSurrogate, "{half}");
    }
    for whole in ["\\ud83d\\ude00", "\\\\ud800", "\\uD83D\\uDE00\\ud83d\\ude00"] {
        assert!(read(SUBMITTED, body(whole).as_bytes()).is_ok(), "{whole}");
    }
}

#[test]
fn a_key_that_occurs_twice_is_refused_at_any_depth() {
    let twice = EventProblem::DuplicateKey { key: "`a`".into() };
    let body = event(SUBMITTED, with(task(), "payload", json!("PAYLOAD"))).to_string();
    let nested = body.replace("\"PAYLOAD\"", "{\"x\": [{\"a\": 1, \"b\": 2, \"a\": 3}]}");
    assert_eq!(problem_of(nested.as_bytes()), twice);
    assert_eq!(problem_of(b"{\"a\": 1, \"\\u0061\": 2}"), twice);
}

#[test]
fn a_number_beyond_a_double_is_refused_and_the_largest_double_is_read() {
    let body = |number: &str| {
        event(SUBMITTED, with(task(), "payload", json!("N"))).to_string().replace("\"N\"", number)
    };
    for number in ["1e400", "-1e400", "[1, 2e9999]"] {
        assert_eq!(problem_of(body(number).as_bytes()), EventProblem::NumberOutOfRange, "{number}");
    }
    for number in
        ["1.7976931348623157e308", "1e-400", "18446744073709551615", "123456789012345678901234567890"]
    {
        assert!(read(SUBMITTED, body(number).as_bytes()).is_ok(), "{number}");
    }
}

#[test]
fn ids_that_break_their_rules_are_invalid_values() {
    for field in ["task_id", "workspace_id", "idempotency_key", "replay_of", "pool", "kind"] {
        for bad in [json!(""), json!("a\nb"), json!(" a"), json!("ü")] {
            let problem = problem_with(SUBMITTED, with(task(), field, bad));
            assert_eq!(problem.kind(), FailureKind::InvalidValue);
            assert!(matches!(problem, EventProblem::Id { field: named, .. } if named == field));
        }
    }
    let dotted = problem_with(SUBMITTED, with(task(), "pool", json!("a.b")));
    assert_eq!(dotted, EventProblem::Id { field: "pool", error: IdError::NotLabel });
    let approved = json!({ "task_id": "t", "approved_by": "ann", "artifact_digest": "sha256:12" });
    let digest = problem_with("switchyard.task.approved.v1", approved);
    assert_eq!(digest, EventProblem::Id { field: "artifact_digest", error: IdError::NotDigest });
}

#[test]
fn a_source_that_is_no_uri_reference_is_an_invalid_value() {
    for bad in ["a b", "ü", "a\nb"] {
        let body = with(event(SUBMITTED, task()), "source", json!(bad)).to_string();
        assert_eq!(problem_of(body.as_bytes()), EventProblem::Source);
    }
}

#[test]
fn priorities_outside_their_range_are_invalid_values() {
    for bad in [json!(99), json!(10), json!(-1), json!(1.5), json!(1e300)] {
        assert_eq!(problem_with(SUBMITTED, with(task(), "priority", bad)), EventProblem::Priority);
    }
    let text = problem_with(SUBMITTED, with(task(), "priority", json!("9")));
    let expected = "a whole number from 0 to 9".to_owned();
    assert_eq!(text, EventProblem::FieldType { field: "`priority`".to_owned(), expected });
}

#[test]
fn times_that_cannot_be_meant_are_invalid_values() {
    for field in ["not_before", "deadline"] {
        let far = problem_with(SUBMITTED, with(task(), field, json!("9999-12-31T23:59:59Z")));
        assert_eq!(far, EventProblem::TooFar { field });
        for bad in ["tomorrow", "2026-02-01", "2026-02-01T00:00:00", "2026-02-30T00:00:00Z", ""] {
            let problem = problem_with(SUBMITTED, with(task(), field, json!(bad)));
            assert_eq!(problem, EventProblem::Time { field }, "{bad}");
        }
    }
    let body = with(event(SUBMITTED, task()), "time", json!("yesterday")).to_string();
    assert_eq!(problem_of(body.as_bytes()), EventProblem::Time { field: "time" });
    let at = json!("2026-02-01T00:00:00Z");
    let backwards = with(with(task(), "not_before", at.clone()), "deadline", at);
    assert_eq!(problem_with(SUBMITTED, backwards), EventProblem::DeadlineBeforeStart);
}

#[test]
fn a_deadline_that_has_passed_is_accepted_so_that_a_late_copy_gets_the_same_answer() {
    accepts(SUBMITTED, with(task(), "deadline", json!("2026-01-31T11:59:59Z")));
}

#[test]
fn incident_62_times_with_any_zone_are_read_as_utc() {
    let parsed = accepts(SUBMITTED, with(task(), "not_before", json!("2026-02-01T02:00:00+02:00")));
    let EventData::TaskSubmitted(submitted) = parsed.data else { panic!("not a submission") };
    assert_eq!(submitted.not_before, Some("2026-02-01T00:00:00Z".parse().unwrap()));
}

#[test]
fn whoever_approves_discards_or_cancels_must_be_named() {
    for (event_type, field) in [
        ("switchyard.task.approved.v1", "approved_by"),
        ("switchyard.task.discarded.v1", "discarded_by"),
        ("switchyard.task.cancel_requested.v1", "requested_by"),
    ] {
        for bad in ["", "  ", "a\nb"] {
            let data = with(json!({ "task_id": "t" }), field, json!(bad));
            assert_eq!(problem_with(event_type, data), EventProblem::Person { field });
        }
        accepts(event_type, with(json!({ "task_id": "t" }), field, json!("Jürgen <j@example.org>")));
    }
}

#[test]
fn no_message_repeats_a_value_of_the_event() {
    const SECRET: &str = "hunter2 expected, expected `hunter2`";
    let fields =
        ["task_id", "workspace_id", "pool", "kind", "payload", "priority", "not_before", "auto_approve"];
    let wrapped = [json!(SECRET), json!([SECRET]), json!({ "password": SECRET })];
    for field in fields.into_iter().chain(["deadline", "idempotency_key", "replay_of", "unknown"]) {
        for value in &wrapped {
            let body = event(SUBMITTED, with(task(), field, value.clone())).to_string();
            if let Err(error) = read(SUBMITTED, body.as_bytes()) {
                assert!(!format!("{error:?} {error}").contains("hunter2"), "{field}: {error}");
            }
        }
    }
}

#[test]
fn names_from_the_event_are_cut_and_escaped_before_they_are_repeated() {
    let long = problem_with(SUBMITTED, with(task(), &"n".repeat(5_000), json!(1)));
    assert!(long.to_string().len() < 200, "{long}");
    let nasty = problem_with(SUBMITTED, with(task(), "a\n\u{1b}[31m", json!(1)));
    assert!(nasty.to_string().chars().all(|c| !c.is_control()), "{nasty}");
}
