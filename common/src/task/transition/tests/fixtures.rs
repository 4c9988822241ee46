//! A task whose life a test tells input by input.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::contract::artifact::Manifest;
use crate::contract::ids::{
    AgentId, AgentRef, KindName, LeaseToken, Nonce, PoolId, SessionId, TaskId, WorkspaceId,
};
use crate::contract::report::{Claim, NotStarted, OutcomeEnd, StoppedBy};
use crate::failure::{Failure, FailureKind};
use crate::task::transition::{
    AssignTo, Context, Decision, Effect, Input, LossReason, Refusal, Reporter, Verdict, transition,
};
use crate::task::{Attempt, Kinds, RevokeReason, Status, Subject, Task, check_subject};

/// A task, its newest attempt, and a clock.
pub(super) struct Story {
    pub(super) subject: Subject,
    pub(super) context: Context,
    draws: u128,
}

pub(super) fn agent(name: &str) -> AgentRef {
    AgentRef { pool: PoolId::new("default").unwrap(), agent: AgentId::new(name).unwrap() }
}

pub(super) fn nonce(number: u128) -> Nonce {
    Nonce(Uuid::from_u128(number))
}

fn start_of_time() -> DateTime<Utc> {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

impl Story {
    /// A due task of a built-in kind, at the head of its workspace where it is exclusive.
    pub(super) fn of(kind: &str) -> Self {
        let kinds = Kinds::with_built_in([]).unwrap();
        let kind = kinds.get(&KindName::new(kind).unwrap()).unwrap().clone();
        let now = start_of_time();
        let task = Task {
            id: TaskId::new("task-1").unwrap(),
            workspace: WorkspaceId::new("ws-1").unwrap(),
            pool: PoolId::new("default").unwrap(),
            kind: kind.name,
            exclusive: kind.exclusive,
            steps: kind.steps,
            step: 0,
            status: Status::Pending,
            holds: false,
            position: kind.exclusive.then_some(1),
            run_after: None,
            deadline: None,
            since: now,
            attempts: 0,
            charge: 0,
            losses: 0,
            step_started: false,
            assignee: None,
            approval: None,
            auto_approve: false,
            artifact: None,
            cancel: None,
            failure: None,
            finished_at: None,
            version: 1,
        };
        let story =
            Self { subject: Subject { task, attempt: None }, context: Context::new(now, 1.0), draws: 0 };
        assert_eq!(check_subject(&story.subject), Ok(()));
        story
    }

    /// A `plan_and_apply` whose plan has left an artifact and that waits for approval.
    pub(super) fn awaiting_approval() -> Self {
        let mut story = Self::of("plan_and_apply");
        story.assign("worker-0");
        story.report(succeeded(&[("plan", b"change it")]));
        assert_eq!(story.status(), Status::AwaitingApproval);
        story
    }

    /// An approved apply that `worker-0` was given.
    pub(super) fn apply_assigned() -> Self {
        let mut story = Self::awaiting_approval();
        story.feed(Input::Approve { by: "ann".into(), digest: None });
        story.assign("worker-0");
        story
    }

    /// An approved apply that `worker-0` was allowed to start, with nonce 7.
    pub(super) fn apply_running() -> Self {
        let mut story = Self::apply_assigned();
        story.ask(nonce(7));
        assert_eq!(story.status(), Status::Running);
        story
    }

    /// An apply whose agent was lost after it was allowed to start.
    pub(super) fn uncertain() -> Self {
        let mut story = Self::apply_running();
        story.lose();
        assert_eq!(story.status(), Status::Uncertain);
        story
    }

    /// Decides one input, checks what must hold of every decision, and keeps what changed.
    pub(super) fn feed(&mut self, input: Input) -> Decision {
        let decision = transition(&self.subject, &input, &self.context);
        if let Verdict::Changed(next) = &decision.verdict {
            assert_eq!(check_subject(next), Ok(()), "after {input:?}");
            assert_eq!(next.task.version, self.subject.task.version + 1, "after {input:?}");
            self.subject = (**next).clone();
        }
        decision
    }

    pub(super) fn assign(&mut self, name: &str) -> Decision {
        self.draws += 1;
        self.feed(Input::Assign(AssignTo {
            agent: agent(name),
            pod: format!("{name}-pod"),
            session: SessionId(Uuid::from_u128(100 + self.draws)),
            lease: LeaseToken(Uuid::from_u128(200 + self.draws)),
        }))
    }

    /// A report in the name of the attempt in hand, as its agent sends it.
    pub(super) fn report(&mut self, end: OutcomeEnd) -> Decision {
        let (reporter, claim) = (self.reporter(), self.claim());
        self.feed(Input::Outcome { reporter, claim, end })
    }

    pub(super) fn started(&mut self) -> Decision {
        let (reporter, claim) = (self.reporter(), self.claim());
        self.feed(Input::Started { reporter, claim })
    }

    pub(super) fn ask(&mut self, nonce: Nonce) -> Decision {
        let (reporter, claim) = (self.reporter(), self.claim());
        self.feed(Input::Ask { reporter, claim, nonce })
    }

    pub(super) fn lose(&mut self) -> Decision {
        let session = self.attempt().assignee.session;
        self.feed(Input::SessionEnded { session, reason: LossReason::Silent })
    }

    pub(super) fn revoke(&mut self, reason: RevokeReason) -> Decision {
        self.feed(Input::Revoke { reason })
    }

    pub(super) fn cancel(&mut self, force: bool) -> Decision {
        self.feed(Input::Cancel { by: "bob".into(), force })
    }

    /// The publish of the assignment is known to be confirmed.
    pub(super) fn confirm(&mut self) {
        self.subject.attempt.as_mut().unwrap().confirmed = true;
    }

    /// Waits until the task is due again and makes it so.
    pub(super) fn due(&mut self) -> Decision {
        self.context.now = self.subject.task.run_after.unwrap();
        self.feed(Input::Due { place: None })
    }

    pub(super) fn wait_seconds(&mut self, seconds: i64) {
        self.context.now += TimeDelta::seconds(seconds);
    }

    pub(super) fn reporter(&self) -> Reporter {
        let agent = self.attempt().assignee.agent.clone();
        Reporter { agent, granted: true, epoch_is_current: true }
    }

    pub(super) fn claim(&self) -> Claim {
        let attempt = self.attempt();
        Claim {
            task_id: self.subject.task.id.clone(),
            attempt: attempt.number,
            session: attempt.assignee.session,
            lease: attempt.assignee.lease,
        }
    }

    pub(super) fn attempt(&self) -> &Attempt {
        self.subject.attempt.as_ref().unwrap()
    }

    pub(super) fn task(&self) -> &Task {
        &self.subject.task
    }

    pub(super) fn status(&self) -> Status {
        self.subject.task.status
    }
}

pub(super) fn succeeded(files: &[(&str, &[u8])]) -> OutcomeEnd {
    let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
    OutcomeEnd::Succeeded { changes: true, artifacts: Manifest::of(&files).unwrap(), result: None }
}

pub(super) fn unchanged() -> OutcomeEnd {
    OutcomeEnd::Succeeded { changes: false, artifacts: Manifest::default(), result: None }
}

pub(super) fn failed() -> OutcomeEnd {
    OutcomeEnd::Failed { failure: Failure::new(FailureKind::HandlerFailed, "exit code 1") }
}

pub(super) fn panicked() -> OutcomeEnd {
    let mut failure = Failure::new(FailureKind::HandlerPanicked, "index out of bounds");
    failure.backtrace = Some("0: handler::run".into());
    OutcomeEnd::Panicked { failure }
}

pub(super) fn timed_out() -> OutcomeEnd {
    OutcomeEnd::TimedOut { failure: Failure::new(FailureKind::RunTimeout, "ran for an hour") }
}

pub(super) fn not_started(reason: NotStarted) -> OutcomeEnd {
    OutcomeEnd::NotStarted { reason }
}

pub(super) fn stopped(by: StoppedBy) -> OutcomeEnd {
    OutcomeEnd::Cancelled { by }
}

/// The refusal, for a decision that must not have changed anything.
pub(super) fn refusal(decision: &Decision) -> Refusal {
    match &decision.verdict {
        Verdict::Refused(refusal) => refusal.clone(),
        Verdict::Changed(_) | Verdict::Unchanged => panic!("not refused: {decision:?}"),
    }
}

pub(super) fn is_changed(decision: &Decision) -> bool {
    matches!(decision.verdict, Verdict::Changed(_))
}

/// The dead letters of a decision: their kind, and whether the broker's copy will join.
pub(super) fn letters(decision: &Decision) -> Vec<(FailureKind, bool)> {
    let letter = |effect: &Effect| match effect {
        Effect::Letter { failure, broker_copy } => Some((failure.kind, *broker_copy)),
        Effect::Go { .. } | Effect::NoGo { .. } | Effect::SendRevoke => None,
    };
    decision.effects.iter().filter_map(letter).collect()
}
