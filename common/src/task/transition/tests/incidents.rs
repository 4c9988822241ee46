//! The incidents that the transition function guards by itself; each name carries the incident's number.

use super::fixtures::*;
use crate::contract::ids::{LeaseToken, SessionId};
use crate::contract::report::{NotStarted, StoppedBy};
use crate::failure::FailureKind;
use crate::task::transition::{Context, Input, Refusal, ResolveTo, Verdict, transition};
use crate::task::{
    AttemptOutcome, Place, RevokeReason, Status, Violation, check, occupies_workspace, releases_workspace,
};

#[test]
fn incident_01_a_panic_requeues_or_fails_with_its_backtrace() {
    let mut story = Story::of("plan");
    story.assign("worker-0");
    let decision = story.report(panicked());
    assert_eq!(letters(&decision), [(FailureKind::HandlerPanicked, true)]);
    assert!(format!("{:?}", decision.effects).contains("handler::run"), "the backtrace is lost");
    assert_eq!((story.status(), &story.task().assignee), (Status::Pending, &None));
    let mut apply = Story::apply_running();
    apply.report(panicked());
    assert_eq!(apply.status(), Status::Failed);
}

#[test]
fn incident_01_running_implies_an_agent_and_a_pod() {
    let mut task = Story::apply_running().subject.task;
    assert!(task.assignee.as_ref().is_some_and(|assignee| !assignee.pod.is_empty()));
    task.assignee = None;
    assert_eq!(check(&task), Err(Violation::Assignee));
}

#[test]
fn incident_03_every_end_of_an_attempt_leaves_its_task_resolved() {
    let ends = [
        succeeded(&[]),
        unchanged(),
        failed(),
        panicked(),
        timed_out(),
        stopped(StoppedBy::Drain),
        stopped(StoppedBy::Silence),
        not_started(NotStarted::Draining),
    ];
    for end in ends {
        let mut story = Story::of("plan");
        story.assign("worker-0");
        assert!(is_changed(&story.report(end.clone())), "{end:?}");
        assert!(!story.status().has_assignee() && story.attempt().end.is_some(), "{end:?}");
        // One report ends it; another one changes nothing.
        let resolved = story.subject.clone();
        story.report(failed());
        assert_eq!(story.subject, resolved, "{end:?}");
    }
}

#[test]
fn incident_05_no_single_failed_dispatch_is_final() {
    let mut story = Story::of("plan");
    for _ in 0..50 {
        story.assign("worker-0");
        story.feed(Input::Returned { publish_no: 1 });
        assert_eq!(story.status(), Status::Pending);
        story.due();
    }
    assert!(is_changed(&story.assign("worker-0")));
}

#[test]
fn incident_06_every_end_of_a_holder_releases_its_waiters() {
    let ends: [fn(&mut Story); 5] = [
        |story| drop(story.report(unchanged())),
        |story| {
            story.cancel(false);
            story.report(stopped(StoppedBy::Dispatcher));
        },
        |story| {
            story.feed(Input::DeadlinePassed);
            story.report(not_started(NotStarted::Revoked));
        },
        |story| {
            story.report(succeeded(&[("plan", b"x")]));
            story.feed(Input::Discard { by: "ann".into() });
        },
        |story| {
            story.report(succeeded(&[("plan", b"x")]));
            story.feed(Input::ApprovalExpired);
        },
    ];
    for end in ends {
        let mut story = Story::of("plan_and_apply");
        story.assign("worker-0");
        let before = story.task().clone();
        end(&mut story);
        assert!(story.status().is_terminal());
        assert!(releases_workspace(&before, story.task()));
    }
}

#[test]
fn incident_07_the_only_task_of_a_workspace_never_blocks_itself() {
    let mut story = Story::of("plan_and_apply");
    story.subject.task.position = None;
    story.subject.task.run_after = Some(story.context.now);
    story.feed(Input::Due { place: Some(Place { position: 1, is_head: true }) });
    assert_eq!(story.status(), Status::Pending);
    assert!(is_changed(&story.assign("worker-0")));
    // A retry of the head does not ask for a place again.
    story.report(failed());
    story.due();
    assert_eq!(story.status(), Status::Pending);
}

