//! What goes into the transition function and what comes out.

use chrono::{DateTime, Utc};

use crate::contract::ids::{AgentRef, Digest, LeaseToken, Nonce, SessionId};
use crate::contract::report::{Claim, OutcomeEnd};
use crate::failure::{Failure, FailureKind};
use crate::task::model::{Assignee, Attempt, AttemptEnd, AttemptOutcome, RevokeReason, Subject, Task};
use crate::task::place::Place;
use crate::task::status::Status;

/// Clock, randomness and limits of one decision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Context {
    /// Now, by the database clock.
    pub now: DateTime<Utc>,
    /// A random number from 0 to 1 for retry times.
    pub jitter: f64,
    /// Losses of a step after which the task fails (protocol B9).
    pub losses_max: u32,
}

impl Context {
    /// Losses of one step that are tolerated by default, in attempts (protocol B9).
    pub const LOSSES_MAX_DEFAULT: u32 = 3;

    /// A context with the default limits.
    #[must_use]
    pub const fn new(now: DateTime<Utc>, jitter: f64) -> Self {
        Self { now, jitter, losses_max: Self::LOSSES_MAX_DEFAULT }
    }
}

/// Who sent a report, as the routing key says, and whether it may speak at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reporter {
    /// Pool and agent of the routing key.
    pub agent: AgentRef,
    /// The pool's grant is live (incident 63).
    pub granted: bool,
    /// The report carries the current restore epoch (protocol G).
    pub epoch_is_current: bool,
}

/// Where an assignment goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignTo {
    /// Pool and agent.
    pub agent: AgentRef,
    /// The pod's name.
    pub pod: String,
    /// The agent's current session.
    pub session: SessionId,
    /// The secret drawn for the new attempt.
    pub lease: LeaseToken,
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossReason {
    /// Silent for the lost-timeout (protocol C1).
    Silent,
    /// A newer session of the same agent was seen (protocol A2).
    Superseded,
    /// The pool's grant was revoked.
    PoolRevoked,
    /// The restore epoch was raised (protocol G).
    Fenced,
    /// Its session lives, but its outcome was lost after the broker had confirmed it, and its agent keeps it no longer.
    OutcomeLost,
}

impl LossReason {
    /// The stored text form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Superseded => "superseded",
            Self::PoolRevoked => "pool_revoked",
            Self::Fenced => "fenced",
            Self::OutcomeLost => "outcome_lost",
        }
    }
}

/// How an operator resolves an uncertain task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResolveTo {
    /// The step did its work.
    Succeeded,
    /// It did not.
    Failed,
}

/// Everything that can happen to a task.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Its time has come: `not_before`, or the wait before a retry. `place` for an exclusive task without a position.
    Due {
        /// What the workspace says, read under its lock.
        place: Option<Place>,
    },
    /// The task ahead of it in its workspace has ended.
    Promote,
    /// The scheduler chose an agent.
    Assign(AssignTo),
    /// The broker returned the publish with this number.
    Returned {
        /// The number that the returned copy carried.
        publish_no: u32,
    },
    /// An agent asks to start a non-repeatable step.
    Ask {
        /// Who sent it.
        reporter: Reporter,
        /// For which attempt.
        claim: Claim,
        /// Of this ask.
        nonce: Nonce,
    },
    /// An agent says that a repeatable step runs.
    Started {
        /// Who sent it.
        reporter: Reporter,
        /// For which attempt.
        claim: Claim,
    },
    /// An agent says how an attempt ended.
    Outcome {
        /// Who sent it.
        reporter: Reporter,
        /// For which attempt.
        claim: Claim,
        /// How.
        end: OutcomeEnd,
    },
    /// The session of the open attempt has ended.
    SessionEnded {
        /// Which.
        session: SessionId,
        /// Why.
        reason: LossReason,
    },
    /// Two heartbeats sent after the attempt's confirmation do not list it.
    NotListed,
    /// The dispatcher wants the attempt to end.
    Revoke {
        /// Why.
        reason: RevokeReason,
    },
    /// The task's deadline passed.
    DeadlinePassed,
    /// The step waited too long for an agent.
    QueueTimeout,
    /// The step waited too long for an approval.
    ApprovalExpired,
    /// Somebody approves.
    Approve {
        /// Who.
        by: String,
        /// What; none = what is current.
        digest: Option<Digest>,
    },
    /// Somebody discards.
    Discard {
        /// Who.
        by: String,
    },
    /// Somebody cancels.
    Cancel {
        /// Who.
        by: String,
        /// Even a non-repeatable step that runs.
        force: bool,
    },
    /// An operator resolves an uncertain task.
    Resolve {
        /// Who.
        by: String,
        /// To what.
        to: ResolveTo,
        /// The session is superseded, or its container is known to have terminated.
        session_over: bool,
        /// Said by the operator who takes the risk otherwise.
        override_reason: Option<String>,
    },
    /// An operator does not want to wait for the next try.
    RetryNow,
}

