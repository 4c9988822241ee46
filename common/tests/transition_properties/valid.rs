//! Tasks that the invariants allow: fresh from admission, and anything else.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use serde_json::json;
use switchyard_common::contract::ids::{
    AgentId, AgentRef, Digest, HandlerName, KindName, LeaseToken, Nonce, PoolId, SessionId, StepName, TaskId,
    WorkspaceId,
};
use switchyard_common::task::{
    Approval, Assignee, Attempt, AttemptEnd, AttemptOutcome, CancelRequest, LatestArtifact, Revoke,
    RevokeReason, Status, Step, StepPolicy, Subject, Task, check_subject,
};
use uuid::Uuid;

pub(crate) fn start_of_time() -> DateTime<Utc> {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

pub(crate) fn pool(own: bool) -> PoolId {
    PoolId::new(if own { "default" } else { "other" }).unwrap()
}

pub(crate) fn agent(number: u8, own_pool: bool) -> AgentRef {
    AgentRef { pool: pool(own_pool), agent: AgentId::new(format!("worker-{number}")).unwrap() }
}

fn step(name: &str, repeatable: bool, approval: bool) -> Step {
    Step {
        name: StepName::new(name).unwrap(),
        handler: HandlerName::new(name).unwrap(),
        approval,
        repeatable,
        parameters: json!({}),
        policy: StepPolicy::default(),
    }
}

/// Exclusive or not, and the steps.
fn kinds() -> Vec<(bool, Vec<Step>)> {
    let plan = || step("plan", true, false);
    let apply = || step("apply", false, true);
    vec![
        (false, vec![plan()]),
        (true, vec![plan(), apply()]),
        (true, vec![plan(), apply(), step("verify", true, false)]),
        (false, vec![step("send", false, false), step("check", true, true)]),
        (true, vec![plan(), apply(), step("clean-up", false, true)]),
        (true, vec![step("move", false, false), step("move-back", false, false)]),
    ]
}

fn fresh((exclusive, steps): (bool, Vec<Step>), auto_approve: bool) -> Task {
    Task {
        id: TaskId::new("task-1").unwrap(),
        workspace: WorkspaceId::new("ws-1").unwrap(),
        pool: pool(true),
        kind: KindName::new("kind").unwrap(),
        exclusive,
        steps: Arc::from(steps),
        step: 0,
        status: Status::Pending,
        holds: false,
        position: exclusive.then_some(1),
        run_after: None,
        deadline: None,
        since: start_of_time(),
        attempts: 0,
        charge: 0,
        losses: 0,
        step_started: false,
        assignee: None,
        approval: None,
        auto_approve,
        artifact: None,
        cancel: None,
        failure: None,
        finished_at: None,
        version: 1,
    }
}

/// A task as intake makes it: due at once, blocked, or due later.
pub(crate) fn admitted() -> impl Strategy<Value = Subject> {
    (prop::sample::select(kinds()), any::<bool>(), 0..3_u8).prop_map(|(kind, auto_approve, how)| {
        let mut task = fresh(kind, auto_approve);
        match how {
            0 if task.exclusive => task.status = Status::Blocked,
            1 => {
                task.position = None;
                task.run_after = Some(start_of_time() + TimeDelta::seconds(30));
            }
            _ => {}
        }
        let subject = Subject { task, attempt: None };
        assert_eq!(check_subject(&subject), Ok(()));
        subject
    })
}

prop_compose! {
    fn assignee()(agent_no in 0..3_u8, session in 1..4_u128, lease in 1..4_u128) -> Assignee {
        Assignee {
            agent: agent(agent_no, true),
            pod: format!("pod-{agent_no}"),
            session: SessionId(Uuid::from_u128(session)),
            lease: LeaseToken(Uuid::from_u128(lease)),
        }
    }
}

prop_compose! {
    fn revoke()(reason in prop::sample::select(RevokeReason::ALL.to_vec()), force in any::<bool>()) -> Revoke {
        Revoke { reason, at: start_of_time(), force }
    }
}

prop_compose! {
    fn cancel()(force in any::<bool>()) -> CancelRequest {
        CancelRequest { at: start_of_time(), by: "bob".into(), force }
    }
}

/// Where a task is in its life, and everything that its status leaves open.
#[derive(Debug, Clone)]
struct Draw {
    kind: (bool, Vec<Step>),
    auto_approve: bool,
    step: usize,
    status: Status,
    holds: bool,
    waits: bool,
    attempts: u32,
    charge: u32,
    losses: u32,
    assignee: Assignee,
    publish_no: u32,
    confirmed: bool,
    revoke: Option<Revoke>,
    cancel: Option<CancelRequest>,
    ended: AttemptOutcome,
}

prop_compose! {
    fn draw()(
        (kind, auto_approve) in (prop::sample::select(kinds()), any::<bool>()),
        step in 0..3_usize,
        status in prop::sample::select(Status::ALL.to_vec()),
        (holds, waits, confirmed) in (any::<bool>(), any::<bool>(), any::<bool>()),
        (attempts, charge, losses, publish_no) in (1..6_u32, 0..3_u32, 0..3_u32, 1..4_u32),
        assignee in assignee(),
        revoke in prop::option::of(revoke()),
        cancel in prop::option::of(cancel()),
        ended in prop::sample::select(AttemptOutcome::ALL.to_vec()),
    ) -> Draw {
        Draw {
            kind, auto_approve, step, status, holds, waits, attempts, charge, losses, assignee, publish_no, confirmed, revoke,
            cancel, ended,
        }
    }
}

/// Any task that the invariants allow, with its newest attempt.
pub(crate) fn subject() -> impl Strategy<Value = Subject> {
    draw().prop_filter_map("not a valid task", |draw| {
        let subject = build(draw);
        check_subject(&subject).is_ok().then_some(subject)
    })
}

fn build(draw: Draw) -> Subject {
    let now = start_of_time();
    let status = draw.status;
    let mut task = fresh(draw.kind, draw.auto_approve);
    task.step = draw.step.min(task.steps.len() - 1);
    task.status = status;
    let current = task.current_step().clone();
    let in_hand = status.has_assignee();
    let must_hold = in_hand || status == Status::AwaitingApproval;
    task.holds = task.exclusive && !status.is_terminal() && (must_hold || draw.holds);
    task.run_after = (status == Status::Pending && draw.waits).then(|| now + TimeDelta::seconds(30));
    task.attempts = draw.attempts;
    task.charge = draw.charge;
    task.losses = draw.losses;
    task.step_started = matches!(status, Status::Running | Status::Uncertain) && !current.repeatable;
    task.assignee = in_hand.then(|| draw.assignee.clone());
    task.finished_at = status.is_terminal().then_some(now);
    task.cancel = draw.cancel.filter(|_| in_hand || status.is_terminal());
    let digest = Digest::of(b"plan");
    if task.step > 0 {
        task.artifact = Some(LatestArtifact { attempt: 1, digest: digest.clone() });
    }
    if current.approval && status != Status::AwaitingApproval {
        task.approval = Some(Approval { step: task.step, digest, by: "ann".into(), at: now });
    }
    let runs = matches!(status, Status::Running | Status::Uncertain);
    let attempt = Attempt {
        number: task.attempts,
        step: task.step,
        repeatable: current.repeatable,
        assignee: draw.assignee,
        publish_no: draw.publish_no,
        confirmed: draw.confirmed,
        assigned_at: now,
        started_at: runs.then_some(now),
        nonce: (runs && !current.repeatable).then(|| Nonce(Uuid::from_u128(1))),
        revoke: draw.revoke,
        end: (!in_hand).then_some(AttemptEnd { outcome: draw.ended, at: now }),
    };
    Subject { task, attempt: Some(attempt) }
}
