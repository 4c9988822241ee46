//! The data of the events that upstream publishes. Unknown fields are refused: a misspelt `not_befor` must not be ignored.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ids::{Digest, KindName, PoolId, TaskId, WorkspaceId};
use super::limits::{LABEL_KEY_MAX_CHARS, LABEL_VALUE_MAX_CHARS, LABELS_MAX_COUNT};

/// Registers a workspace, or updates it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkspaceRegistered {
    /// The workspace.
    pub workspace_id: WorkspaceId,
    /// The pool whose agents serve it. It cannot change while the workspace has a task that has not ended.
    pub pool: PoolId,
    /// Free labels.
    #[serde(default)]
    #[schemars(transform = bound_labels)]
    pub labels: Option<BTreeMap<String, String>>,
}

/// Says in the schema of `labels` what its limits are.
fn bound_labels(schema: &mut schemars::Schema) {
    schema.insert("maxProperties".to_owned(), LABELS_MAX_COUNT.into());
    schema.insert("propertyNames".to_owned(), json!({ "minLength": 1, "maxLength": LABEL_KEY_MAX_CHARS }));
    let value = json!({ "type": "string", "maxLength": LABEL_VALUE_MAX_CHARS });
    schema.insert("additionalProperties".to_owned(), value);
}

/// Submits a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskSubmitted {
    /// The task's id; drawn by the dispatcher when absent.
    #[serde(default)]
    pub task_id: Option<TaskId>,
    /// The workspace.
    pub workspace_id: WorkspaceId,
    /// Registers an unknown workspace in this pool.
    #[serde(default)]
    pub pool: Option<PoolId>,
    /// The task's kind.
    pub kind: KindName,
    /// What the handlers get.
    pub payload: Value,
    /// 0 to 9; 9 goes first. When absent, the kind's default.
    #[serde(default)]
    #[schemars(range(min = 0, max = 9))]
    pub priority: Option<u64>,
    /// Not before this time.
    #[serde(default)]
    pub not_before: Option<DateTime<Utc>>,
    /// Fails when it has not ended by this time.
    #[serde(default)]
    pub deadline: Option<DateTime<Utc>>,
    /// Approves by itself, where the kind allows it; recorded as such.
    #[serde(default)]
    pub auto_approve: Option<bool>,
    /// One task per source and key.
    #[serde(default)]
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[!-~]([ -~]*[!-~])?$"))]
    pub idempotency_key: Option<String>,
    /// The ended task that this one repeats.
    #[serde(default)]
    pub replay_of: Option<TaskId>,
}

/// Approves the step that a task waits with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskApproved {
    /// The task.
    pub task_id: TaskId,
    /// Who approves.
    #[schemars(length(min = 1, max = 128))]
    pub approved_by: String,
    /// Why.
    #[serde(default)]
    #[schemars(length(max = 2000))]
    pub comment: Option<String>,
    /// What is approved; when absent, what is current at the commit.
    #[serde(default)]
    pub artifact_digest: Option<Digest>,
}

/// Discards what a task waits with: the task ends as cancelled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskDiscarded {
    /// The task.
    pub task_id: TaskId,
    /// Who discards.
    #[schemars(length(min = 1, max = 128))]
    pub discarded_by: String,
    /// Why.
    #[serde(default)]
    #[schemars(length(max = 2000))]
    pub comment: Option<String>,
}

/// Asks for a task to be cancelled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskCancelRequested {
    /// The task.
    pub task_id: TaskId,
    /// Who asks.
    #[schemars(length(min = 1, max = 128))]
    pub requested_by: String,
    /// Stops even a non-repeatable step that runs: what it was changing may be left half changed.
    #[serde(default)]
    pub force: Option<bool>,
}

/// The data of every event.
#[derive(Debug, Clone, PartialEq)]
pub enum EventData {
    /// `switchyard.workspace.registered.v1`
    WorkspaceRegistered(WorkspaceRegistered),
    /// `switchyard.task.submitted.v1`
    TaskSubmitted(Box<TaskSubmitted>),
    /// `switchyard.task.approved.v1`
    TaskApproved(TaskApproved),
    /// `switchyard.task.discarded.v1`
    TaskDiscarded(TaskDiscarded),
    /// `switchyard.task.cancel_requested.v1`
    TaskCancelRequested(TaskCancelRequested),
}

/// The closed list of event types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventType {
    /// See [`WorkspaceRegistered`].
    WorkspaceRegistered,
    /// See [`TaskSubmitted`].
    TaskSubmitted,
    /// See [`TaskApproved`].
    TaskApproved,
    /// See [`TaskDiscarded`].
    TaskDiscarded,
    /// See [`TaskCancelRequested`].
    TaskCancelRequested,
}

impl EventType {
    /// Every type.
    pub const ALL: [Self; 5] = [
        Self::WorkspaceRegistered,
        Self::TaskSubmitted,
        Self::TaskApproved,
        Self::TaskDiscarded,
        Self::TaskCancelRequested,
    ];

    /// The CloudEvents type, which is also the routing key.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WorkspaceRegistered => "switchyard.workspace.registered.v1",
            Self::TaskSubmitted => "switchyard.task.submitted.v1",
            Self::TaskApproved => "switchyard.task.approved.v1",
            Self::TaskDiscarded => "switchyard.task.discarded.v1",
            Self::TaskCancelRequested => "switchyard.task.cancel_requested.v1",
        }
    }

    /// Reads a CloudEvents type.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == text)
    }

    /// Reads the data of an event of this type.
    pub fn parse_data(self, data: Value) -> Result<EventData, serde_json::Error> {
        self.parse_data_at(data).map_err(serde_path_to_error::Error::into_inner)
    }

    /// Reads the data of an event of this type; the error says at which field.
    pub fn parse_data_at(
        self,
        data: Value,
    ) -> Result<EventData, serde_path_to_error::Error<serde_json::Error>> {
        use serde_path_to_error::deserialize;
        Ok(match self {
            Self::WorkspaceRegistered => EventData::WorkspaceRegistered(deserialize(data)?),
            Self::TaskSubmitted => EventData::TaskSubmitted(deserialize(data)?),
            Self::TaskApproved => EventData::TaskApproved(deserialize(data)?),
            Self::TaskDiscarded => EventData::TaskDiscarded(deserialize(data)?),
            Self::TaskCancelRequested => EventData::TaskCancelRequested(deserialize(data)?),
        })
    }
}

impl EventData {
    /// The type that this data belongs to.
    #[must_use]
    pub const fn event_type(&self) -> EventType {
        match self {
            Self::WorkspaceRegistered(_) => EventType::WorkspaceRegistered,
            Self::TaskSubmitted(_) => EventType::TaskSubmitted,
            Self::TaskApproved(_) => EventType::TaskApproved,
            Self::TaskDiscarded(_) => EventType::TaskDiscarded,
            Self::TaskCancelRequested(_) => EventType::TaskCancelRequested,
        }
    }

    /// The data as JSON.
    pub fn to_value(&self) -> Result<Value, serde_json::Error> {
        match self {
            Self::WorkspaceRegistered(data) => serde_json::to_value(data),
            Self::TaskSubmitted(data) => serde_json::to_value(data),
            Self::TaskApproved(data) => serde_json::to_value(data),
            Self::TaskDiscarded(data) => serde_json::to_value(data),
            Self::TaskCancelRequested(data) => serde_json::to_value(data),
        }
    }
}
