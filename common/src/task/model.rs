//! A task and one of its attempts, as far as decisions need them.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::contract::ids::{
    AgentRef, Digest, KindName, LeaseToken, Nonce, PoolId, SessionId, TaskId, WorkspaceId,
};
use crate::failure::FailureKind;

use super::kind::Step;
use super::status::Status;

/// Times and counts of a step. Stored with it, so fields that are not known are left out of account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepPolicy {
    /// Tries of the step that may fail before the task fails.
    pub max_attempts: u32,
    /// Wait before the second try, in milliseconds; doubles with each further one.
    pub backoff_initial_ms: u64,
    /// Longest wait between tries, in milliseconds.
    pub backoff_max_ms: u64,
    /// Longest run of the handler, in milliseconds. The agent enforces it; the dispatcher revokes after a grace on top.
    pub run_timeout_ms: u64,
    /// Longest time from assignment to start, in milliseconds; none = as long as the agent has it in hand.
    pub start_timeout_ms: Option<u64>,
    /// Longest wait for an agent, in milliseconds; then the task fails. None = waits for ever.
    pub queue_timeout_ms: Option<u64>,
    /// Longest wait for an approval, in milliseconds; then the task fails. None = waits for ever.
    pub approval_timeout_ms: Option<u64>,
}

impl Default for StepPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            backoff_initial_ms: 1_000,
            backoff_max_ms: 60_000,
            run_timeout_ms: 3_600_000,
            start_timeout_ms: None,
            queue_timeout_ms: None,
            approval_timeout_ms: None,
        }
    }
}

/// Who has a task in hand: set exactly in assigned, running and uncertain (incidents 1, 42).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignee {
    /// Pool and agent.
    pub agent: AgentRef,
    /// The pod's name, or the host's.
    pub pod: String,
    /// The agent's session.
    pub session: SessionId,
    /// The attempt's secret.
    pub lease: LeaseToken,
}

/// An approval: who, when, of which step and of which bytes (incidents 20 to 22).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// Index of the approved step.
    pub step: usize,
    /// The manifest digest that was approved.
    pub digest: Digest,
    /// Who approved; `auto_approve` when the task asked for it itself.
    pub by: String,
    /// When, by the database clock.
    pub at: DateTime<Utc>,
}

/// A request to cancel; not a status (protocol H).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelRequest {
    /// When, by the database clock.
    pub at: DateTime<Utc>,
    /// Who asked.
    pub by: String,
    /// Also stops a non-repeatable step that runs.
    pub force: bool,
}

/// The newest artifacts of a task: the structural reference of an apply to its plan (incident 16).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LatestArtifact {
    /// The attempt that left them.
    pub attempt: u32,
    /// The digest of their manifest.
    pub digest: Digest,
}

/// A task, as far as decisions need it.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// Its workspace; never changes.
    pub workspace: WorkspaceId,
    /// Its pool; never changes.
    pub pool: PoolId,
    /// Its kind.
    pub kind: KindName,
    /// One at a time per workspace.
    pub exclusive: bool,
    /// Its steps, as configured at admission.
    pub steps: Arc<[Step]>,
    /// Index of the current step.
    pub step: usize,
    /// Its state.
    pub status: Status,
    /// Holds its workspace: from its first assignment to its end, through retries and approval.
    pub holds: bool,
    /// Place among the exclusive tasks of the workspace; none until it is due, and for kinds that are not exclusive.
    pub position: Option<i64>,
    /// Not before this time; none = due.
    pub run_after: Option<DateTime<Utc>>,
    /// Fails when not ended by then.
    pub deadline: Option<DateTime<Utc>>,
    /// Since when it is in this status and step.
    pub since: DateTime<Utc>,
    /// Attempts so far; also the number of the newest one.
    pub attempts: u32,
    /// Tries of the current step that count against its `max_attempts`.
    pub charge: u32,
    /// Attempts of the current step that were lost with their agent.
    pub losses: u32,
    /// The current step is not repeatable and has been allowed to start.
    pub step_started: bool,
    /// Who has it in hand.
    pub assignee: Option<Assignee>,
    /// The approval of the current step.
    pub approval: Option<Approval>,
    /// Approve by itself.
    pub auto_approve: bool,
    /// The newest artifacts.
    pub artifact: Option<LatestArtifact>,
    /// A request to cancel.
    pub cancel: Option<CancelRequest>,
    /// Why the newest try failed.
    pub failure: Option<(FailureKind, String)>,
    /// When it ended: set exactly in terminal states (incident 38).
    pub finished_at: Option<DateTime<Utc>>,
    /// Number of changes so far; every write checks it (incident 55).
    pub version: i64,
}

