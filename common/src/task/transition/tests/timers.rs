//! Deadlines, timeouts, and the durable request to stop.

use super::fixtures::*;
use crate::contract::report::{NotStarted, StoppedBy};
use crate::failure::FailureKind;
use crate::task::transition::{Effect, Input, Refusal};
use crate::task::{AttemptOutcome, RevokeReason, Status};

#[test]
fn a_revoke_is_durable_and_the_task_keeps_its_workspace_until_it_is_answered() {
    let mut story = Story::of("plan_and_apply");
    story.assign("worker-0");
    let decision = story.revoke(RevokeReason::StartTimeout);
    assert_eq!(decision.effects, [Effect::SendRevoke]);
    assert_eq!((story.status(), story.task().holds), (Status::Assigned, true));
    story.report(not_started(NotStarted::Revoked));
    assert_eq!((story.status(), story.task().charge), (Status::Pending, 0));
}

#[test]
fn a_non_repeatable_attempt_that_was_never_allowed_to_start_is_closed_at_once() {
    for reason in RevokeReason::ALL {
        let mut story = Story::apply_assigned();
        let decision = story.revoke(reason);
        let status = if reason == RevokeReason::Deadline { Status::Failed } else { Status::Pending };
        assert_eq!(story.status(), status, "{reason:?}");
        assert_eq!(story.attempt().end.unwrap().outcome, AttemptOutcome::Withdrawn);
        assert!(decision.effects.contains(&Effect::SendRevoke));
    }
}

#[test]
fn a_running_apply_is_asked_to_stop_only_with_force() {
    let forced = [RevokeReason::Deadline, RevokeReason::RunTimeout, RevokeReason::PoolRevoked];
    for reason in RevokeReason::ALL {
        let mut story = Story::apply_running();
        let decision = story.revoke(reason);
        if forced.contains(&reason) {
            assert!(is_changed(&decision), "{reason:?}");
            assert!(story.attempt().revoke.unwrap().force);
        } else {
            assert_eq!(refusal(&decision), Refusal::NeedsForce, "{reason:?}");
        }
        assert_eq!(story.status(), Status::Running);
    }
}

#[test]
fn the_first_reason_to_revoke_stays_unless_a_later_one_may_stop_more() {
    let mut story = Story::of("plan");
    story.assign("worker-0");
    story.revoke(RevokeReason::NotListed);
    assert_eq!(refusal(&story.revoke(RevokeReason::BrokerLetter)), Refusal::Duplicate);
    assert!(is_changed(&story.feed(Input::DeadlinePassed)));
    assert_eq!(story.attempt().revoke.unwrap().reason, RevokeReason::Deadline);
    assert_eq!(refusal(&story.revoke(RevokeReason::RunTimeout)), Refusal::Duplicate);
}

#[test]
fn what_nobody_has_in_hand_cannot_be_revoked() {
    let mut story = Story::awaiting_approval();
    assert_eq!(refusal(&story.revoke(RevokeReason::Cancel)), Refusal::NotNow(Status::AwaitingApproval));
    let mut story = Story::uncertain();
    assert_eq!(refusal(&story.revoke(RevokeReason::RunTimeout)), Refusal::Uncertain);
}

#[test]
fn a_task_that_waits_past_its_deadline_fails_with_a_letter() {
    for mut story in [Story::of("plan"), Story::awaiting_approval()] {
        let decision = story.feed(Input::DeadlinePassed);
        assert_eq!(story.status(), Status::Failed);
        assert_eq!(letters(&decision), [(FailureKind::Deadline, false)]);
        assert_eq!(refusal(&story.feed(Input::DeadlinePassed)), Refusal::Terminal(Status::Failed));
    }
}

#[test]
fn a_running_task_past_its_deadline_is_stopped_and_then_fails() {
    let mut story = Story::of("plan");
    story.assign("worker-0");
    story.started();
    story.feed(Input::DeadlinePassed);
    assert_eq!(story.status(), Status::Running);
    let decision = story.report(stopped(StoppedBy::Dispatcher));
    assert_eq!(story.status(), Status::Failed);
    assert_eq!(letters(&decision), [(FailureKind::Deadline, false)]);
}

#[test]
fn an_unstarted_task_past_its_deadline_fails_when_its_agent_lets_go() {
    let mut story = Story::of("plan");
    story.assign("worker-0");
    story.feed(Input::DeadlinePassed);
    story.report(not_started(NotStarted::Revoked));
    assert_eq!(story.status(), Status::Failed);
}

#[test]
fn success_wins_over_a_deadline_that_passed_meanwhile() {
    let mut story = Story::of("plan");
    story.assign("worker-0");
    story.feed(Input::DeadlinePassed);
    story.report(succeeded(&[]));
    assert_eq!(story.status(), Status::Succeeded);
}

#[test]
fn a_queue_timeout_counts_the_wait_for_an_agent_and_not_the_wait_for_a_time() {
    let mut story = Story::of("plan");
    story.assign("worker-0");
    story.report(failed());
    assert_eq!(refusal(&story.feed(Input::QueueTimeout)), Refusal::NotNow(Status::Pending));
    story.due();
    let decision = story.feed(Input::QueueTimeout);
    assert_eq!(
        (story.status(), letters(&decision)),
        (Status::Failed, vec![(FailureKind::QueueTimeout, false)])
    );
}

#[test]
fn an_approval_that_is_not_given_in_time_fails_the_task_and_frees_the_workspace() {
    let mut story = Story::awaiting_approval();
    story.feed(Input::ApprovalExpired);
    assert_eq!((story.status(), story.task().holds), (Status::Failed, false));
    assert_eq!(story.task().failure.as_ref().unwrap().0, FailureKind::ApprovalExpired);
}
