//! Notes: what the columns of a task and its attempts do not tell of its life.

use serde_json::Value;
use switchyard_common::contract::ids::TaskId;

use super::db::Transaction;
use super::error::StoreError;
use super::save::int;

/// One entry of a task's timeline.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    /// The task.
    pub task_id: TaskId,
    /// The attempt that it is about.
    pub attempt: Option<u32>,
    /// What happened, in a few words that never change.
    pub what: &'static str,
    /// What else is known.
    pub detail: Value,
}

/// Appends notes, in order. Those of tasks that do not exist are left out.
pub(crate) async fn record(transaction: &Transaction, notes: &[Note]) -> Result<(), StoreError> {
    if notes.is_empty() {
        return Ok(());
    }
    const SQL: &str = "INSERT INTO task_notes (task_id, at, attempt, what, detail) \
        SELECT u.task_id, now(), u.attempt, u.what, u.detail \
        FROM unnest($1::text[], $2::integer[], $3::text[], $4::jsonb[]) WITH ORDINALITY u(task_id, attempt, what, detail, place) \
        JOIN tasks t ON t.task_id = u.task_id ORDER BY u.place";
    let ids: Vec<&str> = notes.iter().map(|note| note.task_id.as_str()).collect();
    let attempts: Vec<Option<i32>> = notes.iter().map(|note| note.attempt.map(int)).collect();
    let whats: Vec<&str> = notes.iter().map(|note| note.what).collect();
    let details: Vec<&Value> = notes.iter().map(|note| &note.detail).collect();
    transaction.execute(SQL, &[&ids, &attempts, &whats, &details]).await?;
    Ok(())
}