impl Task {
    /// The current step.
    #[must_use]
    pub fn current_step(&self) -> &Step {
        // `step` is kept inside `steps` by the transition function and by a CHECK; the last step is the safe answer otherwise.
        self.steps.get(self.step).unwrap_or(&self.steps[self.steps.len() - 1])
    }

    /// Whether the current step has the approval that it needs, of the bytes that are current.
    #[must_use]
    pub fn is_approved_for_step(&self) -> bool {
        if !self.current_step().approval {
            return true;
        }
        match (&self.approval, &self.artifact) {
            (Some(approval), Some(artifact)) => {
                approval.step == self.step && approval.digest == artifact.digest
            }
            (Some(_), None) | (None, _) => false,
        }
    }
}

/// Why an attempt is to be stopped, or never started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevokeReason {
    /// Somebody cancelled the task.
    Cancel,
    /// The deadline passed.
    Deadline,
    /// The run timeout and its grace passed.
    RunTimeout,
    /// It was not started in time.
    StartTimeout,
    /// A copy of it was returned, but another may have been delivered (protocol B3).
    Returned,
    /// The agent does not list it (protocol C2).
    NotListed,
    /// The broker dead-lettered it without a failure (protocol D3).
    BrokerLetter,
    /// The pool's grant was revoked.
    PoolRevoked,
}

impl RevokeReason {
    /// Every reason.
    pub const ALL: [Self; 8] = [
        Self::Cancel,
        Self::Deadline,
        Self::RunTimeout,
        Self::StartTimeout,
        Self::Returned,
        Self::NotListed,
        Self::BrokerLetter,
        Self::PoolRevoked,
    ];

    /// The stored text form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Deadline => "deadline",
            Self::RunTimeout => "run_timeout",
            Self::StartTimeout => "start_timeout",
            Self::Returned => "returned",
            Self::NotListed => "not_listed",
            Self::BrokerLetter => "broker_letter",
            Self::PoolRevoked => "pool_revoked",
        }
    }

    /// Reads the stored text form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

/// A durable request to the agent, sent again until it is answered (protocol B4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revoke {
    /// Why.
    pub reason: RevokeReason,
    /// Since when, by the database clock.
    pub at: DateTime<Utc>,
    /// Also stops a non-repeatable step that runs.
    pub force: bool,
}

/// How an attempt ended, as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    /// Reported by the agent.
    Succeeded,
    /// Reported by the agent.
    Failed,
    /// Reported by the agent.
    Panicked,
    /// Reported by the agent.
    TimedOut,
    /// Reported by the agent.
    Cancelled,
    /// Reported by the agent.
    NotStarted,
    /// The session ended before the agent reported.
    Lost,
    /// The only copy of the assignment was returned by the broker (protocol B3).
    Returned,
    /// Closed by the dispatcher before it could start: its ask will be refused (protocol B4).
    Withdrawn,
    /// Closed by an operator who resolved an uncertain task.
    Resolved,
}

impl AttemptOutcome {
    /// Every outcome.
    pub const ALL: [Self; 10] = [
        Self::Succeeded,
        Self::Failed,
        Self::Panicked,
        Self::TimedOut,
        Self::Cancelled,
        Self::NotStarted,
        Self::Lost,
        Self::Returned,
        Self::Withdrawn,
        Self::Resolved,
    ];

    /// The stored text form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Panicked => "panicked",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::NotStarted => "not_started",
            Self::Lost => "lost",
            Self::Returned => "returned",
            Self::Withdrawn => "withdrawn",
            Self::Resolved => "resolved",
        }
    }

    /// Reads the stored text form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == text)
    }
}

/// The end of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptEnd {
    /// How.
    pub outcome: AttemptOutcome,
    /// When, by the database clock.
    pub at: DateTime<Utc>,
}

/// One try of a step by one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Number in its task; never reused.
    pub number: u32,
    /// Index of the step that it tries.
    pub step: usize,
    /// Whether that step is repeatable.
    pub repeatable: bool,
    /// Who has it.
    pub assignee: Assignee,
    /// How often its assignment was published, counted before each publish (protocol B1).
    pub publish_no: u32,
    /// A publish of it is known to have been confirmed.
    pub confirmed: bool,
    /// When it was committed.
    pub assigned_at: DateTime<Utc>,
    /// When it was reported, or allowed, to run.
    pub started_at: Option<DateTime<Utc>>,
    /// The nonce whose ask was granted (protocol B7).
    pub nonce: Option<Nonce>,
    /// A durable request to stop it.
    pub revoke: Option<Revoke>,
    /// Its end; none while it is open.
    pub end: Option<AttemptEnd>,
}

/// A task with the attempt that an input is about: the one that a claim names, else the open one.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    /// The task.
    pub task: Task,
    /// The attempt.
    pub attempt: Option<Attempt>,
}
