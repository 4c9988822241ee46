//! What upstream is told about a task: CloudEvents on `switchyard.notifications`, in order per task.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ids::{Digest, KindName, TaskId, WorkspaceId};
use crate::failure::FailureKind;
use crate::task::Status;

/// The data of a notification; its CloudEvents type is `switchyard.task.<status>.v1`, or `switchyard.dead_letter.v1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Notification {
    /// The task; absent for the dead letter of an event that names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<TaskId>,
    /// Its workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_id: Option<WorkspaceId>,
    /// Its kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<KindName>,
    /// Its status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// The dead letter that is told of, for `dead-letters show`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub letter_id: Option<i64>,
    /// Number of the change in the task's life, so that a reader can order and drop copies.
    pub version: i64,
    /// When, by the database clock.
    pub at: DateTime<Utc>,
    /// What waits for approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_digest: Option<Digest>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureKind>,
    /// The failure's message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
