//! Input artifacts: complete, verified, bounded (protocol F1, F2; incidents 47, 65).

use switchyard_common::contract::artifact::ArtifactPart;
use switchyard_common::contract::assignment::{Assignment, InputPart};
use switchyard_common::contract::ids::SessionId;
use switchyard_common::contract::limits::ARTIFACT_PART_MAX_BYTES;
use switchyard_common::contract::report::NotStarted;
use uuid::Uuid;

use super::rig::{Rig, approval_of, files, inputs_of, with_inputs};
use crate::machine::What;
use crate::machine::limits::{INPUT_PARTS_KEEP_MS, INPUT_PARTS_MAX_BYTES, INPUT_WAIT_MAX_MS};

#[test]
fn a_handler_gets_the_files_put_together_from_parts_that_came_ahead() {
    let mut rig = Rig::heard();
    let plan = files(&[("plan", ARTIFACT_PART_MAX_BYTES + 5), ("empty", 0)]);
    let (work, parts) = with_inputs(rig.work(1), &plan);
    for part in parts {
        let (tag, came) = rig.deliver_part(part);
        assert_eq!(came.acks(), [tag]);
    }
    let (_, came) = rig.deliver(&work);
    assert_eq!(inputs_of(&came).as_deref(), Some(&plan));
}

#[test]
fn an_assignment_waits_for_parts_that_come_after_it() {
    let mut rig = Rig::heard();
    let plan = files(&[("a", 3), ("b", 4)]);
    let (work, parts) = with_inputs(rig.work(1), &plan);
    rig.deliver_part(parts[1].clone());
    assert!(rig.deliver(&work).1.started().is_empty());
    let (_, came) = rig.deliver_part(parts[0].clone());
    assert_eq!(inputs_of(&came).as_deref(), Some(&plan));
}

#[test]
fn an_assignment_whose_parts_do_not_come_is_not_started() {
    let mut rig = Rig::heard();
    let (work, _) = with_inputs(rig.work(1), &files(&[("a", 3)]));
    rig.deliver(&work);
    assert!(rig.pass_heard(INPUT_WAIT_MAX_MS - 100).refusals().is_empty());
    assert_eq!(rig.pass_heard(100).refusals(), [NotStarted::Inputs]);
}

#[test]
fn incident_65_missing_inputs_are_never_replaced_by_a_default() {
    let mut rig = Rig::heard();
    let (work, _) = with_inputs(rig.once(1), &files(&[("plan", 3)]));
    let (_, came) = rig.deliver(&work);
    assert!(came.started().is_empty() && came.asks().is_empty());
}

#[test]
fn incident_47_inputs_other_than_the_approved_ones_never_start() {
    let mut rig = Rig::heard();
    let approved = with_inputs(rig.once(1), &files(&[("plan", 3)])).0.inputs;
    let (work, parts) = with_inputs(rig.once(1), &files(&[("plan", 4)]));
    let work = Assignment { approval: approval_of(&approved), ..work };
    for part in parts {
        rig.deliver_part(part);
    }
    let (_, came) = rig.deliver(&work);
    assert_eq!(came.refusals(), [NotStarted::Inputs]);
    assert!(came.asks().is_empty());
}

#[test]
fn the_approved_inputs_are_asked_for() {
    let mut rig = Rig::heard();
    let (work, parts) = with_inputs(rig.once(1), &files(&[("plan", 3)]));
    let work = Assignment { approval: approval_of(&work.inputs), ..work };
    for part in parts {
        rig.deliver_part(part);
    }
    assert_eq!(rig.deliver(&work).1.asks().len(), 1);
}

#[test]
fn a_forged_byte_is_found() {
    let mut rig = Rig::heard();
    let (work, mut parts) = with_inputs(rig.work(1), &files(&[("plan", 3)]));
    parts[0].part.bytes[0] ^= 1;
    rig.deliver_part(parts[0].clone());
    assert_eq!(rig.deliver(&work).1.refusals(), [NotStarted::Inputs]);
}

#[test]
fn parts_for_another_session_are_acked_and_dropped() {
    let mut rig = Rig::heard();
    let (work, mut parts) = with_inputs(rig.work(1), &files(&[("plan", 3)]));
    parts[0].session = SessionId(Uuid::from_u128(99));
    let (tag, came) = rig.deliver_part(parts[0].clone());
    assert_eq!(came.acks(), [tag]);
    assert!(rig.deliver(&work).1.started().is_empty());
}

#[test]
fn parts_are_dropped_with_their_session_and_when_their_assignment_does_not_come() {
    let mut rig = Rig::heard();
    let (_, parts) = with_inputs(rig.work(1), &files(&[("plan", 3)]));
    rig.deliver_part(parts[0].clone());
    let came = rig.pass_heard(INPUT_PARTS_KEEP_MS);
    assert!(came.noted(&What::PartDropped { reason: "its assignment did not come" }));
    rig.deliver_part(parts[0].clone());
    rig.pass(18_000);
    let came = rig.pass_heard(INPUT_PARTS_KEEP_MS);
    assert!(!came.noted(&What::PartDropped { reason: "its assignment did not come" }));
}

#[test]
fn parts_are_kept_up_to_their_limit_in_bytes_and_dropped_one_over() {
    let mut rig = Rig::heard();
    let work = rig.work(1);
    let part = |n: usize, size: usize| InputPart {
        key: work.key(),
        session: work.session,
        part: ArtifactPart { name: format!("f{n}"), part: 0, bytes: vec![0; size] },
    };
    let whole = INPUT_PARTS_MAX_BYTES / ARTIFACT_PART_MAX_BYTES;
    let dropped = |came: &super::rig::Came| {
        came.0.iter().any(
            |e| matches!(e, crate::machine::Effect::Note(n) if matches!(n.what, What::PartDropped { .. })),
        )
    };
    for n in 0..whole {
        assert!(!dropped(&rig.deliver_part(part(n, ARTIFACT_PART_MAX_BYTES)).1));
    }
    let (tag, came) = rig.deliver_part(part(whole, 1));
    assert!(dropped(&came) && came.acks() == [tag]);
}
