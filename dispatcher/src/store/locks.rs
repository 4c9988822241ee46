//! Locking and reading what inputs concern: workspaces, then tasks, then attempts (protocol E1).

use std::collections::{BTreeMap, BTreeSet};

use switchyard_common::contract::ids::{TaskId, WorkspaceId};
use switchyard_common::task::Place;
use tokio_postgres::Row;

use super::db::Transaction;
use super::error::StoreError;
use super::route::SAID_MAX_BYTES;
use super::rows::{self, ATTEMPT_COLUMNS, TASK_COLUMNS};
use super::save;

/// Locks tasks and gives their rows.
pub(super) async fn tasks(transaction: &Transaction, ids: &[&str]) -> Result<Vec<Row>, StoreError> {
    transaction.query(&tasks_sql(), &[&ids]).await
}

pub(super) fn tasks_sql() -> String {
    format!(
        "SELECT {TASK_COLUMNS} FROM tasks t WHERE t.task_id = ANY($1) ORDER BY t.task_id FOR NO KEY UPDATE OF t"
    )
}

/// The same for tasks that are to be assigned, each with what its assignment says beyond its state.
pub(super) async fn tasks_to_assign(transaction: &Transaction, ids: &[&str]) -> Result<Vec<Row>, StoreError> {
    transaction.query(&tasks_to_assign_sql(), &[&ids]).await
}

/// The restore epoch.
const EPOCH: &str = "SELECT f.epoch FROM fence f WHERE f.only_row";

/// Reads the restore epoch (protocol G).
pub(super) async fn epoch(transaction: &Transaction) -> Result<i64, StoreError> {
    Ok(transaction.query_one(EPOCH, &[]).await?.get(0))
}

pub(super) fn tasks_to_assign_sql() -> String {
    format!(
        "SELECT {TASK_COLUMNS}, t.traceparent, CASE WHEN pg_column_size(t.payload) <= {SAID_MAX_BYTES} \
             AND octet_length(t.payload::text) <= {SAID_MAX_BYTES} THEN t.payload END AS payload, ({EPOCH}) AS epoch \
         FROM tasks t WHERE t.task_id = ANY($1) ORDER BY t.task_id FOR NO KEY UPDATE OF t"
    )
}

/// Locks the attempts that are named, and where none is named the newest of the task, and gives their rows. The open attempt of a task is its
/// newest one: found by its key, because an index of all that are open costs as much as is open.
pub(super) async fn attempts(
    transaction: &Transaction,
    concerned: &[(&TaskId, Option<u32>)],
) -> Result<Vec<Row>, StoreError> {
    let (ids, numbers): (Vec<&str>, Vec<i32>) = concerned
        .iter()
        .filter_map(|(task_id, attempt)| Some((task_id.as_str(), save::int((*attempt)?))))
        .unzip();
    let unnamed = concerned.iter().filter(|(_, attempt)| attempt.is_none());
    let unnamed: Vec<&str> = unnamed.map(|(task_id, _)| task_id.as_str()).collect();
    transaction.query(&attempts_sql(), &[&ids, &numbers, &unnamed]).await
}

pub(super) fn attempts_sql() -> String {
    format!(
        "SELECT {ATTEMPT_COLUMNS} FROM (\
             SELECT u.task_id, u.attempt FROM unnest($1::text[], $2::integer[]) u(task_id, attempt) \
             UNION SELECT t.task_id, t.attempts FROM tasks t WHERE t.task_id = ANY($3)) k \
         JOIN attempts a ON a.task_id = k.task_id AND a.attempt = k.attempt \
         ORDER BY a.task_id, a.attempt FOR NO KEY UPDATE OF a"
    )
}

pub(super) const LOCK_WORKSPACES: &str = "SELECT workspace_id FROM workspaces WHERE workspace_id IN \
    (SELECT workspace_id FROM tasks WHERE task_id = ANY($1) AND exclusive) ORDER BY workspace_id FOR NO KEY UPDATE";

pub(super) async fn workspaces(transaction: &Transaction, ids: &[&str]) -> Result<(), StoreError> {
    transaction.query(LOCK_WORKSPACES, &[&ids]).await?;
    Ok(())
}

/// What each workspace says to the next task that takes a place in it. The caller holds the workspaces' locks; positions are
/// raised at once, since the caller is about to use them.
pub(crate) async fn places(
    transaction: &Transaction,
    workspaces: &BTreeSet<WorkspaceId>,
) -> Result<BTreeMap<WorkspaceId, Place>, StoreError> {
    if workspaces.is_empty() {
        return Ok(BTreeMap::new());
    }
    const SQL: &str = "SELECT w.workspace_id, w.next_position, NOT EXISTS (SELECT 1 FROM tasks t WHERE t.workspace_id = w.workspace_id \
            AND t.exclusive AND t.position IS NOT NULL AND t.finished_at IS NULL) AS is_head \
        FROM workspaces w WHERE w.workspace_id = ANY($1)";
    let ids: Vec<&str> = workspaces.iter().map(WorkspaceId::as_str).collect();
    let mut places = BTreeMap::new();
    for row in transaction.query(SQL, &[&ids]).await? {
        let id: WorkspaceId = rows::parsed("workspace_id", row.get::<_, &str>("workspace_id").parse())?;
        places.insert(id, Place { position: row.get("next_position"), is_head: row.get("is_head") });
    }
    Ok(places)
}
