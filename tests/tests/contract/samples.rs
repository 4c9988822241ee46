//! One message of each type and variant, made by the Rust types, with every optional field set.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use switchyard_common::contract::answer::{Accepted, Answer, Rejected};
use switchyard_common::contract::artifact::{ArtifactPart, Manifest};
use switchyard_common::contract::assignment::{
    AgentMessage, AssignedApproval, Assignment, AttemptKey, InputPart,
};
use switchyard_common::contract::cloudevent::CloudEvent;
use switchyard_common::contract::control::{Control, Order};
use switchyard_common::contract::event::{
    EventData, TaskApproved, TaskCancelRequested, TaskDiscarded, TaskSubmitted, WorkspaceRegistered,
};
use switchyard_common::contract::ids::{
    AgentId, Digest, HandlerName, KindName, LeaseToken, Nonce, PoolId, SessionId, StepName, TaskId,
    WorkspaceId,
};
use switchyard_common::contract::notification::Notification;
use switchyard_common::contract::report::{
    Ask, Claim, InHand, LeftPart, LogLine, LogLines, LogStream, NotStarted, Outcome, OutcomeBatch,
    OutcomeEnd, Presence, Report, ReportBody, StartedBatch, StoppedBy,
};
use switchyard_common::contract::schema::{
    AGENT_MESSAGE_FILE, ANSWER_FILE, CONTROL_FILE, NOTIFICATION_FILE, REPORT_FILE, event_file,
};
use switchyard_common::failure::{Failure, FailureKind};
use switchyard_common::task::Status;
use uuid::Uuid;

/// A message, and the file of its schema.
pub(crate) struct Sample {
    pub(crate) file: String,
    pub(crate) name: String,
    pub(crate) value: Value,
}

fn sample(file: &str, name: &str, message: &impl Serialize) -> Sample {
    Sample { file: file.to_owned(), name: name.to_owned(), value: serde_json::to_value(message).unwrap() }
}

/// Every sample.
pub(crate) fn all() -> Vec<Sample> {
    let mut samples = events();
    samples.extend(agent_messages());
    samples.extend(controls());
    samples.extend(reports());
    samples.extend(answers());
    samples
}

pub(crate) fn now() -> DateTime<Utc> {
    "2026-01-31T12:00:00Z".parse().unwrap()
}

fn task_id() -> TaskId {
    TaskId::new("task-1").unwrap()
}

fn workspace_id() -> WorkspaceId {
    WorkspaceId::new("prod / eu-west").unwrap()
}

fn pool() -> PoolId {
    PoolId::new("default").unwrap()
}

fn session() -> SessionId {
    SessionId(Uuid::from_u128(1))
}

fn nonce() -> Nonce {
    Nonce(Uuid::from_u128(2))
}

fn key() -> AttemptKey {
    AttemptKey { task_id: task_id(), attempt: 2 }
}

fn claim() -> Claim {
    Claim { task_id: task_id(), attempt: 2, session: session(), lease: LeaseToken(Uuid::from_u128(3)) }
}

fn manifest() -> Manifest {
    Manifest::of(&BTreeMap::from([("plan".to_owned(), b"change".to_vec())])).unwrap()
}

fn part() -> ArtifactPart {
    ArtifactPart { name: "plan".into(), part: 0, bytes: b"change".to_vec() }
}

pub(crate) fn failure(kind: FailureKind) -> Failure {
    Failure {
        kind,
        message: "exit code 1".into(),
        location: Some("src/main.rs:7:1".into()),
        backtrace: Some("0: main".into()),
        exit_code: Some(1),
        signal: Some(9),
        log_tail: vec!["last line".into()],
    }
}

fn events() -> Vec<Sample> {
    let data = [
        EventData::WorkspaceRegistered(WorkspaceRegistered {
            workspace_id: workspace_id(),
            pool: pool(),
            labels: Some(BTreeMap::from([("team".into(), "infra".into())])),
        }),
        EventData::TaskSubmitted(Box::new(TaskSubmitted {
            task_id: Some(task_id()),
            workspace_id: workspace_id(),
            pool: Some(pool()),
            kind: KindName::new("plan_and_apply").unwrap(),
            payload: json!({ "folder": "prod" }),
            priority: Some(9),
            not_before: Some(now()),
            deadline: Some(now() + chrono::TimeDelta::hours(1)),
            auto_approve: Some(true),
            idempotency_key: Some("key".into()),
            replay_of: Some(TaskId::new("task-0").unwrap()),
        })),
        EventData::TaskApproved(TaskApproved {
            task_id: task_id(),
            approved_by: "ann".into(),
            comment: Some("looks right".into()),
            artifact_digest: Some(manifest().digest()),
        }),
        EventData::TaskDiscarded(TaskDiscarded {
            task_id: task_id(),
            discarded_by: "ann".into(),
            comment: Some("too late".into()),
        }),
        EventData::TaskCancelRequested(TaskCancelRequested {
            task_id: task_id(),
            requested_by: "bob".into(),
            force: Some(true),
        }),
    ];
    data.into_iter()
        .map(|data| {
            let event_type = data.event_type();
            let event = envelope(event_type.as_str(), data.to_value().unwrap());
            sample(&event_file(event_type), event_type.as_str(), &event)
        })
        .collect()
}

