//! What belongs to one task: its attempts, what came with it, what its handlers wrote.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use crate::store::db::Db;
use crate::store::error::StoreError;

/// An attempt as people see it; its lease stays secret.
#[derive(Debug, Clone, Serialize)]
pub struct AttemptSummary {
    /// Number in its task.
    pub attempt: i32,
    /// Its step.
    pub step: String,
    /// The agent.
    pub agent: String,
    /// The pod.
    pub pod: String,
    /// When it was committed.
    pub assigned_at: DateTime<Utc>,
    /// When it was reported, or allowed, to run.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// How.
    pub outcome: Option<String>,
    /// Times that it was published.
    pub publish_no: i32,
    /// Why it was asked to stop.
    pub revoke_reason: Option<String>,
    /// The handler's JSON result.
    pub result: Option<Value>,
}

/// The attempts of a task, oldest first.
pub async fn attempts(db: &Db, task_id: &str) -> Result<Vec<AttemptSummary>, StoreError> {
    const SQL: &str = "SELECT attempt, step_name, agent_id, pod_name, assigned_at, started_at, ended_at, outcome, publish_no, \
        revoke_reason, result FROM attempts WHERE task_id = $1 ORDER BY attempt";
    let rows = db.connection().await?.query(SQL, &[&task_id]).await?;
    Ok(rows
        .iter()
        .map(|row| AttemptSummary {
            attempt: row.get("attempt"),
            step: row.get("step_name"),
            agent: row.get("agent_id"),
            pod: row.get("pod_name"),
            assigned_at: row.get("assigned_at"),
            started_at: row.get("started_at"),
            ended_at: row.get("ended_at"),
            outcome: row.get("outcome"),
            publish_no: row.get("publish_no"),
            revoke_reason: row.get("revoke_reason"),
            result: row.get("result"),
        })
        .collect())
}

/// What upstream sent with a task.
pub async fn payload(db: &Db, task_id: &str) -> Result<Option<Value>, StoreError> {
    let row =
        db.connection().await?.query_opt("SELECT payload FROM tasks WHERE task_id = $1", &[&task_id]).await?;
    Ok(row.map(|row| row.get("payload")))
}

/// A stored log line.
#[derive(Debug, Clone, Serialize)]
pub struct LogLine {
    /// The attempt that wrote it.
    pub attempt: i32,
    /// Number in its attempt.
    pub sequence: i64,
    /// When, by the agent's clock.
    pub at: DateTime<Utc>,
    /// stdout, stderr or agent.
    pub stream: String,
    /// The line.
    pub line: String,
}

/// The last log lines of a task, oldest first.
pub async fn logs(db: &Db, task_id: &str, most: i64) -> Result<Vec<LogLine>, StoreError> {
    const SQL: &str = "SELECT * FROM (SELECT attempt, sequence, at, stream, line FROM logs WHERE task_id = $1 \
        ORDER BY attempt DESC, sequence DESC LIMIT $2) l ORDER BY attempt, sequence";
    let rows = db.connection().await?.query(SQL, &[&task_id, &most]).await?;
    Ok(rows
        .iter()
        .map(|row| LogLine {
            attempt: row.get("attempt"),
            sequence: row.get("sequence"),
            at: row.get("at"),
            stream: row.get("stream"),
            line: row.get("line"),
        })
        .collect())
}
