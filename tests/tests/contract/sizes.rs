//! Whatever the limits allow fits into one message of the broker, and survives the depth that serde_json reads.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use switchyard_common::contract::artifact::ArtifactPart;
use switchyard_common::contract::assignment::AgentMessage;
use switchyard_common::contract::control::Control;
use switchyard_common::contract::event::EventData;
use switchyard_common::contract::limits::{
    ARTIFACT_NAME_MAX_BYTES, ARTIFACT_PART_MAX_BYTES, ARTIFACTS_MAX_COUNT, BACKTRACE_MAX_CHARS,
    BROKER_MESSAGE_MAX_BYTES, EVENT_BODY_MAX_BYTES, EVENT_DEPTH_MAX_LEVELS, FAILURE_MESSAGE_MAX_CHARS,
    ID_MAX_CHARS, LOG_LINE_MAX_CHARS, LOG_TAIL_MAX_LINES, SLOTS_MAX_COUNT,
};
use switchyard_common::contract::parse::parse_event;
use switchyard_common::contract::report::Report;
use switchyard_common::failure::FailureKind;

use super::reading::reads;
use super::samples::{self, Sample, all};

fn sample(name: &str) -> Sample {
    all().into_iter().find(|sample| sample.name.starts_with(name)).unwrap()
}

fn bytes(value: &Value) -> usize {
    serde_json::to_vec(value).unwrap().len()
}

#[test]
fn the_largest_artifact_part_fits_into_one_message() {
    let part = ArtifactPart {
        name: "\u{1}".repeat(ARTIFACT_NAME_MAX_BYTES),
        part: u32::MAX,
        bytes: vec![7; ARTIFACT_PART_MAX_BYTES],
    };
    let part = serde_json::to_value(part).unwrap();
    let mut input = sample("input_part");
    input.value["part"] = part.clone();
    let mut left = sample("artifact");
    left.value["body"]["part"] = part;
    for message in [input, left] {
        assert!(bytes(&message.value) <= BROKER_MESSAGE_MAX_BYTES, "{}", message.name);
        assert!(reads(&message.file, &message.value));
    }
}

#[test]
fn the_largest_payload_and_manifest_fit_into_one_assignment() {
    let mut assignment = sample("assignment");
    let entry = &assignment.value["inputs"][0];
    let named = |n: usize| {
        let mut entry = entry.clone();
        entry["name"] = json!(format!("{n:0ARTIFACT_NAME_MAX_BYTES$}"));
        entry
    };
    let inputs: Vec<Value> = (0..ARTIFACTS_MAX_COUNT).map(named).collect();
    assignment.value["inputs"] = inputs.into();
    // The text of the payload is the whole event but for a few hundred bytes.
    assignment.value["payload"] = json!("x".repeat(EVENT_BODY_MAX_BYTES));
    let half = BROKER_MESSAGE_MAX_BYTES / 4;
    assert!(bytes(&assignment.value) + half <= BROKER_MESSAGE_MAX_BYTES, "no room for parameters");
    assert!(reads(&assignment.file, &assignment.value));
}

#[test]
fn the_largest_failure_fits_into_one_message_even_when_every_character_is_escaped() {
    let mut worst = samples::failure(FailureKind::HandlerPanicked);
    worst.message = "\u{1}".repeat(FAILURE_MESSAGE_MAX_CHARS + 1);
    worst.location = Some("\u{1}".repeat(FAILURE_MESSAGE_MAX_CHARS + 1));
    worst.backtrace = Some("\u{1}".repeat(BACKTRACE_MAX_CHARS + 1));
    worst.log_tail = vec!["\u{1}".repeat(LOG_LINE_MAX_CHARS + 1); LOG_TAIL_MAX_LINES + 1];
    let mut outcome = sample("outcome");
    outcome.value["body"]["outcomes"][0]["end"] =
        json!({ "outcome": "panicked", "failure": worst.bounded() });
    assert!(bytes(&outcome.value) <= BROKER_MESSAGE_MAX_BYTES, "{} bytes", bytes(&outcome.value));
    assert!(reads(&outcome.file, &outcome.value));
}

#[test]
fn a_heartbeat_of_the_busiest_agent_fits_into_one_message() {
    let mut heartbeat = sample("heartbeat");
    let mut listed = heartbeat.value["body"]["in_hand"][0].clone();
    listed["task_id"] = json!("t".repeat(ID_MAX_CHARS));
    listed["attempt"] = json!(u32::MAX);
    // Slots and credit.
    heartbeat.value["body"]["in_hand"] = vec![listed; 2 * SLOTS_MAX_COUNT as usize].into();
    assert!(bytes(&heartbeat.value) <= BROKER_MESSAGE_MAX_BYTES, "{} bytes", bytes(&heartbeat.value));
    assert!(reads(&heartbeat.file, &heartbeat.value));
}

#[test]
fn a_payload_at_the_depth_limit_of_events_can_still_be_read_inside_an_assignment() {
    // The event and its data are two levels.
    let levels = EVENT_DEPTH_MAX_LEVELS - 2;
    let deep: Value = serde_json::from_str(&("[".repeat(levels) + &"]".repeat(levels))).unwrap();
    let mut event = sample("switchyard.task.submitted.v1");
    event.value["data"]["payload"] = deep;
    let body = serde_json::to_vec(&event.value).unwrap();
    let parsed =
        parse_event("switchyard.task.submitted.v1", None, &BTreeMap::new(), &body, samples::now()).unwrap();
    let EventData::TaskSubmitted(submitted) = parsed.data else { panic!("not a submission") };
    let mut assignment = sample("assignment");
    assignment.value["payload"] = submitted.payload.clone();
    let text = serde_json::to_vec(&assignment.value).unwrap();
    let AgentMessage::Assignment(assignment) = serde_json::from_slice(&text).unwrap() else {
        panic!("not an assignment")
    };
    assert_eq!(assignment.payload, submitted.payload);
}

#[test]
fn a_message_nested_ten_thousand_deep_is_refused_by_every_reader() {
    let deep = "[".repeat(10_000) + &"]".repeat(10_000);
    let nest = |name: &str, place: &str| {
        let text = sample(name).value.to_string();
        let nested = text.replace(&format!("{place}:"), &format!("{place}:{deep},\"was\":"));
        assert!(nested.len() > deep.len(), "{name} has no {place}");
        nested
    };
    assert!(serde_json::from_str::<AgentMessage>(&nest("assignment", "\"folder\"")).is_err());
    assert!(serde_json::from_str::<Report>(&nest("outcome", "\"added\"")).is_err());
    assert!(serde_json::from_str::<Control>(&nest("Go", "\"epoch\"")).is_err());
}