#[test]
fn incident_09_approval_is_awaited_only_with_the_workspace_held() {
    let story = Story::awaiting_approval();
    assert!(story.task().holds && occupies_workspace(story.task()));
    let mut task = story.subject.task;
    task.holds = false;
    assert_eq!(check(&task), Err(Violation::Holds));
    // The second one is blocked, and only the end of the first lets it go.
    let mut second = Story::of("plan_and_apply");
    second.subject.task.position = None;
    second.subject.task.run_after = Some(second.context.now);
    second.feed(Input::Due { place: Some(Place { position: 2, is_head: false }) });
    assert_eq!(refusal(&second.assign("worker-1")), Refusal::NotNow(Status::Blocked));
}

#[test]
fn incident_20_no_input_assigns_an_unapproved_apply() {
    let mut story = Story::awaiting_approval();
    for input in [Input::Promote, Input::Due { place: None }, Input::RetryNow] {
        assert!(!is_changed(&story.feed(input)));
    }
    assert_eq!(refusal(&story.assign("worker-0")), Refusal::NotNow(Status::AwaitingApproval));
    // Even a row that says pending without a record is refused.
    story.subject.task.status = Status::Pending;
    assert_eq!(check(story.task()), Err(Violation::Unapproved));
    assert_eq!(refusal(&story.assign("worker-0")), Refusal::NotApproved);
}

#[test]
fn incident_20_an_approval_of_other_bytes_or_of_another_step_does_not_count() {
    let approved = Story::apply_assigned();
    let mut other_bytes = Story::apply_assigned();
    other_bytes.subject.task.approval.as_mut().unwrap().digest = crate::contract::ids::Digest::of(b"other");
    let mut other_step = Story::apply_assigned();
    other_step.subject.task.approval.as_mut().unwrap().step = 0;
    assert_eq!(check(approved.task()), Ok(()));
    for story in [other_bytes, other_step] {
        assert_eq!(check(story.task()), Err(Violation::Unapproved));
    }
}

#[test]
fn incident_21_an_approved_task_is_another_state_and_is_scheduled() {
    let mut story = Story::awaiting_approval();
    story.feed(Input::Approve { by: "ann".into(), digest: None });
    assert_eq!(story.status(), Status::Pending);
    assert!(is_changed(&story.assign("worker-0")));
    // An approved task can never look as if it waited for approval.
    let mut task = story.subject.task;
    task.status = Status::AwaitingApproval;
    task.assignee = None;
    assert_eq!(check(&task), Err(Violation::Awaiting));
}

#[test]
fn incident_22_whatever_is_applied_names_its_approver() {
    let mut by_hand = Story::apply_running();
    by_hand.report(succeeded(&[]));
    assert_eq!(by_hand.task().approval.as_ref().unwrap().by, "ann");
    let mut by_itself = Story::of("plan_and_apply");
    by_itself.subject.task.auto_approve = true;
    by_itself.assign("worker-0");
    by_itself.report(succeeded(&[("plan", b"x")]));
    by_itself.assign("worker-0");
    by_itself.ask(nonce(7));
    by_itself.report(succeeded(&[]));
    assert_eq!(by_itself.task().approval.as_ref().unwrap().by, "auto_approve");
}

#[test]
fn incident_23_an_approved_apply_is_dispatched_again_like_any_step() {
    let mut story = Story::apply_assigned();
    let approval = story.task().approval.clone();
    let failures: [fn(&mut Story); 4] = [
        |story| drop(story.feed(Input::Returned { publish_no: 1 })),
        |story| drop(story.lose()),
        |story| drop(story.revoke(RevokeReason::StartTimeout)),
        |story| drop(story.report(not_started(NotStarted::Draining))),
    ];
    for fail in failures {
        fail(&mut story);
        assert_eq!((story.status(), &story.task().approval), (Status::Pending, &approval));
        if story.task().run_after.is_some() {
            story.due();
        }
        assert!(is_changed(&story.assign("worker-1")));
    }
}

