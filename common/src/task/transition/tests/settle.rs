//! What outcomes make of a task.

use std::sync::Arc;

use super::fixtures::*;
use crate::contract::ids::LeaseToken;
use crate::contract::report::{NotStarted, StoppedBy};
use crate::failure::FailureKind;
use crate::task::transition::{Input, Refusal};
use crate::task::{AttemptOutcome, RevokeReason, Status};

#[test]
fn a_plan_that_succeeds_ends_its_task() {
    let mut story = Story::of("plan");
    story.assign("worker-0");
    story.report(succeeded(&[]));
    assert_eq!(story.status(), Status::Succeeded);
    assert_eq!(story.task().finished_at, Some(story.context.now));
}

#[test]
fn a_plan_without_changes_ends_without_approval_or_apply() {
    let mut story = Story::of("plan_and_apply");
    story.assign("worker-0");
    story.report(unchanged());
    assert_eq!((story.status(), story.task().step, story.task().holds), (Status::Succeeded, 0, false));
}

#[test]
fn the_next_step_starts_with_fresh_counters_and_keeps_the_workspace() {
    let mut story = Story::of("plan_and_apply");
    story.assign("worker-0");
    story.report(failed());
    story.due();
    story.assign("worker-0");
    story.report(succeeded(&[("plan", b"x")]));
    let task = story.task();
    assert_eq!((task.step, task.charge, task.losses, task.holds), (1, 0, 0, true));
    assert_eq!(task.status, Status::AwaitingApproval);
    assert_eq!(task.failure, None);
}

#[test]
fn a_task_that_approves_itself_is_recorded_as_such_and_binds_the_same_bytes() {
    let mut story = Story::of("plan_and_apply");
    story.subject.task.auto_approve = true;
    story.assign("worker-0");
    story.report(succeeded(&[("plan", b"x")]));
    assert_eq!(story.status(), Status::Pending);
    let approval = story.task().approval.as_ref().unwrap();
    assert_eq!(approval.by, "auto_approve");
    assert_eq!(approval.digest, story.task().artifact.as_ref().unwrap().digest);
}

#[test]
fn an_ungated_next_step_waits_for_an_agent_at_once() {
    let mut story = Story::of("plan_and_apply");
    let mut steps = story.task().steps.to_vec();
    steps[1].approval = false;
    story.subject.task.steps = Arc::from(steps);
    story.assign("worker-0");
    story.report(succeeded(&[]));
    assert_eq!((story.status(), story.task().step), (Status::Pending, 1));
}

#[test]
fn a_second_gate_needs_its_own_approval() {
    let mut story = Story::of("plan_and_apply");
    let mut steps = story.task().steps.to_vec();
    let mut clean_up = steps[1].clone();
    clean_up.name = crate::contract::ids::StepName::new("clean-up").unwrap();
    steps.push(clean_up);
    story.subject.task.steps = Arc::from(steps);
    story.assign("worker-0");
    story.report(succeeded(&[("plan", b"x")]));
    story.feed(Input::Approve { by: "ann".into(), digest: None });
    story.assign("worker-0");
    story.ask(nonce(7));
    story.report(succeeded(&[]));
    assert_eq!((story.status(), story.task().step), (Status::AwaitingApproval, 2));
    assert_eq!((&story.task().approval, story.task().step_started), (&None, false));
}

#[test]
fn a_step_that_leaves_nothing_keeps_the_artifacts_of_the_one_before() {
    let mut story = Story::apply_running();
    let planned = story.task().artifact.clone();
    story.report(succeeded(&[]));
    assert_eq!((story.status(), &story.task().artifact), (Status::Succeeded, &planned));
}

#[test]
fn failures_are_retried_after_growing_waits_up_to_the_limit() {
    for end in [failed(), panicked(), timed_out()] {
        let mut story = Story::of("plan");
        for wait_seconds in [1, 2] {
            story.assign("worker-0");
            let decision = story.report(end.clone());
            assert_eq!(story.status(), Status::Pending);
            assert_eq!(letters(&decision), [(end.failure().unwrap().kind, true)]);
            let wait = story.task().run_after.unwrap() - story.context.now;
            assert_eq!(wait.num_seconds(), wait_seconds);
            story.due();
        }
        story.assign("worker-0");
        story.report(end.clone());
        assert_eq!((story.status(), story.task().charge), (Status::Failed, 3));
        assert_eq!(story.task().failure.as_ref().unwrap().0, end.failure().unwrap().kind);
    }
}

#[test]
fn a_non_repeatable_step_that_failed_is_never_retried() {
    for end in [failed(), panicked(), timed_out()] {
        let mut story = Story::apply_running();
        story.report(end);
        assert_eq!((story.status(), story.task().attempts), (Status::Failed, 2));
    }
}

#[test]
fn a_killed_apply_failed_as_interrupted() {
    let mut story = Story::apply_running();
    let decision = story.report(stopped(StoppedBy::Drain));
    assert_eq!(story.status(), Status::Failed);
    assert_eq!(letters(&decision), [(FailureKind::Interrupted, false)]);
}

