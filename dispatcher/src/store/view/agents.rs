//! Agents, also as a task sees them, and workspaces.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use super::LIST_MAX_COUNT;
use crate::schedule::Pause;
use crate::store::db::Db;
use crate::store::error::StoreError;
use crate::store::pass;
use crate::store::rows::{self, TASK_COLUMNS};

/// An agent as people see it.
#[derive(Debug, Clone, Serialize)]
pub struct AgentSummary {
    /// Its pool.
    pub pool: String,
    /// Its id.
    pub agent: String,
    /// Heard, and not declared lost.
    pub live: bool,
    /// Takes no more work.
    pub draining: bool,
    /// Who asked that it drains.
    pub drain_requested_by: Option<String>,
    /// Who asked that it is retired.
    pub retire_requested_by: Option<String>,
    /// When its queue was deleted.
    pub retired_at: Option<DateTime<Utc>>,
    /// Paused by an operator.
    pub paused: Option<Pause>,
    /// Handlers at the same time.
    pub slots: i32,
    /// Places to wait beyond them.
    pub credit: i32,
    /// Exclusive attempts at the same time.
    pub max_exclusive: i32,
    /// Open attempts of its session.
    pub open: i64,
    /// What it offers.
    pub handlers: Vec<String>,
    /// The pod.
    pub pod: String,
    /// The node.
    pub node: Option<String>,
    /// The program's version.
    pub version: String,
    /// Its session.
    pub session: String,
    /// When it was last heard.
    pub last_seen: DateTime<Utc>,
}

/// Every agent, by pool and id.
pub async fn agents(db: &Db, pool: Option<&str>) -> Result<Vec<AgentSummary>, StoreError> {
    const SQL: &str = "SELECT g.*, (SELECT count(*) FROM attempts a WHERE a.pool_id = g.pool_id AND a.agent_id = g.agent_id \
            AND a.session = g.session AND a.ended_at IS NULL) AS open \
        FROM agents g WHERE $1::text IS NULL OR g.pool_id = $1 ORDER BY g.pool_id, g.agent_id";
    let rows = db.connection().await?.query(SQL, &[&pool]).await?;
    Ok(rows
        .iter()
        .map(|row| AgentSummary {
            pool: row.get("pool_id"),
            agent: row.get("agent_id"),
            live: row.get("live"),
            draining: row.get("draining"),
            drain_requested_by: row.get("drain_requested_by"),
            retire_requested_by: row.get("retire_requested_by"),
            retired_at: row.get("retired_at"),
            paused: pass::pause(row),
            slots: row.get("slots"),
            credit: row.get("credit"),
            max_exclusive: row.get("max_exclusive"),
            open: row.get("open"),
            handlers: row.get("handlers"),
            pod: row.get("pod"),
            node: row.get("node"),
            version: row.get("version"),
            session: row.get::<_, uuid::Uuid>("session").to_string(),
            last_seen: row.get("last_seen"),
        })
        .collect())
}

/// A workspace as people see it.
#[derive(Debug, Clone, Serialize)]
pub struct WorkspaceSummary {
    /// Its id.
    pub workspace_id: String,
    /// Its pool.
    pub pool: String,
    /// The exclusive task that stands first in it.
    pub held_by: Option<String>,
    /// Tasks that have not ended.
    pub open: i64,
    /// Paused by an operator.
    pub paused: Option<Pause>,
    /// Free labels.
    pub labels: Value,
}

/// Every workspace, by id.
pub async fn workspaces(db: &Db, pool: Option<&str>) -> Result<Vec<WorkspaceSummary>, StoreError> {
    const SQL: &str = "SELECT w.*, (SELECT t.task_id FROM tasks t WHERE t.workspace_id = w.workspace_id AND t.exclusive \
            AND t.position IS NOT NULL AND t.finished_at IS NULL ORDER BY t.position LIMIT 1) AS held_by, \
            (SELECT count(*) FROM tasks t WHERE t.workspace_id = w.workspace_id AND t.finished_at IS NULL) AS open \
        FROM workspaces w WHERE $1::text IS NULL OR w.pool_id = $1 ORDER BY w.workspace_id LIMIT $2";
    let rows = db.connection().await?.query(SQL, &[&pool, &LIST_MAX_COUNT]).await?;
    Ok(rows
        .iter()
        .map(|row| WorkspaceSummary {
            workspace_id: row.get("workspace_id"),
            pool: row.get("pool_id"),
            held_by: row.get("held_by"),
            open: row.get("open"),
            paused: pass::pause(row),
            labels: row.get("labels"),
        })
        .collect())
}

/// Every agent of a task's pool with what a pass would say of it for this task.
pub async fn explain_agents(
    db: &Db,
    task_id: &switchyard_common::contract::ids::TaskId,
) -> Result<Vec<(String, String)>, StoreError> {
    db.transaction(|transaction| async move {
        let sql = format!("SELECT {TASK_COLUMNS} FROM tasks t WHERE t.task_id = $1");
        let Some(row) = transaction.query_opt(sql.as_str(), &[&task_id.as_str()]).await? else {
            return Ok(Vec::new());
        };
        let task = rows::task(&row, &db.steps)?;
        let step = task.current_step();
        let class = crate::schedule::Class {
            handler: step.handler.clone(),
            exclusive: task.exclusive,
            repeatable: step.repeatable,
        };
        let agents = pass::agents(&transaction, &task.pool).await?;
        Ok(agents
            .iter()
            .map(|agent| {
                let verdict = match agent.refuses(&class) {
                    Some(reason) => format!("skipped: {}", reason.sentence()),
                    None => {
                        format!("could take it ({} of {} places taken)", agent.open, agent.places(&class))
                    }
                };
                (agent.id.to_string(), verdict)
            })
            .collect())
    })
    .await
}