#[test]
fn incident_26_losing_the_planning_agent_keeps_plan_approval_and_pending_apply() {
    let mut story = Story::awaiting_approval();
    let planned = story.task().artifact.clone();
    let session = story.attempt().assignee.session;
    let ended = Input::SessionEnded { session, reason: crate::task::LossReason::Silent };
    assert_eq!(refusal(&story.feed(ended.clone())), Refusal::Duplicate);
    story.feed(Input::Approve { by: "ann".into(), digest: None });
    assert_eq!(refusal(&story.feed(ended)), Refusal::Duplicate);
    assert_eq!((story.status(), &story.task().artifact), (Status::Pending, &planned));
    assert!(is_changed(&story.assign("worker-1")));
}

#[test]
fn incident_37_a_cancel_waits_for_the_agents_answer() {
    for answer in [stopped(StoppedBy::Dispatcher), not_started(NotStarted::Revoked)] {
        let mut story = Story::of("plan_and_apply");
        story.assign("worker-0");
        story.started();
        story.cancel(false);
        assert_eq!((story.status(), story.task().holds), (Status::Running, true));
        assert!(story.attempt().revoke.is_some(), "nothing asks the agent to stop");
        story.report(answer);
        assert_eq!(story.status(), Status::Cancelled);
    }
}

#[test]
fn incident_38_finished_at_is_set_exactly_when_terminal() {
    let mut story = Story::of("plan");
    story.assign("worker-0");
    story.started();
    story.cancel(false);
    assert_eq!(story.task().finished_at, None);
    story.report(stopped(StoppedBy::Dispatcher));
    assert_eq!(story.task().finished_at, Some(story.context.now));
    let mut task = story.subject.task;
    task.finished_at = None;
    assert_eq!(check(&task), Err(Violation::FinishedAt));
}

#[test]
fn incident_39_no_report_resurrects_a_cancelled_task() {
    let mut story = Story::apply_assigned();
    story.cancel(false);
    let ended = story.subject.clone();
    story.ask(nonce(7));
    story.started();
    story.lose();
    for end in [succeeded(&[]), failed(), not_started(NotStarted::Draining)] {
        story.report(end);
    }
    story.feed(Input::Approve { by: "ann".into(), digest: None });
    story.feed(Input::Resolve {
        by: "ann".into(),
        to: ResolveTo::Succeeded,
        session_over: true,
        override_reason: None,
    });
    assert_eq!(story.subject, ended);
}

#[test]
fn incident_41_a_cancel_ends_every_wait_at_once() {
    let mut blocked = Story::of("plan_and_apply");
    blocked.subject.task.status = Status::Blocked;
    let mut not_due = Story::of("plan");
    not_due.subject.task.run_after = Some(not_due.context.now + chrono::TimeDelta::days(1));
    let mut between_tries = Story::of("plan");
    between_tries.assign("worker-0");
    between_tries.report(failed());
    for mut story in [blocked, not_due, between_tries, Story::of("plan"), Story::awaiting_approval()] {
        story.cancel(false);
        assert_eq!(story.status(), Status::Cancelled);
    }
    // What an agent has in hand is told to stop in the same moment.
    let mut running = Story::of("plan");
    running.assign("worker-0");
    running.started();
    let decision = running.cancel(false);
    assert!(decision.effects.contains(&crate::task::transition::Effect::SendRevoke));
}

#[test]
fn incident_42_losing_an_agent_leaves_no_task_with_an_empty_agent() {
    let mut shared = Story::of("plan");
    shared.assign("worker-0");
    let mut running = Story::of("plan");
    running.assign("worker-0");
    running.started();
    for mut story in [shared, running, Story::apply_assigned()] {
        story.lose();
        assert_eq!((story.status(), &story.task().assignee), (Status::Pending, &None));
        assert_eq!(story.attempt().end.unwrap().outcome, AttemptOutcome::Lost);
    }
    let mut apply = Story::apply_running();
    apply.lose();
    assert!(apply.status() == Status::Uncertain && apply.task().assignee.is_some());
}