#[test]
fn repeatable_work_that_a_drain_or_silence_stopped_is_not_charged() {
    for by in [StoppedBy::Drain, StoppedBy::Silence] {
        let mut story = Story::of("plan");
        story.assign("worker-0");
        story.started();
        let decision = story.report(stopped(by));
        assert_eq!((story.status(), story.task().charge, story.task().losses), (Status::Pending, 0, 0));
        assert_eq!(letters(&decision), []);
    }
}

#[test]
fn unstarted_work_goes_to_another_agent_uncharged() {
    let at_once = [NotStarted::Draining, NotStarted::Revoked, NotStarted::Silence];
    let later = [NotStarted::NoGo, NotStarted::NoHandler];
    for (reason, waits) in at_once.map(|r| (r, false)).into_iter().chain(later.map(|r| (r, true))) {
        let mut story = Story::of("plan");
        story.assign("worker-0");
        story.report(not_started(reason));
        assert_eq!((story.status(), story.task().charge), (Status::Pending, 0), "{reason:?}");
        assert_eq!(story.task().run_after.is_some(), waits, "{reason:?}");
    }
}

#[test]
fn missing_inputs_are_a_failed_try_with_a_letter_even_for_an_apply() {
    let mut story = Story::apply_assigned();
    for charge in 1..3 {
        let decision = story.report(not_started(NotStarted::Inputs));
        assert_eq!((story.status(), story.task().charge), (Status::Pending, charge));
        assert_eq!(letters(&decision), [(FailureKind::InputsMissing, false)]);
        story.due();
        story.assign("worker-0");
    }
    story.report(not_started(NotStarted::Inputs));
    assert_eq!(story.status(), Status::Failed);
}

#[test]
fn a_delivery_that_another_session_refuses_is_a_loss_and_no_proof() {
    let mut story = Story::apply_running();
    story.report(not_started(NotStarted::OtherSession));
    assert_eq!(story.status(), Status::Uncertain);
    assert_eq!(refusal(&story.report(not_started(NotStarted::OtherSession))), Refusal::Uncertain);
    let mut story = Story::of("plan");
    story.assign("worker-0");
    story.confirm();
    story.report(not_started(NotStarted::OtherSession));
    assert_eq!((story.status(), story.task().losses), (Status::Pending, 1));
}

#[test]
fn an_outcome_that_was_lost_at_the_broker_and_is_no_longer_kept_is_a_loss() {
    let mut story = Story::apply_running();
    story.report(not_started(NotStarted::OutcomeForgotten));
    assert_eq!(story.status(), Status::Uncertain);
    let mut story = Story::of("plan");
    story.assign("worker-0");
    story.confirm();
    story.report(not_started(NotStarted::OutcomeForgotten));
    assert_eq!((story.status(), story.task().losses), (Status::Pending, 1));
    let (_, message) = story.task().failure.clone().unwrap();
    assert!(message.contains("an outcome that the broker confirmed and lost"), "{message}");
}

#[test]
fn a_copy_of_a_settled_outcome_is_benign_and_another_one_is_refused() {
    let mut story = Story::of("plan");
    story.assign("worker-0");
    story.report(succeeded(&[]));
    assert_eq!(refusal(&story.report(succeeded(&[]))), Refusal::Duplicate);
    assert_eq!(refusal(&story.report(failed())), Refusal::Ended(AttemptOutcome::Succeeded));
    assert_eq!(story.status(), Status::Succeeded);
}

#[test]
fn evidence_of_a_failure_is_kept_when_the_settle_is_refused() {
    let mut story = Story::of("plan");
    story.assign("worker-0");
    story.lose();
    let decision = story.report(panicked());
    assert_eq!(refusal(&decision), Refusal::Ended(AttemptOutcome::Lost));
    assert_eq!(letters(&decision), [(FailureKind::HandlerPanicked, true)]);
}

#[test]
fn a_stranger_cannot_leave_evidence() {
    let mut story = Story::of("plan");
    story.assign("worker-0");
    let (reporter, mut claim) = (story.reporter(), story.claim());
    claim.lease = LeaseToken(uuid::Uuid::nil());
    let decision = story.feed(Input::Outcome { reporter, claim, end: panicked() });
    assert_eq!((refusal(&decision), letters(&decision)), (Refusal::WrongToken, vec![]));
}

#[test]
fn a_late_outcome_resolves_an_uncertain_task() {
    for (end, status) in [(succeeded(&[]), Status::Succeeded), (failed(), Status::Failed)] {
        let mut story = Story::uncertain();
        story.report(end);
        assert_eq!((story.status(), story.task().holds), (status, false));
    }
}

#[test]
fn an_overrun_that_the_dispatcher_stopped_counts_as_the_agents_own_timeout_does() {
    let mut story = Story::of("plan");
    story.assign("worker-0");
    story.started();
    story.revoke(RevokeReason::RunTimeout);
    let decision = story.report(stopped(StoppedBy::Dispatcher));
    assert_eq!((story.status(), story.task().charge), (Status::Pending, 1));
    assert_eq!(letters(&decision), [(FailureKind::RunTimeout, false)]);
    let mut story = Story::apply_running();
    story.revoke(RevokeReason::RunTimeout);
    story.report(stopped(StoppedBy::Dispatcher));
    assert_eq!(story.status(), Status::Failed);
    assert_eq!(story.task().failure.as_ref().unwrap().0, FailureKind::RunTimeout);
}
