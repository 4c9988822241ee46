//! The outbox of notifications: written with the change that it tells, published after the commit, in order per task.

use chrono::{DateTime, Utc};
use switchyard_common::contract::notification::Notification;
use switchyard_common::task::{Status, Task};

use super::db::Transaction;
use super::error::StoreError;

/// Whether upstream is told of a change to `status` (protocol H, notifications).
#[must_use]
pub const fn is_told(status: Status) -> bool {
    match status {
        Status::AwaitingApproval
        | Status::Uncertain
        | Status::Succeeded
        | Status::Failed
        | Status::Cancelled => true,
        Status::Blocked | Status::Pending | Status::Assigned | Status::Running => false,
    }
}

/// The CloudEvents type that tells `status`.
#[must_use]
pub fn event_type(status: Status) -> String {
    format!("switchyard.task.{status}.v1")
}

/// Writes one notification per task.
pub(crate) async fn record(
    transaction: &Transaction,
    told: &[&Task],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    if told.is_empty() {
        return Ok(());
    }
    const SQL: &str = "INSERT INTO notifications (task_id, event_type, body) \
        SELECT * FROM unnest($1::text[], $2::text[], $3::jsonb[])";
    let bodies: Vec<serde_json::Value> = told
        .iter()
        .map(|task| serde_json::to_value(notification(task, now)))
        .collect::<Result<_, _>>()
        .map_err(|error| StoreError::Unreadable(format!("notification: {error}")))?;
    let ids: Vec<&str> = told.iter().map(|task| task.id.as_str()).collect();
    let types: Vec<String> = told.iter().map(|task| event_type(task.status)).collect();
    transaction.execute(SQL, &[&ids, &types, &bodies]).await?;
    Ok(())
}

fn notification(task: &Task, now: DateTime<Utc>) -> Notification {
    Notification {
        task_id: Some(task.id.clone()),
        workspace_id: Some(task.workspace.clone()),
        kind: Some(task.kind.clone()),
        status: Some(task.status),
        letter_id: None,
        version: task.version,
        at: now,
        artifact_digest: task.artifact.as_ref().map(|artifact| artifact.digest.clone()),
        failure: task.failure.as_ref().map(|failure| failure.0),
        message: task.failure.as_ref().map(|failure| failure.1.clone()),
    }
}
