//! Approve, discard, cancel, resolve, retry now.

use super::fixtures::*;
use crate::contract::ids::Digest;
use crate::contract::report::{NotStarted, StoppedBy};
use crate::task::transition::{Decision, Effect, Input, Refusal, ResolveTo};
use crate::task::{AttemptOutcome, Status};

fn approve(story: &mut Story, digest: Option<Digest>) -> Decision {
    story.feed(Input::Approve { by: "ann".into(), digest })
}

fn resolve(story: &mut Story, to: ResolveTo, session_over: bool, reason: Option<&str>) -> Decision {
    let override_reason = reason.map(str::to_owned);
    story.feed(Input::Resolve { by: "ann".into(), to, session_over, override_reason })
}

#[test]
fn an_approval_records_who_when_which_step_and_which_bytes() {
    let mut story = Story::awaiting_approval();
    approve(&mut story, None);
    let approval = story.task().approval.clone().unwrap();
    assert_eq!((approval.by.as_str(), approval.step, approval.at), ("ann", 1, story.context.now));
    assert_eq!(Some(approval.digest), story.task().artifact.as_ref().map(|a| a.digest.clone()));
    assert_eq!(story.status(), Status::Pending);
}

#[test]
fn an_approval_of_other_bytes_is_refused_and_names_the_current_ones() {
    let mut story = Story::awaiting_approval();
    let current = story.task().artifact.as_ref().unwrap().digest.clone();
    let decision = approve(&mut story, Some(Digest::of(b"older plan")));
    assert_eq!(refusal(&decision), Refusal::DigestMismatch { current: current.clone() });
    assert_eq!(story.status(), Status::AwaitingApproval);
    assert!(is_changed(&approve(&mut story, Some(current))));
}

#[test]
fn only_what_waits_for_approval_can_be_approved_or_discarded() {
    let mut pending = Story::of("plan");
    let not_waiting = Refusal::NotAwaitingApproval { status: Status::Pending };
    assert_eq!(refusal(&approve(&mut pending, None)), not_waiting);
    assert_eq!(refusal(&pending.feed(Input::Discard { by: "ann".into() })), not_waiting);
    let mut approved = Story::apply_assigned();
    let already = Refusal::AlreadyApproved { by: "ann".into() };
    assert_eq!(refusal(&approve(&mut approved, None)), already);
    let mut ended = Story::apply_running();
    ended.report(succeeded(&[]));
    assert_eq!(refusal(&approve(&mut ended, None)), Refusal::Terminal(Status::Succeeded));
    let discard = ended.feed(Input::Discard { by: "ann".into() });
    assert_eq!(refusal(&discard), Refusal::Terminal(Status::Succeeded));
}

#[test]
fn discarding_ends_the_task_and_says_who() {
    let mut story = Story::awaiting_approval();
    story.feed(Input::Discard { by: "ann".into() });
    assert_eq!((story.status(), story.task().holds), (Status::Cancelled, false));
    assert_eq!(story.task().cancel.as_ref().unwrap().by, "ann");
}

#[test]
fn a_task_that_nobody_has_in_hand_is_cancelled_at_once() {
    let mut blocked = Story::of("plan_and_apply");
    blocked.subject.task.status = Status::Blocked;
    for mut story in [blocked, Story::of("plan"), Story::awaiting_approval(), Story::apply_assigned()] {
        story.cancel(false);
        assert_eq!(story.status(), Status::Cancelled);
        assert_eq!(refusal(&story.cancel(true)), Refusal::Terminal(Status::Cancelled));
    }
}

#[test]
fn a_cancelled_attempt_ends_its_task_however_it_ends_except_by_success() {
    let ends = [
        (failed(), Status::Cancelled),
        (panicked(), Status::Cancelled),
        (stopped(StoppedBy::Dispatcher), Status::Cancelled),
        (not_started(NotStarted::Revoked), Status::Cancelled),
        (not_started(NotStarted::Inputs), Status::Cancelled),
        (succeeded(&[]), Status::Succeeded),
    ];
    for (end, status) in ends {
        let mut story = Story::of("plan");
        story.assign("worker-0");
        assert_eq!(story.cancel(false).effects, [Effect::SendRevoke]);
        assert_eq!(story.status(), Status::Assigned);
        story.report(end);
        assert_eq!(story.status(), status);
    }
}

