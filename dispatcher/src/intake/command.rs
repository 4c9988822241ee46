//! What an admitted event asks for, with everything resolved that needs no database.

use chrono::{DateTime, Utc};
use serde_json::Value;
use switchyard_common::contract::answer::{Accepted, Rejected};
use switchyard_common::contract::event::{
    TaskApproved, TaskCancelRequested, TaskDiscarded, WorkspaceRegistered,
};
use switchyard_common::contract::ids::{Digest, PoolId, TaskId, WorkspaceId};
use switchyard_common::failure::{Failure, FailureKind};
use switchyard_common::task::Kind;

/// `source` and `id`: a second copy changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventKey {
    /// CloudEvents `source`.
    pub source: String,
    /// CloudEvents `id`.
    pub id: String,
}

/// An event that may go to the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Admitted {
    /// Which event.
    pub key: EventKey,
    /// Its CloudEvents type.
    pub event_type: &'static str,
    /// Over its body: the same id with another body is a conflict.
    pub body_hash: Digest,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// What it asks for.
    pub command: Command,
}

/// What an event asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Register or update a workspace.
    Register(WorkspaceRegistered),
    /// Submit a task.
    Submit(Box<NewTask>),
    /// Approve a step.
    Approve(TaskApproved),
    /// Discard what waits for approval.
    Discard(TaskDiscarded),
    /// Cancel a task.
    Cancel(TaskCancelRequested),
}

/// A task that is to come into being.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTask {
    /// Its id, given or drawn.
    pub task_id: TaskId,
    /// Its id was drawn here: nobody knows it before the task exists.
    pub id_is_drawn: bool,
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// Registers an unknown workspace in this pool.
    pub pool: Option<PoolId>,
    /// Its kind, as configured now; copied into the task.
    pub kind: Kind,
    /// What the handlers get.
    pub payload: Value,
    /// 0 to 9.
    pub priority: u8,
    /// Not before this time.
    pub not_before: Option<DateTime<Utc>>,
    /// Fails when it has not ended by this time.
    pub deadline: Option<DateTime<Utc>>,
    /// Approves by itself.
    pub auto_approve: bool,
    /// One task per source and key.
    pub idempotency_key: Option<String>,
    /// The ended task that this one repeats.
    pub replay_of: Option<TaskId>,
}

/// Why an event has no effect, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}; {what_to_do}")]
pub struct Rejection {
    /// The reason, from the closed list.
    pub code: FailureKind,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub what_to_do: String,
}

impl Rejection {
    /// A rejection.
    #[must_use]
    pub fn new(code: FailureKind, message: impl Into<String>, what_to_do: impl Into<String>) -> Self {
        Self { code, message: message.into(), what_to_do: what_to_do.into() }
    }

    /// The failure that its dead letter records.
    #[must_use]
    pub fn failure(&self) -> Failure {
        Failure::new(self.code, self.to_string())
    }

    /// The answer to its publisher.
    #[must_use]
    pub fn answer(&self, event_id: Option<&str>) -> Rejected {
        Rejected {
            event_id: event_id.map(ToOwned::to_owned),
            code: self.code,
            message: self.message.clone(),
            what_to_do: self.what_to_do.clone(),
        }
    }
}

/// What the store made of an admitted event.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It has had its effect, now or in an earlier copy.
    Accepted(Accepted),
    /// It has none.
    Rejected(Rejection),
    /// It names what may be about to appear: try again in a moment, and reject it with this when nothing appears (design 5).
    Hold(Rejection),
}
