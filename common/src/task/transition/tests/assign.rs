//! From waiting to an agent.

use chrono::TimeDelta;

use super::fixtures::*;
use crate::contract::ids::{LeaseToken, PoolId, SessionId};
use crate::task::transition::{AssignTo, Input, Refusal};
use crate::task::{AttemptOutcome, Place, RevokeReason, Status};

#[test]
fn assigning_sets_agent_pod_session_and_lease_and_takes_the_workspace() {
    let mut story = Story::of("plan_and_apply");
    assert!(is_changed(&story.assign("worker-0")));
    let task = story.task();
    assert_eq!((task.status, task.holds, task.attempts), (Status::Assigned, true, 1));
    assert_eq!(task.assignee.as_ref(), Some(&story.attempt().assignee));
    assert_eq!(story.attempt().publish_no, 1);
}

#[test]
fn a_kind_that_is_not_exclusive_takes_no_workspace() {
    let mut story = Story::of("plan");
    story.assign("worker-0");
    assert!(!story.task().holds);
}

#[test]
fn an_agent_of_another_pool_is_never_assigned() {
    let mut story = Story::of("plan");
    let mut stranger = agent("worker-0");
    stranger.pool = PoolId::new("other").unwrap();
    let decision = story.feed(Input::Assign(AssignTo {
        agent: stranger,
        pod: "pod".into(),
        session: SessionId(uuid::Uuid::nil()),
        lease: LeaseToken(uuid::Uuid::nil()),
    }));
    assert_eq!(refusal(&decision), Refusal::OtherPool);
}

#[test]
fn a_task_before_its_time_is_not_assigned_and_not_due() {
    let mut story = Story::of("plan");
    story.subject.task.run_after = Some(story.context.now + TimeDelta::seconds(1));
    assert_eq!(refusal(&story.assign("worker-0")), Refusal::NotNow(Status::Pending));
    assert_eq!(refusal(&story.feed(Input::Due { place: None })), Refusal::NotNow(Status::Pending));
    story.wait_seconds(1);
    assert!(is_changed(&story.feed(Input::Due { place: None })));
    assert!(is_changed(&story.assign("worker-0")));
}

#[test]
fn an_exclusive_task_takes_its_position_when_it_is_due_and_not_before() {
    for (is_head, status) in [(true, Status::Pending), (false, Status::Blocked)] {
        let mut story = Story::of("plan_and_apply");
        story.subject.task.position = None;
        story.subject.task.run_after = Some(story.context.now);
        assert_eq!(refusal(&story.feed(Input::Due { place: None })), Refusal::NotNow(Status::Pending));
        story.feed(Input::Due { place: Some(Place { position: 9, is_head }) });
        assert_eq!((story.status(), story.task().position), (status, Some(9)));
    }
}

#[test]
fn what_waits_for_its_time_is_not_assigned() {
    let mut story = Story::of("plan");
    story.subject.task.run_after = Some(story.context.now);
    assert_eq!(refusal(&story.assign("worker-0")), Refusal::NotNow(Status::Pending));
    story.feed(Input::Due { place: None });
    assert!(is_changed(&story.assign("worker-0")));
}

#[test]
fn a_blocked_task_runs_only_after_its_promotion() {
    let mut story = Story::of("plan_and_apply");
    story.subject.task.status = Status::Blocked;
    assert_eq!(refusal(&story.assign("worker-0")), Refusal::NotNow(Status::Blocked));
    story.feed(Input::Promote);
    assert!(is_changed(&story.assign("worker-0")));
    assert_eq!(refusal(&story.feed(Input::Promote)), Refusal::NotNow(Status::Assigned));
}

#[test]
fn a_retry_keeps_its_position_and_its_workspace() {
    let mut story = Story::of("plan_and_apply");
    story.assign("worker-0");
    story.report(failed());
    assert_eq!((story.status(), story.task().holds), (Status::Pending, true));
    story.due();
    assert_eq!((story.status(), story.task().position), (Status::Pending, Some(1)));
}

#[test]
fn the_return_of_the_only_copy_undoes_the_assignment_uncharged() {
    let mut story = Story::apply_assigned();
    story.feed(Input::Returned { publish_no: 1 });
    assert_eq!(story.status(), Status::Pending);
    assert_eq!((story.task().charge, story.task().losses), (0, 0));
    assert_eq!(story.attempt().end.unwrap().outcome, AttemptOutcome::Returned);
    assert_eq!(refusal(&story.feed(Input::Returned { publish_no: 1 })), Refusal::Duplicate);
    assert!(story.task().run_after.is_some(), "else the same agent gets it back at once, again and again");
    story.due();
    assert!(is_changed(&story.assign("worker-1")));
}

#[test]
fn the_return_of_a_later_copy_only_revokes_because_an_earlier_one_may_have_arrived() {
    for returned in [1, 2] {
        let mut story = Story::of("plan");
        story.assign("worker-0");
        story.subject.attempt.as_mut().unwrap().publish_no = 2;
        story.feed(Input::Returned { publish_no: returned });
        assert_eq!(story.status(), Status::Assigned);
        assert_eq!(story.attempt().revoke.unwrap().reason, RevokeReason::Returned);
    }
}

#[test]
fn the_return_of_a_cancelled_attempts_only_copy_ends_the_task() {
    let mut story = Story::of("plan");
    story.assign("worker-0");
    story.cancel(false);
    story.feed(Input::Returned { publish_no: 1 });
    assert_eq!(story.status(), Status::Cancelled);
}

#[test]
fn attempt_numbers_go_on_over_steps() {
    let mut story = Story::apply_assigned();
    assert_eq!(story.attempt().number, 2);
    story.feed(Input::Returned { publish_no: 1 });
    story.due();
    story.assign("worker-1");
    assert_eq!(story.attempt().number, 3);
}

#[test]
fn an_assignment_by_a_transaction_that_began_before_the_approval_is_not_dated_before_it() {
    let mut story = Story::awaiting_approval();
    story.feed(Input::Approve { by: "ann".into(), digest: None });
    story.wait_seconds(-1);
    assert!(is_changed(&story.assign("worker-0")));
    let approved_at = story.task().approval.as_ref().unwrap().at;
    assert!(story.attempt().assigned_at >= approved_at && story.task().since >= approved_at);
}
