//! Tasks, each with what it waits for.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use switchyard_common::contract::ids::PoolId;
use switchyard_common::task::{Status, Task};
use tokio_postgres::Row;

use crate::schedule::{PoolView, Snapshot, TaskView, WaitingOn, waiting_on};
use crate::store::db::{Db, Transaction};
use crate::store::error::StoreError;
use crate::store::pass;
use crate::store::rows::{self, TASK_COLUMNS, parsed};

/// Most tasks that one list shows.
pub const LIST_MAX_COUNT: i64 = 10_000;

/// Which tasks to list.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    /// Only this task.
    pub task_id: Option<String>,
    /// Only these states; none = all.
    pub statuses: Vec<Status>,
    /// Only this workspace.
    pub workspace: Option<String>,
    /// Only this pool.
    pub pool: Option<String>,
    /// Only this kind.
    pub kind: Option<String>,
    /// Newest so many.
    pub limit: i64,
}

/// A task as people see it.
#[derive(Debug, Clone, Serialize)]
pub struct TaskSummary {
    /// Its id.
    pub task_id: String,
    /// Its workspace.
    pub workspace_id: String,
    /// Its pool.
    pub pool: String,
    /// Its kind.
    pub kind: String,
    /// The current step.
    pub step: String,
    /// Its state.
    pub status: Status,
    /// What it waits for, for programs.
    pub waiting_on: WaitingOn,
    /// What it waits for, for people.
    pub waiting_for: String,
    /// 0 to 9.
    pub priority: i16,
    /// Attempts so far.
    pub attempts: u32,
    /// Attempts of the current step that were lost.
    pub losses: u32,
    /// Who has it in hand.
    pub agent: Option<String>,
    /// Where.
    pub pod: Option<String>,
    /// Digest of the newest artifacts: what an approval binds.
    pub artifact_digest: Option<String>,
    /// Who approved the current step.
    pub approved_by: Option<String>,
    /// Who asked to cancel it.
    pub cancel_requested_by: Option<String>,
    /// Why the newest try failed.
    pub failure_kind: Option<&'static str>,
    /// The failure's message.
    pub failure_message: Option<String>,
    /// The ended task that it repeats.
    pub replay_of: Option<String>,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// Since when it is in its state.
    pub since: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

const LIST: &str = "t.step_name, t.priority, t.created_at, t.replay_of, \
        h.held_by, w.paused_at, w.paused_by, w.paused_why, coalesce(a.stop, false) AS stop_requested \
    FROM tasks t JOIN workspaces w ON w.workspace_id = t.workspace_id \
    LEFT JOIN LATERAL (SELECT x.task_id AS held_by FROM tasks x WHERE t.status = 'blocked' AND x.workspace_id = t.workspace_id \
        AND x.exclusive AND x.position < t.position AND x.finished_at IS NULL ORDER BY x.position LIMIT 1) h ON true \
    LEFT JOIN LATERAL (SELECT y.revoke_requested_at IS NOT NULL AS stop FROM attempts y \
        WHERE y.task_id = t.task_id AND y.outcome IS NULL LIMIT 1) a ON true \
    WHERE ($1::text IS NULL OR t.task_id = $1) AND (cardinality($2::text[]) = 0 OR t.status = ANY($2)) \
        AND ($3::text IS NULL OR t.workspace_id = $3) AND ($4::text IS NULL OR t.pool_id = $4) AND ($5::text IS NULL OR t.kind = $5) \
    ORDER BY t.seq DESC LIMIT $6";

/// Lists tasks, newest first, each with the reason why it does not run. One that cannot be read is listed with that as its reason: it
/// must not hide the others (incident 59).
pub async fn tasks(db: &Db, filter: &TaskFilter) -> Result<Vec<TaskSummary>, StoreError> {
    db.transaction(|transaction| async move {
        let statuses: Vec<&str> = filter.statuses.iter().map(|status| status.as_str()).collect();
        let limit = filter.limit.clamp(1, LIST_MAX_COUNT);
        let sql = format!("SELECT {TASK_COLUMNS}, {LIST}");
        let rows = transaction
            .query(&sql, &[&filter.task_id, &statuses, &filter.workspace, &filter.pool, &filter.kind, &limit])
            .await?;
        let mut snapshots: BTreeMap<PoolId, Snapshot> = BTreeMap::new();
        let mut summaries = Vec::with_capacity(rows.len());
        for row in rows {
            let view = match view(&row, db) {
                Ok(view) => view,
                Err(error @ StoreError::Unreadable(_)) => {
                    summaries.push(unreadable(&row, &error)?);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if !snapshots.contains_key(&view.task.pool) {
                let snapshot = snapshot(&transaction, &view.task.pool).await?;
                snapshots.insert(view.task.pool.clone(), snapshot);
            }
            if let Some(snapshot) = snapshots.get(&view.task.pool) {
                let reason = waiting_on(&view, snapshot);
                summaries.push(summary(&row, view.task, reason));
            }
        }
        Ok(summaries)
    })
    .await
}

/// The pool with its agents, to explain a task: what a pass would see.
async fn snapshot(transaction: &Transaction, pool: &PoolId) -> Result<Snapshot, StoreError> {
    let view = pass::read_pool(transaction, pool).await?;
    let view = view.unwrap_or_else(|| PoolView {
        id: pool.clone(),
        paused: None,
        revoked: false,
        quiet_until: None,
    });
    Ok(Snapshot { pool: view, agents: pass::agents(transaction, pool).await?, candidates: Vec::new() })
}

fn view(row: &Row, db: &Db) -> Result<TaskView, StoreError> {
    let held_by = match row.get::<_, Option<&str>>("held_by") {
        Some(id) => Some(parsed("task_id", id.parse())?),
        None => None,
    };
    Ok(TaskView {
        task: rows::task(row, &db.steps)?,
        held_by,
        workspace_paused: pass::pause(row),
        stop_requested: row.get("stop_requested"),
    })
}

fn summary(row: &Row, task: Task, reason: WaitingOn) -> TaskSummary {
    TaskSummary {
        task_id: task.id.to_string(),
        workspace_id: task.workspace.to_string(),
        pool: task.pool.to_string(),
        kind: task.kind.to_string(),
        step: task.current_step().name.to_string(),
        status: task.status,
        waiting_for: reason.sentence(),
        waiting_on: reason,
        priority: row.get("priority"),
        attempts: task.attempts,
        losses: task.losses,
        agent: task.assignee.as_ref().map(|assignee| assignee.agent.agent.to_string()),
        pod: task.assignee.as_ref().map(|assignee| assignee.pod.clone()),
        artifact_digest: task.artifact.as_ref().map(|artifact| artifact.digest.to_string()),
        approved_by: task.approval.as_ref().map(|approval| approval.by.clone()),
        cancel_requested_by: task.cancel.as_ref().map(|cancel| cancel.by.clone()),
        failure_kind: task.failure.as_ref().map(|failure| failure.0.as_str()),
        failure_message: task.failure.as_ref().map(|failure| failure.1.clone()),
        replay_of: row.get("replay_of"),
        created_at: row.get("created_at"),
        since: task.since,
        finished_at: task.finished_at,
    }
}

/// What the columns alone say of a task whose row cannot be read.
fn unreadable(row: &Row, error: &StoreError) -> Result<TaskSummary, StoreError> {
    let reason = WaitingOn::Unreadable { why: error.to_string() };
    let status: &str = row.get("status");
    let status =
        Status::parse(status).ok_or_else(|| StoreError::Unreadable(format!("status: {status:?}")))?;
    Ok(TaskSummary {
        task_id: row.get("task_id"),
        workspace_id: row.get("workspace_id"),
        pool: row.get("pool_id"),
        kind: row.get("kind"),
        step: row.get("step_name"),
        status,
        waiting_for: reason.sentence(),
        waiting_on: reason,
        priority: row.get("priority"),
        attempts: rows::count("attempts", row.get("attempts"))?,
        losses: rows::count("losses", row.get("losses"))?,
        agent: row.get("agent_id"),
        pod: row.get("pod_name"),
        artifact_digest: None,
        approved_by: row.get("approved_by"),
        cancel_requested_by: row.get("cancel_requested_by"),
        failure_kind: None,
        failure_message: row.get("failure_message"),
        replay_of: row.get("replay_of"),
        created_at: row.get("created_at"),
        since: row.get("since"),
        finished_at: row.get("finished_at"),
    })
}
