//! The answer to an event whose publisher set `reply_to`: sent after the commit.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ids::{Digest, TaskId};
use crate::failure::FailureKind;
use crate::task::Status;

/// Accepted or rejected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// The event is stored and has had its effect.
    Accepted(Accepted),
    /// The event had no effect and is in the dead letters.
    Rejected(Rejected),
}

/// What an accepted event did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Accepted {
    /// The event's id.
    pub event_id: String,
    /// The task that it made or changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<TaskId>,
    /// The task's status after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// The digest that an approval has bound (protocol F3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_digest: Option<Digest>,
    /// What else the publisher should know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Why an event was rejected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rejected {
    /// The event's id, where it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// The reason, from the closed list.
    pub code: FailureKind,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub what_to_do: String,
}