fn envelope(event_type: &str, data: Value) -> CloudEvent {
    let mut event = CloudEvent::new("e-1", "/billing", event_type, data);
    event.time = Some(now());
    event.subject = Some("task-1".into());
    event.traceparent = Some(format!("00-{}-{}-01", "a".repeat(32), "b".repeat(16)));
    event
}

fn agent_messages() -> Vec<Sample> {
    let assignment = Assignment {
        epoch: 1,
        task_id: task_id(),
        attempt: 2,
        lease: LeaseToken(Uuid::from_u128(3)),
        session: session(),
        pool: pool(),
        agent: AgentId::new("worker-0").unwrap(),
        workspace_id: workspace_id(),
        kind: KindName::new("plan_and_apply").unwrap(),
        step: StepName::new("apply").unwrap(),
        handler: HandlerName::new("apply").unwrap(),
        exclusive: true,
        repeatable: false,
        run_timeout_ms: 3_600_000,
        parameters: json!({ "refresh_only": false }),
        payload: json!({ "folder": "prod" }),
        approval: Some(AssignedApproval {
            approved_by: "ann".into(),
            approved_at: now(),
            digest: manifest().digest(),
        }),
        inputs: manifest(),
        publish_no: 1,
        traceparent: None,
    };
    let input = InputPart { key: key(), session: session(), part: part() };
    vec![
        sample(AGENT_MESSAGE_FILE, "assignment", &AgentMessage::Assignment(Box::new(assignment))),
        sample(AGENT_MESSAGE_FILE, "input_part", &AgentMessage::InputPart(input)),
    ]
}

fn controls() -> Vec<Sample> {
    let orders = [
        Order::Go { key: key(), nonce: nonce() },
        Order::NoGo { key: key(), nonce: nonce(), reason: "ended".into() },
        Order::Cancel { claim: claim(), force: true },
        Order::Revoke { claim: claim(), reason: "deadline".into(), force: true },
        Order::Drain,
        Order::EndSession { session: session() },
    ];
    orders
        .into_iter()
        .map(|order| sample(CONTROL_FILE, &format!("{order:?}"), &Control { epoch: 1, order }))
        .collect()
}

fn ends() -> Vec<OutcomeEnd> {
    vec![
        OutcomeEnd::Succeeded { changes: true, artifacts: manifest(), result: Some(json!({ "added": 1 })) },
        OutcomeEnd::Failed { failure: failure(FailureKind::HandlerFailed) },
        OutcomeEnd::Panicked { failure: failure(FailureKind::HandlerPanicked) },
        OutcomeEnd::TimedOut { failure: failure(FailureKind::RunTimeout) },
        OutcomeEnd::Cancelled { by: StoppedBy::Drain },
        OutcomeEnd::NotStarted { reason: NotStarted::OtherSession },
    ]
}

fn reports() -> Vec<Sample> {
    let presence = Presence {
        session: session(),
        sequence: 7,
        pod: "worker-0".into(),
        node: Some("node-3".into()),
        version: "0.1.0".into(),
        slots: 4,
        credit: 4,
        max_exclusive: 1,
        handlers: BTreeSet::from([HandlerName::new("plan").unwrap()]),
        draining: false,
        in_hand: vec![InHand { key: key(), session: session(), running: true }],
    };
    let line =
        LogLine { sequence: 1, at: now(), stream: LogStream::Stderr, text: "applying \u{1f600}".into() };
    let mut bodies = vec![
        ReportBody::Hello(presence.clone()),
        ReportBody::Heartbeat(presence),
        ReportBody::Ask(Ask { claim: claim(), nonce: nonce() }),
        ReportBody::Started(StartedBatch { claims: vec![claim()] }),
        ReportBody::Artifact(LeftPart { claim: claim(), part: part() }),
        ReportBody::Log(LogLines { claim: claim(), lines: vec![line] }),
    ];
    bodies.extend(ends().into_iter().map(|end| {
        let outcome = Outcome { claim: claim(), started_at: Some(now()), ended_at: now(), log_lines: 1, end };
        ReportBody::Outcome(OutcomeBatch { outcomes: vec![outcome] })
    }));
    bodies
        .into_iter()
        .map(|body| sample(REPORT_FILE, &format!("{} {body:?}", body.name()), &Report { epoch: 1, body }))
        .collect()
}

fn answers() -> Vec<Sample> {
    let accepted = Answer::Accepted(Accepted {
        event_id: "e-1".into(),
        task_id: Some(task_id()),
        status: Some(Status::Pending),
        artifact_digest: Some(Digest::of(b"plan")),
        note: Some("bound the current artifacts".into()),
    });
    let rejected = Answer::Rejected(Rejected {
        event_id: None,
        code: FailureKind::UnknownKind,
        message: "the kind is not known".into(),
        what_to_do: "use plan".into(),
    });
    let notification = Notification {
        task_id: Some(task_id()),
        workspace_id: Some(workspace_id()),
        kind: Some(KindName::new("plan").unwrap()),
        status: Some(Status::Failed),
        letter_id: None,
        version: 4,
        at: now(),
        artifact_digest: None,
        failure: Some(FailureKind::HandlerFailed),
        message: Some("exit code 1".into()),
    };
    let notified = envelope("switchyard.task.failed.v1", serde_json::to_value(notification).unwrap());
    vec![
        sample(ANSWER_FILE, "accepted", &accepted),
        sample(ANSWER_FILE, "rejected", &rejected),
        sample(NOTIFICATION_FILE, "notification", &notified),
    ]
}