#[test]
fn incident_53_a_second_replica_cannot_assign_what_is_assigned() {
    let mut first = Story::apply_assigned();
    assert_eq!(refusal(&first.assign("worker-1")), Refusal::NotNow(Status::Assigned));
    first.ask(nonce(7));
    assert_eq!(refusal(&first.assign("worker-1")), Refusal::NotNow(Status::Running));
    assert!(first.task().holds, "the workspace is held from the assignment on");
}

#[test]
fn incident_64_only_the_assigned_agent_with_its_token_is_heard() {
    let mut story = Story::of("plan");
    story.assign("worker-0");
    let mut other_agent = story.reporter();
    other_agent.agent = agent("worker-1");
    let mut other_pool = story.reporter();
    other_pool.agent.pool = crate::contract::ids::PoolId::new("other").unwrap();
    let mut revoked = story.reporter();
    revoked.granted = false;
    let mut stale = story.reporter();
    stale.epoch_is_current = false;
    let mut other_token = story.claim();
    other_token.lease = LeaseToken(uuid::Uuid::nil());
    let mut other_session = story.claim();
    other_session.session = SessionId(uuid::Uuid::nil());
    let mut other_attempt = story.claim();
    other_attempt.attempt = 2;
    let mut other_task = story.claim();
    other_task.task_id = crate::contract::ids::TaskId::new("task-2").unwrap();
    let cases = [
        (other_agent, story.claim(), Refusal::ForeignAgent),
        (other_pool, story.claim(), Refusal::ForeignAgent),
        (revoked, story.claim(), Refusal::PoolRevoked),
        (stale, story.claim(), Refusal::StaleEpoch),
        (story.reporter(), other_token, Refusal::WrongToken),
        (story.reporter(), other_session, Refusal::OtherSession),
        (story.reporter(), other_attempt, Refusal::UnknownAttempt),
        (story.reporter(), other_task, Refusal::UnknownAttempt),
    ];
    for (reporter, claim, expected) in cases {
        let outcome = Input::Outcome { reporter, claim, end: failed() };
        let decision = story.feed(outcome);
        assert_eq!((refusal(&decision), letters(&decision)), (expected, vec![]));
    }
    assert_eq!(story.status(), Status::Assigned);
}

#[test]
fn incident_69_a_report_after_a_blip_is_fenced_by_its_attempt() {
    let mut story = Story::of("plan");
    story.assign("worker-0");
    let (reporter, claim) = (story.reporter(), story.claim());
    story.lose();
    story.assign("worker-1");
    let late = Input::Outcome { reporter, claim, end: succeeded(&[]) };
    assert_eq!(refusal(&story.feed(late)), Refusal::UnknownAttempt);
    assert_eq!(story.status(), Status::Assigned);
    story.report(succeeded(&[]));
    assert_eq!(story.status(), Status::Succeeded);
}

#[test]
fn incident_70_trigger_and_sweep_that_saw_the_same_task_make_one_attempt() {
    for kind in ["plan", "plan_and_apply", "drift_check"] {
        let mut story = Story::of(kind);
        story.assign("worker-0");
        let assigned = story.subject.clone();
        story.assign("worker-1");
        assert_eq!(story.subject, assigned, "{kind}");
    }
}

#[test]
fn incident_73_a_started_apply_is_never_rerun_by_itself() {
    let uncertain = Story::uncertain().subject;
    let session = uncertain.attempt.as_ref().unwrap().assignee.session;
    let by_themselves = [
        Input::Due { place: None },
        Input::Promote,
        Input::Returned { publish_no: 1 },
        Input::Returned { publish_no: 2 },
        Input::SessionEnded { session, reason: crate::task::LossReason::Fenced },
        Input::NotListed,
        Input::DeadlinePassed,
        Input::QueueTimeout,
        Input::ApprovalExpired,
        Input::RetryNow,
        Input::Cancel { by: "bob".into(), force: true },
    ];
    let revokes = RevokeReason::ALL.map(|reason| Input::Revoke { reason });
    let context = Context::new(uncertain.task.since + chrono::TimeDelta::days(30), 0.0);
    for input in by_themselves.into_iter().chain(revokes) {
        let decision = transition(&uncertain, &input, &context);
        assert!(matches!(decision.verdict, Verdict::Refused(_)), "{input:?} changed an uncertain apply");
    }
}