#[test]
fn a_cancelled_task_starts_no_further_step() {
    let mut story = Story::of("plan_and_apply");
    story.assign("worker-0");
    story.cancel(false);
    story.report(succeeded(&[("plan", b"x")]));
    assert_eq!(story.status(), Status::Cancelled);
}

#[test]
fn a_running_apply_is_cancelled_only_with_force() {
    let mut story = Story::apply_running();
    assert_eq!(refusal(&story.cancel(false)), Refusal::NeedsForce);
    assert_eq!(story.task().cancel, None);
    assert_eq!(story.cancel(true).effects, [Effect::SendRevoke]);
    assert!(story.attempt().revoke.unwrap().force);
    story.report(stopped(StoppedBy::Dispatcher));
    assert_eq!(story.status(), Status::Cancelled);
}

#[test]
fn a_second_cancel_is_refused_unless_it_adds_force() {
    let mut story = Story::of("plan");
    story.assign("worker-0");
    story.cancel(false);
    assert_eq!(refusal(&story.cancel(false)), Refusal::AlreadyCancelled { by: "bob".into() });
    assert!(is_changed(&story.cancel(true)));
    assert!(story.attempt().revoke.unwrap().force);
}

#[test]
fn a_cancel_after_another_revoke_is_still_written() {
    let mut story = Story::of("plan");
    story.assign("worker-0");
    story.revoke(crate::task::RevokeReason::RunTimeout);
    assert!(is_changed(&story.cancel(false)));
    story.report(stopped(StoppedBy::Dispatcher));
    assert_eq!(story.status(), Status::Cancelled);
}

#[test]
fn an_uncertain_task_is_resolved_when_its_session_is_over_or_with_a_named_override() {
    for (to, status) in [(ResolveTo::Succeeded, Status::Succeeded), (ResolveTo::Failed, Status::Failed)] {
        let mut story = Story::uncertain();
        assert_eq!(refusal(&resolve(&mut story, to, false, None)), Refusal::SessionMayLive);
        assert_eq!(refusal(&resolve(&mut story, to, false, Some(""))), Refusal::SessionMayLive);
        resolve(&mut story, to, true, None);
        assert_eq!((story.status(), story.task().holds), (status, false));
        assert_eq!(story.attempt().end.unwrap().outcome, AttemptOutcome::Resolved);
        let mut story = Story::uncertain();
        resolve(&mut story, to, false, Some("host is switched off"));
        assert_eq!(story.status(), status);
    }
}

#[test]
fn only_an_uncertain_task_can_be_resolved_and_an_uncertain_one_not_be_cancelled() {
    let mut story = Story::apply_running();
    let decision = resolve(&mut story, ResolveTo::Failed, true, None);
    assert_eq!(refusal(&decision), Refusal::NotUncertain { status: Status::Running });
    assert_eq!(refusal(&Story::uncertain().cancel(true)), Refusal::Uncertain);
}

#[test]
fn an_outcome_after_the_resolution_is_kept_as_evidence_and_changes_nothing() {
    let mut story = Story::uncertain();
    resolve(&mut story, ResolveTo::Succeeded, true, None);
    let decision = story.report(failed());
    assert_eq!(refusal(&decision), Refusal::Ended(AttemptOutcome::Resolved));
    assert_eq!(letters(&decision).len(), 1);
    assert_eq!(story.status(), Status::Succeeded);
}

#[test]
fn retry_now_ends_a_wait_and_nothing_else() {
    let mut story = Story::of("plan");
    assert_eq!(refusal(&story.feed(Input::RetryNow)), Refusal::NotNow(Status::Pending));
    story.assign("worker-0");
    assert_eq!(refusal(&story.feed(Input::RetryNow)), Refusal::NotNow(Status::Assigned));
    story.report(failed());
    story.feed(Input::RetryNow);
    assert_eq!(story.task().run_after, Some(story.context.now));
    story.due();
    assert!(is_changed(&story.assign("worker-0")));
}
