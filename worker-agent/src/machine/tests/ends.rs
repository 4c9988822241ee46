//! Outcome before ack or nack, artifacts before the outcome (design 6.5, protocol F2).

use switchyard_common::contract::artifact::Manifest;
use switchyard_common::contract::limits::{ARTIFACT_PART_MAX_BYTES, ARTIFACTS_TOTAL_MAX_BYTES};
use switchyard_common::contract::report::{OutcomeEnd, StoppedBy};
use switchyard_common::failure::FailureKind;

use super::rig::{Rig, failed, failure, files, succeeded};
use crate::machine::{AttemptId, HandlerEnd, Input, What};

fn left(sizes: &[(&str, usize)]) -> HandlerEnd {
    HandlerEnd::Succeeded { changes: true, artifacts: files(sizes), result: None }
}

#[test]
fn every_end_is_reported_and_confirmed_before_its_delivery_is_acked_or_nacked() {
    let table = [
        (succeeded(), "succeeded", false),
        (failed(), "failed", true),
        (HandlerEnd::Panicked(failure()), "panicked", true),
        (HandlerEnd::TimedOut(failure()), "timed_out", true),
    ];
    for (end, name, nacked) in table {
        let mut rig = Rig::heard();
        let work = rig.work(1);
        let (tag, _) = rig.deliver(&work);
        let came = rig.end(&work, end);
        assert!(came.acks().is_empty() && came.nacks().is_empty());
        assert_eq!(came.outcomes()[0].name(), name);
        let came = rig.confirm_outcome(&came);
        assert_eq!((came.nacks().contains(&tag), came.acks().contains(&tag)), (nacked, !nacked));
        assert_eq!(rig.machine.in_hand(), 0);
    }
}

#[test]
fn incident_03_every_end_gives_exactly_one_report_however_often_it_is_delivered() {
    for end in [succeeded(), failed(), HandlerEnd::Panicked(failure()), HandlerEnd::TimedOut(failure())] {
        let mut rig = Rig::heard();
        let work = rig.work(1);
        rig.deliver(&work);
        let came = rig.end(&work, end);
        assert_eq!(came.outcomes().len(), 1);
        rig.confirm_outcome(&came);
        let (_, copy) = rig.deliver(&work);
        assert_eq!(copy.outcomes().len(), 0, "a copy of a finished attempt is not reported anew");
        assert_eq!(rig.machine.in_hand(), 0);
    }
}

#[test]
fn every_part_is_confirmed_before_the_outcome_is_sent() {
    let mut rig = Rig::heard();
    let work = rig.work(1);
    rig.deliver(&work);
    let sizes = [("a", 10), ("b", ARTIFACT_PART_MAX_BYTES + 1)];
    let came = rig.end(&work, left(&sizes));
    let parts = came.parts();
    assert_eq!((parts.len(), came.outcomes().len()), (3, 0));
    assert!(rig.give(Input::Confirmed(parts[2])).outcomes().is_empty());
    assert!(rig.give(Input::Lost(parts[0])).outcomes().is_empty());
    assert!(rig.give(Input::Confirmed(parts[1])).outcomes().is_empty());
    let again = rig.pass(500).parts();
    assert_eq!(again.len(), 1);
    let came = rig.give(Input::Confirmed(again[0]));
    let artifacts = Manifest::of(&files(&sizes)).unwrap();
    assert_eq!(came.outcomes(), [OutcomeEnd::Succeeded { changes: true, artifacts, result: None }]);
}

#[test]
fn an_empty_artifact_is_in_the_manifest_though_it_needs_no_part() {
    let mut rig = Rig::heard();
    let work = rig.work(1);
    rig.deliver(&work);
    let came = rig.end(&work, left(&[("empty", 0)]));
    let artifacts = Manifest::of(&files(&[("empty", 0)])).unwrap();
    assert_eq!(came.outcomes(), [OutcomeEnd::Succeeded { changes: true, artifacts, result: None }]);
}

#[test]
fn artifacts_over_the_limit_make_the_attempt_fail_and_say_so() {
    for (size, name) in [(ARTIFACTS_TOTAL_MAX_BYTES, None), (ARTIFACTS_TOTAL_MAX_BYTES + 1, Some("failed"))] {
        let mut rig = Rig::heard();
        let work = rig.work(1);
        rig.deliver(&work);
        let came = rig.end(&work, left(&[("big", size)]));
        assert_eq!(came.outcomes().first().map(OutcomeEnd::name), name);
    }
}

#[test]
fn a_slot_is_free_as_soon_as_its_handler_has_ended() {
    let mut rig = Rig::heard();
    let (one, two, three) = (rig.work(1), rig.work(2), rig.work(3));
    for work in [&one, &two, &three] {
        rig.deliver(work);
    }
    let came = rig.end(&one, left(&[("a", 1)]));
    assert_eq!(came.started(), ["task-3"]);
}

#[test]
fn a_handler_that_says_stopped_without_a_stop_has_failed() {
    let mut rig = Rig::heard();
    let work = rig.work(1);
    rig.deliver(&work);
    let came = rig.end(&work, HandlerEnd::Stopped);
    assert_eq!(came.outcomes()[0].failure().map(|failure| failure.kind), Some(FailureKind::Interrupted));
}

#[test]
fn a_handler_whose_supervisor_heard_no_keep_alive_was_stopped_by_silence() {
    let mut rig = Rig::heard();
    let work = rig.exclusive(1);
    rig.deliver(&work);
    let came = rig.end(&work, HandlerEnd::KeepAliveStopped);
    assert_eq!(came.outcomes(), [OutcomeEnd::Cancelled { by: StoppedBy::Silence }]);
}

#[test]
fn the_end_of_a_handler_that_was_not_running_changes_nothing() {
    let mut rig = Rig::heard();
    let attempt = AttemptId::from(rig.work(1).lease);
    let came = rig.give(Input::HandlerEnded { attempt, end: succeeded(), log_lines: 0 });
    assert!(came.noted(&What::UnknownHandler) && came.outcomes().is_empty());
}
