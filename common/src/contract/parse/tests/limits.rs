//! Each limit holds exactly: accepted at it, refused one over.

use super::*;
use crate::contract::limits::{
    COMMENT_MAX_CHARS, EVENT_DEPTH_MAX_LEVELS, FUTURE_MAX_DAYS, ID_MAX_CHARS, LABEL_KEY_MAX_CHARS,
    LABEL_VALUE_MAX_CHARS, LABELS_MAX_COUNT, PERSON_MAX_CHARS, PRIORITY_MAX,
};
use crate::failure::FailureKind;

#[test]
fn the_body_may_have_one_mebibyte() {
    let bare = event(SUBMITTED, with(task(), "payload", json!(""))).to_string();
    let body = |bytes: usize| {
        let payload = "x".repeat(bytes - bare.len());
        event(SUBMITTED, with(task(), "payload", json!(payload))).to_string()
    };
    assert_eq!(body(EVENT_BODY_MAX_BYTES).len(), EVENT_BODY_MAX_BYTES);
    assert!(read(SUBMITTED, body(EVENT_BODY_MAX_BYTES).as_bytes()).is_ok());
    let problem = problem_of(body(EVENT_BODY_MAX_BYTES + 1).as_bytes());
    assert_eq!(problem, EventProblem::Oversized { bytes: EVENT_BODY_MAX_BYTES + 1 });
    assert_eq!(problem.kind(), FailureKind::OversizedEvent);
    assert!(problem.to_string().contains("1048576"));
}

#[test]
fn numbers_that_take_a_megabyte_when_they_are_written_out_are_refused() {
    let body = |number: &str, count: usize| {
        let list = format!("[{}]", vec![number; count].join(","));
        event(SUBMITTED, with(task(), "payload", json!("P"))).to_string().replace("\"P\"", &list)
    };
    // Each is a hundred bytes or more in jsonb, and five or six here; a few are nobody's harm.
    for number in ["1e300", "1e-99"] {
        assert!(read(SUBMITTED, body(number, 100).as_bytes()).is_ok());
        let problem = problem_of(body(number, 20_000).as_bytes());
        assert!(matches!(problem, EventProblem::WrittenOut { .. }), "{number}: {problem}");
        assert_eq!(problem.kind(), FailureKind::OversizedEvent);
    }
    // serde_json itself writes this one with eighteen bytes.
    assert!(matches!(problem_of(body("1e15", 100_000).as_bytes()), EventProblem::WrittenOut { .. }));
}

#[test]
fn nesting_is_accepted_at_the_limit_and_refused_one_level_over() {
    // The event and its data are two levels.
    let nested = |levels: usize| {
        let payload = "[".repeat(levels - 2) + &"]".repeat(levels - 2);
        event(SUBMITTED, with(task(), "payload", json!("P"))).to_string().replace("\"P\"", &payload)
    };
    assert!(read(SUBMITTED, nested(EVENT_DEPTH_MAX_LEVELS).as_bytes()).is_ok());
    assert_eq!(problem_of(nested(EVENT_DEPTH_MAX_LEVELS + 1).as_bytes()), EventProblem::TooDeep);
    assert_eq!(problem_of(nested(10_000).as_bytes()), EventProblem::TooDeep);
    // Half a million open brackets and nothing else.
    assert_eq!(problem_of(&vec![b'['; EVENT_BODY_MAX_BYTES]), EventProblem::TooDeep);
}

#[test]
fn brackets_inside_texts_do_not_count_as_nesting() {
    let payload = json!("[{".repeat(1_000) + "\"\\");
    accepts(SUBMITTED, with(task(), "payload", payload));
}

