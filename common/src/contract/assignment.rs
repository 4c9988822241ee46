//! What the dispatcher sends to an agent's own queue: one attempt, self-contained (incidents 13, 14, 15, 47, 65).

use std::time::Duration;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::artifact::{ArtifactPart, Manifest};
use super::ids::{
    AgentId, Digest, HandlerName, KindName, LeaseToken, PoolId, SessionId, StepName, TaskId, WorkspaceId,
};

/// One attempt of one step. Every field that a handler needs is here and required: a missing one is an error, never a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = require_all)]
pub struct Assignment {
    /// The restore epoch of the dispatcher that sent it (protocol G).
    pub epoch: i64,
    /// The task.
    pub task_id: TaskId,
    /// The attempt's number: per task, never reused.
    pub attempt: u32,
    /// The attempt's secret.
    pub lease: LeaseToken,
    /// The agent session that may run it.
    pub session: SessionId,
    /// The agent's pool.
    pub pool: PoolId,
    /// The agent.
    pub agent: AgentId,
    /// The workspace that the task acts on.
    pub workspace_id: WorkspaceId,
    /// The task's kind.
    pub kind: KindName,
    /// The step's name.
    pub step: StepName,
    /// The handler that runs the step.
    pub handler: HandlerName,
    /// Whether the task's kind is exclusive in its workspace.
    pub exclusive: bool,
    /// Whether the step may run again after a loss. When false it starts in two phases (protocol B7).
    pub repeatable: bool,
    /// Longest run of the handler, in milliseconds.
    pub run_timeout_ms: u64,
    /// Fixed parameters of the step, from the kind's configuration at admission.
    pub parameters: Value,
    /// What upstream sent.
    pub payload: Value,
    /// Who approved what; null for steps that need no approval. Never left out: no approval must not look like a lost one.
    #[serde(deserialize_with = "present")]
    pub approval: Option<AssignedApproval>,
    /// The artifacts that this step receives; their parts travel ahead of this message.
    pub inputs: Manifest,
    /// How often this attempt was published, from 1 (protocol B1).
    pub publish_no: u32,
    /// W3C trace context of the task, or null.
    #[serde(deserialize_with = "present")]
    pub traceparent: Option<String>,
}

/// Reads a field that may be null but not be left out (incidents 14, 65): serde takes a missing `Option` for none otherwise.
fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer)
}

/// Says in the schema that every field must be there.
fn require_all(schema: &mut schemars::Schema) {
    let fields = schema.get("properties").and_then(Value::as_object);
    let names: Vec<Value> =
        fields.into_iter().flat_map(|map| map.keys()).cloned().map(Value::String).collect();
    schema.insert("required".to_owned(), names.into());
}

impl Assignment {
    /// The attempt that this message assigns.
    #[must_use]
    pub fn key(&self) -> AttemptKey {
        AttemptKey { task_id: self.task_id.clone(), attempt: self.attempt }
    }

    /// Longest run of the handler.
    #[must_use]
    pub fn run_timeout(&self) -> Duration {
        Duration::from_millis(self.run_timeout_ms)
    }
}

/// The approval that an assignment rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AssignedApproval {
    /// Who approved.
    pub approved_by: String,
    /// When, by the database clock.
    pub approved_at: DateTime<Utc>,
    /// The manifest digest that was approved. The agent verifies `inputs` against it before it asks to start.
    pub digest: Digest,
}

/// Names one attempt.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AttemptKey {
    /// The task.
    pub task_id: TaskId,
    /// The attempt's number.
    pub attempt: u32,
}

impl std::fmt::Display for AttemptKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}#{}", self.task_id, self.attempt)
    }
}

/// One part of an input artifact, published to the agent's queue ahead of its assignment, acked as soon as it is in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InputPart {
    /// The attempt that it belongs to.
    #[serde(rename = "for")]
    pub key: AttemptKey,
    /// The session that may use it.
    pub session: SessionId,
    /// The part.
    pub part: ArtifactPart,
}

/// Everything that travels on an agent's queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum AgentMessage {
    /// Run this.
    Assignment(Box<Assignment>),
    /// An input of an assignment that follows.
    InputPart(InputPart),
}
