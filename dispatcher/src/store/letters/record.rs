//! A letter as it is read. Every column that may be empty is read as such: a record that was stored in short must be shown like any
//! other (incident 59).

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

/// What [`Letter::read`] reads, from `dead_letters d`.
pub(super) const LETTER_COLUMNS: &str = "d.letter_id, d.letter_key, d.origin, d.task_id, d.attempt, d.workspace_id, d.pool_id, d.kind, \
    d.step_name, d.agent_id, d.pod_name, d.node_name, d.session, d.event_source, d.event_id, d.traceparent, d.failure_kind, \
    d.failure_message, d.failure, d.fingerprint, d.failed_at, d.broker_copy_expected, d.broker_at, d.queue, d.exchange, d.routing_key, \
    d.message_id, d.x_death, d.headers, d.payload, d.payload_bytes, d.payload_size, d.timeline, d.evidence, d.evidence_count, \
    d.remark, d.created_at, d.completed_at, d.logged_at, d.resolved_at, d.resolution, d.resolved_by, d.resolution_note, \
    d.replay_event_id, d.replay_task_id, d.replays";

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Letter {
    /// Its number.
    pub letter_id: i64,
    /// What it is one record of.
    pub letter_key: String,
    /// `attempt`, `task`, `event` or `message`.
    pub origin: String,
    /// The task.
    pub task_id: Option<String>,
    /// The attempt.
    pub attempt: Option<i32>,
    /// The workspace.
    pub workspace_id: Option<String>,
    /// The pool.
    pub pool_id: Option<String>,
    /// The task's kind.
    pub kind: Option<String>,
    /// The step.
    pub step: Option<String>,
    /// The agent.
    pub agent_id: Option<String>,
    /// Its pod.
    pub pod: Option<String>,
    /// Its node.
    pub node: Option<String>,
    /// Its session.
    pub session: Option<Uuid>,
    /// Source of the event that made the task, or of the event itself.
    pub event_source: Option<String>,
    /// Id of that event.
    pub event_id: Option<String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// Why, from the closed list.
    pub failure_kind: Option<String>,
    /// Why, for a person.
    pub failure_message: Option<String>,
    /// The whole failure.
    pub failure: Option<Value>,
    /// Failures of one cause share it.
    pub fingerprint: Option<String>,
    /// When the failure was recorded.
    pub failed_at: Option<DateTime<Utc>>,
    /// Whether a nacked message belongs to it.
    pub broker_copy_expected: bool,
    /// When that message came.
    pub broker_at: Option<DateTime<Utc>>,
    /// The queue that the message left.
    pub queue: Option<String>,
    /// The exchange that it was published to.
    pub exchange: Option<String>,
    /// The routing key that it was published with.
    pub routing_key: Option<String>,
    /// Its message id.
    pub message_id: Option<String>,
    /// Its `x-death`; it can be forged where publishers are not trusted.
    pub x_death: Option<Value>,
    /// Its other headers.
    pub headers: Option<Value>,
    /// The payload, where it is text.
    pub payload: Option<String>,
    /// The payload, where it is not.
    #[serde(serialize_with = "hexadecimal")]
    pub payload_bytes: Option<Vec<u8>>,
    /// Size of the whole payload, in bytes; what is kept may be less.
    pub payload_size: Option<i64>,
    /// The life of the task up to the letter.
    pub timeline: Option<Value>,
    /// Later evidence.
    pub evidence: Value,
    /// How often later evidence came.
    pub evidence_count: i32,
    /// What else is to be known about the record.
    pub remark: Option<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was complete.
    pub completed_at: Option<DateTime<Utc>>,
    /// When its log line was written.
    pub logged_at: Option<DateTime<Utc>>,
    /// When it was resolved.
    pub resolved_at: Option<DateTime<Utc>>,
    /// How.
    pub resolution: Option<String>,
    /// By whom.
    pub resolved_by: Option<String>,
    /// Why.
    pub resolution_note: Option<String>,
    /// The event of its newest replay.
    pub replay_event_id: Option<String>,
    /// The task of its newest replay.
    pub replay_task_id: Option<String>,
    /// Replays so far.
    pub replays: i32,
}

impl Letter {
    /// Reads [`LETTER_COLUMNS`].
    pub(super) fn read(row: &Row) -> Self {
        Self {
            letter_id: row.get("letter_id"),
            letter_key: row.get("letter_key"),
            origin: row.get("origin"),
            task_id: row.get("task_id"),
            attempt: row.get("attempt"),
            workspace_id: row.get("workspace_id"),
            pool_id: row.get("pool_id"),
            kind: row.get("kind"),
            step: row.get("step_name"),
            agent_id: row.get("agent_id"),
            pod: row.get("pod_name"),
            node: row.get("node_name"),
            session: row.get("session"),
            event_source: row.get("event_source"),
            event_id: row.get("event_id"),
            traceparent: row.get("traceparent"),
            failure_kind: row.get("failure_kind"),
            failure_message: row.get("failure_message"),
            failure: row.get("failure"),
            fingerprint: row.get("fingerprint"),
            failed_at: row.get("failed_at"),
            broker_copy_expected: row.get("broker_copy_expected"),
            broker_at: row.get("broker_at"),
            queue: row.get("queue"),
            exchange: row.get("exchange"),
            routing_key: row.get("routing_key"),
            message_id: row.get("message_id"),
            x_death: row.get("x_death"),
            headers: row.get("headers"),
            payload: row.get("payload"),
            payload_bytes: row.get("payload_bytes"),
            payload_size: row.get("payload_size"),
            timeline: row.get("timeline"),
            evidence: row.get("evidence"),
            evidence_count: row.get("evidence_count"),
            remark: row.get("remark"),
            created_at: row.get("created_at"),
            completed_at: row.get("completed_at"),
            logged_at: row.get("logged_at"),
            resolved_at: row.get("resolved_at"),
            resolution: row.get("resolution"),
            resolved_by: row.get("resolved_by"),
            resolution_note: row.get("resolution_note"),
            replay_event_id: row.get("replay_event_id"),
            replay_task_id: row.get("replay_task_id"),
            replays: row.get("replays"),
        }
    }

    /// A text of the failure (`location`, `backtrace`).
    #[must_use]
    pub fn failure_text(&self, field: &str) -> Option<&str> {
        self.failure.as_ref()?.get(field)?.as_str()
    }

    /// A number of the failure (`exit_code`, `signal`).
    #[must_use]
    pub fn failure_number(&self, field: &str) -> Option<i64> {
        self.failure.as_ref()?.get(field)?.as_i64()
    }

    /// The last log lines that came with the failure, oldest first.
    #[must_use]
    pub fn log_tail(&self) -> Vec<&str> {
        let lines = self.failure.as_ref().and_then(|failure| failure.get("log_tail")?.as_array());
        lines.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// Bytes of the payload that are kept.
    #[must_use]
    pub fn payload_kept_bytes(&self) -> usize {
        self.payload.as_ref().map_or(0, String::len) + self.payload_bytes.as_ref().map_or(0, Vec::len)
    }
}

#[expect(clippy::ref_option, reason = "the signature that serde asks for")]
fn hexadecimal<S: serde::Serializer>(bytes: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
    bytes.as_ref().map(hex::encode).serialize(serializer)
}
