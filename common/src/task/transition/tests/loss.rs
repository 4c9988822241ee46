//! The end of a session, and attempts that an agent does not list.

use super::fixtures::*;
use crate::contract::ids::SessionId;
use crate::failure::FailureKind;
use crate::task::transition::{Input, LossReason, Refusal};
use crate::task::{RevokeReason, Status};

#[test]
fn unstarted_and_unconfirmed_work_is_given_on_without_a_count() {
    let mut story = Story::of("plan");
    story.assign("worker-0");
    let decision = story.lose();
    assert_eq!((story.status(), story.task().losses, story.task().charge), (Status::Pending, 0, 0));
    assert_eq!(letters(&decision), []);
}

#[test]
fn a_confirmed_but_unstarted_attempt_counts_as_a_loss_and_not_as_a_try() {
    let mut story = Story::of("plan");
    story.assign("worker-0");
    story.confirm();
    let decision = story.lose();
    assert_eq!((story.status(), story.task().losses, story.task().charge), (Status::Pending, 1, 0));
    assert_eq!(letters(&decision), [(FailureKind::AgentLost, false)]);
}

#[test]
fn a_started_attempt_counts_as_a_loss_and_as_a_try() {
    let mut story = Story::of("plan");
    story.assign("worker-0");
    story.started();
    story.lose();
    assert_eq!((story.status(), story.task().losses, story.task().charge), (Status::Pending, 1, 1));
    assert!(story.task().run_after.is_some());
}

#[test]
fn work_that_kills_its_agent_fails_at_the_third_loss() {
    let mut story = Story::of("plan");
    for losses in 1..3 {
        story.assign("worker-0");
        story.confirm();
        story.lose();
        assert_eq!((story.status(), story.task().losses), (Status::Pending, losses));
    }
    story.assign("worker-0");
    story.confirm();
    story.lose();
    assert_eq!(story.status(), Status::Failed);
    assert_eq!(story.task().failure.as_ref().unwrap().0, FailureKind::AgentLost);
}

#[test]
fn an_assigned_apply_that_was_never_allowed_to_start_is_given_on_for_ever() {
    let mut story = Story::apply_assigned();
    for _ in 0..10 {
        story.confirm();
        story.lose();
        assert_eq!((story.status(), story.task().losses), (Status::Pending, 0));
        story.assign("worker-0");
    }
}

#[test]
fn every_reason_to_lose_a_started_apply_makes_it_uncertain() {
    use LossReason::{Fenced, PoolRevoked, Silent, Superseded};
    for reason in [Silent, Superseded, PoolRevoked, Fenced] {
        let mut story = Story::apply_running();
        let session = story.attempt().assignee.session;
        let decision = story.feed(Input::SessionEnded { session, reason });
        assert_eq!((story.status(), story.task().holds), (Status::Uncertain, true), "{reason:?}");
        assert!(story.task().assignee.is_some());
        assert_eq!(letters(&decision), [(FailureKind::AgentLost, false)]);
        assert_eq!(refusal(&story.lose()), Refusal::Uncertain);
    }
}

#[test]
fn the_end_of_another_session_changes_nothing() {
    let mut story = Story::of("plan");
    story.assign("worker-0");
    let session = SessionId(uuid::Uuid::nil());
    let decision = story.feed(Input::SessionEnded { session, reason: LossReason::Silent });
    assert_eq!((refusal(&decision), story.status()), (Refusal::OtherSession, Status::Assigned));
}

#[test]
fn the_loss_of_a_cancelled_attempt_ends_the_task_as_cancelled() {
    let mut story = Story::of("plan");
    story.assign("worker-0");
    story.started();
    story.cancel(false);
    story.lose();
    assert_eq!(story.status(), Status::Cancelled);
}

#[test]
fn the_loss_of_a_cancelled_apply_is_uncertain_all_the_same() {
    let mut story = Story::apply_running();
    story.cancel(true);
    story.lose();
    assert_eq!(story.status(), Status::Uncertain);
}

#[test]
fn the_loss_of_an_attempt_past_its_deadline_fails_the_task_for_the_deadline() {
    let mut story = Story::of("plan");
    story.assign("worker-0");
    story.feed(Input::DeadlinePassed);
    story.lose();
    assert_eq!(story.status(), Status::Failed);
    assert_eq!(story.task().failure.as_ref().unwrap().0, FailureKind::Deadline);
}

#[test]
fn an_attempt_that_is_not_listed_is_revoked_and_a_running_apply_becomes_uncertain() {
    let mut story = Story::of("plan");
    story.assign("worker-0");
    story.feed(Input::NotListed);
    assert_eq!(story.status(), Status::Assigned);
    assert_eq!(story.attempt().revoke.unwrap().reason, RevokeReason::NotListed);
    let mut story = Story::apply_assigned();
    story.feed(Input::NotListed);
    assert_eq!(story.status(), Status::Pending);
    let mut story = Story::apply_running();
    story.feed(Input::NotListed);
    assert_eq!(story.status(), Status::Uncertain);
}
