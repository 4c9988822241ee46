//! Signs of life at their limits, and in the wrong order.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use uuid::Uuid;

use super::*;

fn heartbeat() -> Value {
    json!({ "epoch": 0, "body": {
        "type": "heartbeat", "session": Uuid::from_u128(1), "sequence": 1, "pod": "pod", "version": "1", "slots": 4, "credit": 4,
        "max_exclusive": 1, "handlers": ["plan"], "draining": false, "in_hand": [],
    } })
}

fn with(field: &str, value: Value) -> Result<Beat, Malformed> {
    let mut report = heartbeat();
    report["body"][field] = value;
    read_beat("heartbeat.default.worker-0", &serde_json::to_vec(&report).unwrap())
}

fn in_hand(count: usize) -> Value {
    let one = |n: usize| json!({ "task_id": format!("t{n}"), "attempt": 1, "session": Uuid::nil(), "running": true });
    (0..count).map(one).collect()
}

#[test]
fn a_heartbeat_is_read_and_its_sender_is_in_the_routing_key() {
    let beat = with("sequence", json!(7)).unwrap();
    assert_eq!((beat.agent.to_string(), beat.presence.sequence), ("default/worker-0".to_owned(), 7));
    let body = serde_json::to_vec(&heartbeat()).unwrap();
    assert!(read_beat("hello.default.worker-0", &body).is_err(), "the body says heartbeat");
    assert!(read_beat("canary.some-replica", &body).is_err());
}

#[test]
fn numbers_are_accepted_at_their_limits_and_refused_one_over() {
    for field in ["slots", "credit", "max_exclusive"] {
        assert!(with(field, json!(SLOTS_MAX_COUNT)).is_ok(), "{field}");
        assert!(with(field, json!(SLOTS_MAX_COUNT + 1)).is_err(), "{field}");
        assert!(with(field, json!(-1)).is_err(), "{field}");
    }
    assert!(with("slots", json!(0)).is_err());
    assert!(with("credit", json!(0)).is_ok());
    assert!(with("sequence", json!(i64::MAX)).is_ok());
    assert!(with("sequence", json!(u64::MAX)).is_err());
}

#[test]
fn lists_are_accepted_at_their_limits_and_refused_one_over() {
    let handlers = |count: usize| json!((0..count).map(|n| format!("h{n}")).collect::<BTreeSet<_>>());
    assert!(with("handlers", handlers(HANDLERS_MAX_COUNT)).is_ok());
    assert!(with("handlers", handlers(HANDLERS_MAX_COUNT + 1)).is_err());
    assert!(with("in_hand", in_hand(IN_HAND_MAX_COUNT)).is_ok());
    assert!(with("in_hand", in_hand(IN_HAND_MAX_COUNT + 1)).is_err());
}

#[test]
fn names_are_cut_to_what_is_kept() {
    assert_eq!(with("pod", json!("p".repeat(NAME_MAX_CHARS))).unwrap().presence.pod.len(), NAME_MAX_CHARS);
    let cut = with("pod", json!("p\0".repeat(NAME_MAX_CHARS))).unwrap().presence.pod;
    assert!(cut.chars().count() == NAME_MAX_CHARS && !cut.contains('\0'));
}

#[test]
fn the_newest_sign_of_each_session_is_kept_whatever_order_they_came_in() {
    let beat = |session: u128, sequence: u64| {
        let mut beat = with("sequence", json!(sequence)).unwrap();
        beat.presence.session = SessionId(Uuid::from_u128(session));
        beat
    };
    let kept = newest(vec![beat(1, 5), beat(2, 1), beat(1, 7), beat(1, 6)]);
    let found: Vec<_> = kept.iter().map(|b| (b.presence.session.0.as_u128(), b.presence.sequence)).collect();
    assert_eq!(found, [(1, 7), (2, 1)]);
}