#[test]
fn event_ids_and_keys_may_have_128_characters() {
    let with_id = |chars: usize| with(event(SUBMITTED, task()), "id", json!("i".repeat(chars))).to_string();
    assert!(read(SUBMITTED, with_id(ID_MAX_CHARS).as_bytes()).is_ok());
    let over = problem_of(with_id(ID_MAX_CHARS + 1).as_bytes());
    assert!(matches!(over, EventProblem::Id { field: "id", .. }));
    for field in ["task_id", "workspace_id", "idempotency_key", "replay_of"] {
        accepts(SUBMITTED, with(task(), field, json!("i".repeat(ID_MAX_CHARS))));
        let over = problem_with(SUBMITTED, with(task(), field, json!("i".repeat(ID_MAX_CHARS + 1))));
        assert!(matches!(over, EventProblem::Id { field: named, .. } if named == field));
        assert!(over.to_string().contains("at most 128"), "{over}");
    }
}

#[test]
fn the_source_may_have_512_characters() {
    let with_source =
        |chars: usize| with(event(SUBMITTED, task()), "source", json!("s".repeat(chars))).to_string();
    assert!(read(SUBMITTED, with_source(SOURCE_MAX_CHARS).as_bytes()).is_ok());
    assert_eq!(problem_of(with_source(SOURCE_MAX_CHARS + 1).as_bytes()), EventProblem::Source);
}

#[test]
fn priority_nine_is_the_highest() {
    for priority in 0..=PRIORITY_MAX {
        accepts(SUBMITTED, with(task(), "priority", json!(priority)));
    }
    let over = with(task(), "priority", json!(PRIORITY_MAX + 1));
    assert_eq!(problem_with(SUBMITTED, over), EventProblem::Priority);
}

#[test]
fn times_may_lie_ten_years_ahead() {
    let horizon = now() + chrono::TimeDelta::days(FUTURE_MAX_DAYS);
    for field in ["not_before", "deadline"] {
        accepts(SUBMITTED, with(task(), field, json!(horizon.to_rfc3339())));
        let over = horizon + chrono::TimeDelta::milliseconds(1);
        let problem = problem_with(SUBMITTED, with(task(), field, json!(over.to_rfc3339())));
        assert_eq!(problem, EventProblem::TooFar { field });
    }
}

#[test]
fn comments_and_names_are_bounded_in_characters() {
    let approved = "switchyard.task.approved.v1";
    let data = |by: usize, comment: usize| json!({ "task_id": "t", "approved_by": "ü".repeat(by), "comment": "ü".repeat(comment) });
    accepts(approved, data(PERSON_MAX_CHARS, COMMENT_MAX_CHARS));
    let comment = problem_with(approved, data(1, COMMENT_MAX_CHARS + 1));
    assert_eq!(comment, EventProblem::Comment { chars: COMMENT_MAX_CHARS + 1 });
    let person = problem_with(approved, data(PERSON_MAX_CHARS + 1, 1));
    assert_eq!(person, EventProblem::Person { field: "approved_by" });
}

#[test]
fn labels_are_bounded_in_number_and_length() {
    let registered = "switchyard.workspace.registered.v1";
    let data = |count: usize, key: usize, value: usize| {
        let entry = |n: usize| (format!("{n:0key$}"), json!("v".repeat(value)));
        let labels: Map<String, Value> = (1..=count).map(entry).collect();
        json!({ "workspace_id": "w", "pool": "p", "labels": labels })
    };
    accepts(registered, data(LABELS_MAX_COUNT, LABEL_KEY_MAX_CHARS, LABEL_VALUE_MAX_CHARS));
    let many = problem_with(registered, data(LABELS_MAX_COUNT + 1, 3, 1));
    assert_eq!(many, EventProblem::Labels { count: LABELS_MAX_COUNT + 1 });
    assert_eq!(problem_with(registered, data(1, LABEL_KEY_MAX_CHARS + 1, 1)), EventProblem::Label);
    assert_eq!(problem_with(registered, data(1, 1, LABEL_VALUE_MAX_CHARS + 1)), EventProblem::Label);
    let unnamed = json!({ "workspace_id": "w", "pool": "p", "labels": { "": "v" } });
    assert_eq!(problem_with(registered, unnamed), EventProblem::Label);
}