/// Why an input changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The report names an attempt that does not exist.
    #[error("the attempt does not exist")]
    UnknownAttempt,
    /// The report comes from an agent that was not given the attempt (incident 64).
    #[error("the attempt was not assigned to this agent")]
    ForeignAgent,
    /// The report does not carry the attempt's lease token.
    #[error("the lease token is not the attempt's")]
    WrongToken,
    /// The report speaks for another session than the attempt's.
    #[error("the session is not the attempt's")]
    OtherSession,
    /// The pool's grant is revoked (incident 63).
    #[error("the pool's grant is revoked")]
    PoolRevoked,
    /// The report is from before a restore.
    #[error("the report carries an older restore epoch")]
    StaleEpoch,
    /// The attempt has ended, otherwise than reported.
    #[error("the attempt has ended already: {0:?}")]
    Ended(AttemptOutcome),
    /// A copy of what was settled before: benign.
    #[error("a copy of what was settled before")]
    Duplicate,
    /// The task has ended (incident 39).
    #[error("the task has ended as {0}")]
    Terminal(Status),
    /// An outcome other than not_started for a non-repeatable attempt that was never allowed to start: an alarm.
    #[error("the step was never allowed to start, yet an outcome was reported")]
    NeverAllowed,
    /// The approval names other bytes than those that wait.
    #[error("the digest is not the one that waits for approval ({current})")]
    DigestMismatch {
        /// What waits.
        current: Digest,
    },
    /// The task does not wait for an approval.
    #[error("the task is {status}: only one that is awaiting_approval can be approved or discarded")]
    NotAwaitingApproval {
        /// Its status.
        status: Status,
    },
    /// The step was approved before.
    #[error("the step was approved already by {by}")]
    AlreadyApproved {
        /// By whom.
        by: String,
    },
    /// A running non-repeatable step is stopped only with force.
    #[error(
        "a non-repeatable step runs: stopping it may leave things half changed; repeat with force to stop it all the same"
    )]
    NeedsForce,
    /// A cancel was asked for before.
    #[error("a cancel was requested already by {by}")]
    AlreadyCancelled {
        /// By whom.
        by: String,
    },
    /// Only an operator's decision ends an uncertain task.
    #[error("the task is uncertain: resolve it to succeeded or failed")]
    Uncertain,
    /// The task is not uncertain.
    #[error("the task is {status}: only an uncertain one can be resolved")]
    NotUncertain {
        /// Its status.
        status: Status,
    },
    /// The agent may still run the step.
    #[error("the session of its agent is not known to be over: wait, or give a reason to override")]
    SessionMayLive,
    /// The state does not allow it.
    #[error("not possible while the task is {0}")]
    NotNow(Status),
    /// The agent belongs to another pool than the task: the boundary of trust.
    #[error("the agent is not of the task's pool")]
    OtherPool,
    /// The step needs an approval of the bytes that are current.
    #[error("the step is not approved")]
    NotApproved,
}

/// What is to be done after the commit.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Answer the ask: start.
    Go {
        /// The granted nonce.
        nonce: Nonce,
    },
    /// Answer the ask: do not start.
    NoGo {
        /// The refused nonce.
        nonce: Nonce,
        /// Why, for the log.
        reason: String,
    },
    /// Send the attempt's revoke request now; it is durable and sent again until answered.
    SendRevoke,
    /// Record a dead letter, in the same transaction.
    Letter {
        /// Why.
        failure: Failure,
        /// The agent nacks a delivery: the broker's copy will join.
        broker_copy: bool,
    },
}

/// What comes of an input.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Write this.
    Changed(Box<Subject>),
    /// Nothing to write: the input was right and asks for effects alone.
    Unchanged,
    /// Nothing to write: the input was wrong or late. Logged and counted, never ignored.
    Refused(Refusal),
}

/// A verdict and its effects.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What to write.
    pub verdict: Verdict,
    /// What to do after the commit.
    pub effects: Vec<Effect>,
}

impl Decision {
    pub(super) fn changed(subject: Subject) -> Self {
        Self { verdict: Verdict::Changed(Box::new(subject)), effects: Vec::new() }
    }

    pub(super) const fn refused(refusal: Refusal) -> Self {
        Self { verdict: Verdict::Refused(refusal), effects: Vec::new() }
    }

    pub(super) const fn unchanged() -> Self {
        Self { verdict: Verdict::Unchanged, effects: Vec::new() }
    }

    pub(super) fn with(mut self, effect: Effect) -> Self {
        self.effects.push(effect);
        self
    }

    pub(super) fn with_letter(self, failure: Failure, broker_copy: bool) -> Self {
        self.with(Effect::Letter { failure, broker_copy })
    }
}

/// Small moves that several families share. Each leaves the subject ready to be written.
pub(super) struct Move {
    pub(super) task: Task,
    pub(super) attempt: Option<Attempt>,
}

impl Move {
    pub(super) fn of(subject: &Subject) -> Self {
        Self { task: subject.task.clone(), attempt: subject.attempt.clone() }
    }

    pub(super) fn done(mut self) -> Subject {
        self.task.version += 1;
        Subject { task: self.task, attempt: self.attempt }
    }

    pub(super) fn enter(mut self, status: Status, context: &Context) -> Self {
        debug_assert!(self.task.status.may_become(status), "{} -> {status}", self.task.status);
        self.task.status = status;
        self.task.since = context.now;
        if !status.has_assignee() {
            self.task.assignee = None;
        }
        if status.is_terminal() {
            self.task.finished_at = Some(context.now);
            self.task.holds = false;
            self.task.run_after = None;
        }
        self
    }

    /// Closes the attempt in hand.
    pub(super) fn close(mut self, outcome: AttemptOutcome, context: &Context) -> Self {
        if let Some(attempt) = &mut self.attempt {
            attempt.end = Some(AttemptEnd { outcome, at: context.now });
        }
        self
    }

    /// Back to pending for another attempt of the same step.
    pub(super) fn requeue(mut self, delay: std::time::Duration, context: &Context) -> Self {
        let wait = chrono::TimeDelta::from_std(delay).unwrap_or(chrono::TimeDelta::MAX);
        self.task.run_after =
            if delay.is_zero() { None } else { context.now.checked_add_signed(wait).or(Some(context.now)) };
        self.enter(Status::Pending, context)
    }

    pub(super) fn fail(mut self, kind: FailureKind, message: &str, context: &Context) -> Self {
        self.task.failure = Some((kind, message.to_owned()));
        self.enter(Status::Failed, context)
    }

    pub(super) fn assignee_of(to: &AssignTo) -> Assignee {
        Assignee { agent: to.agent.clone(), pod: to.pod.clone(), session: to.session, lease: to.lease }
    }
}
