//! What operators do by hand: pause, resume, fence, audited; and the wake-up that tells the dispatchers.

use serde_json::Value;
use switchyard_common::contract::ids::{PoolId, TaskId};
use switchyard_common::task::{Input, LossReason, Status};

use super::apply::{Named, apply};
use super::db::{Db, Transaction};
use super::error::StoreError;
use super::rows::parsed;

/// The channel on which dispatchers listen for wake-ups of other processes.
pub const WAKE_CHANNEL: &str = "switchyard_wake";

/// Tells every dispatcher to run a pass over `pool` now. A lost one costs the period of passes.
pub async fn wake(db: &Db, pool: &PoolId) -> Result<(), StoreError> {
    db.connection().await?.execute("SELECT pg_notify($1, $2)", &[&WAKE_CHANNEL, &pool.as_str()]).await?;
    Ok(())
}

/// Writes one row of the audit log.
pub(crate) async fn audit(
    transaction: &Transaction,
    actor: &str,
    action: &str,
    subject: &str,
    detail: &Value,
) -> Result<(), StoreError> {
    transaction
        .execute(
            "INSERT INTO audit_log (actor, action, subject, detail) VALUES ($1, $2, $3, $4)",
            &[&actor, &action, &subject, &detail],
        )
        .await?;
    Ok(())
}

/// Whether the process that had an uncertain task is known to have ended (protocol G, H): its session is superseded, or its container
/// was said to have terminated. Neither silence nor a fence proves that. A process that takes a new session by itself goes on listing
/// what it runs, so a superseded session counts once the newer one was heard again without listing the attempt.
pub(crate) async fn session_is_over(transaction: &Transaction, task_id: &TaskId) -> Result<bool, StoreError> {
    const SQL: &str = "SELECT EXISTS (SELECT 1 FROM tasks t \
        JOIN attempts a ON a.task_id = t.task_id AND a.attempt = t.attempts \
        JOIN agent_sessions s ON s.session = t.session \
        WHERE t.task_id = $1 AND (s.terminated_at IS NOT NULL OR EXISTS (SELECT 1 FROM agents g \
            JOIN agent_sessions newer ON newer.session = g.session \
            WHERE g.pool_id = t.pool_id AND g.agent_id = t.agent_id AND g.session <> t.session \
              AND g.last_seen > newer.seen_at AND g.last_seen > coalesce(a.listed_at, '-infinity'))))";
    let row = transaction.query_one(SQL, &[&task_id.as_str()]).await?;
    Ok(row.get(0))
}

/// What can be paused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pausable {
    /// A pool: nothing is assigned in it.
    Pool(String),
    /// An agent of a pool: nothing is assigned to it.
    Agent {
        /// Its pool.
        pool: String,
        /// Its id.
        agent: String,
    },
    /// A workspace: nothing of it is assigned.
    Workspace(String),
}

impl std::fmt::Display for Pausable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pool(pool) => write!(f, "pool:{pool}"),
            Self::Agent { pool, agent } => write!(f, "agent:{pool}/{agent}"),
            Self::Workspace(workspace) => write!(f, "workspace:{workspace}"),
        }
    }
}

/// Pauses (`why` given) or resumes (none), with who and why; gives false when there is no such thing. What runs goes on.
pub async fn pause(db: &Db, what: &Pausable, actor: &str, why: Option<&str>) -> Result<bool, StoreError> {
    db.transaction(|transaction| async move {
        let by = why.map(|_| actor);
        let changed = match what {
            Pausable::Pool(pool) => {
                const SQL: &str = "UPDATE pools SET paused_at = CASE WHEN $2::text IS NULL THEN NULL ELSE now() END, \
                    paused_by = $2, paused_why = $3 WHERE pool_id = $1";
                transaction.execute(SQL, &[pool, &by, &why]).await?
            }
            Pausable::Agent { pool, agent } => {
                const SQL: &str = "UPDATE agents SET paused_at = CASE WHEN $3::text IS NULL THEN NULL ELSE now() END, \
                    paused_by = $3, paused_why = $4 WHERE pool_id = $1 AND agent_id = $2";
                transaction.execute(SQL, &[pool, agent, &by, &why]).await?
            }
            Pausable::Workspace(workspace) => pause_workspace(&transaction, workspace, by, why).await?,
        };
        let action = if why.is_some() { "pause" } else { "resume" };
        if changed > 0 {
            audit(&transaction, actor, action, &what.to_string(), &serde_json::json!({ "why": why })).await?;
        }
        Ok(changed > 0)
    })
    .await
}

/// The flag is copied to the workspace's waiting tasks, so that the index of what may run holds none that may not.
async fn pause_workspace(
    transaction: &Transaction,
    workspace: &str,
    by: Option<&str>,
    why: Option<&str>,
) -> Result<u64, StoreError> {
    const WORKSPACE: &str = "UPDATE workspaces SET paused_at = CASE WHEN $2::text IS NULL THEN NULL ELSE now() END, \
        paused_by = $2, paused_why = $3 WHERE workspace_id = $1";
    const TASKS: &str = "UPDATE tasks t SET workspace_paused = $2 FROM ( \
            SELECT task_id FROM tasks WHERE workspace_id = $1 AND finished_at IS NULL AND workspace_paused <> $2 \
            ORDER BY task_id FOR NO KEY UPDATE) c \
        WHERE t.task_id = c.task_id";
    let changed = transaction.execute(WORKSPACE, &[&workspace, &by, &why]).await?;
    transaction.execute(TASKS, &[&workspace, &by.is_some()]).await?;
    Ok(changed)
}

/// What a fence did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fenced {
    /// The new epoch.
    pub epoch: i64,
    /// Sessions that are refused from now on.
    pub sessions: u64,
    /// Attempts that were closed, or became uncertain.
    pub attempts: usize,
}

/// Attempts that are fenced in one transaction.
const FENCE_BATCH_COUNT: i64 = 500;

/// After a restore from an older copy: raises the epoch that every message carries. Older sessions and attempts are refused; a
/// non-repeatable step that had started becomes uncertain (protocol G).
pub async fn fence(db: &Db, actor: &str, why: &str) -> Result<Fenced, StoreError> {
    let (epoch, sessions) = db
        .transaction(|transaction| async move {
            let epoch: i64 =
                transaction.query_one("UPDATE fence SET epoch = epoch + 1 RETURNING epoch", &[]).await?.get(0);
            let sessions = transaction
                .execute("UPDATE agent_sessions SET ended_at = now(), end_reason = 'fenced' WHERE ended_at IS NULL", &[])
                .await?;
            transaction.execute("UPDATE agents SET live = false", &[]).await?;
            let detail = serde_json::json!({ "why": why, "epoch": epoch });
            audit(&transaction, actor, "fence", "fence", &detail).await?;
            Ok((epoch, sessions))
        })
        .await?;
    let mut attempts = 0;
    loop {
        let inputs = fenced_attempts(db).await?;
        if inputs.is_empty() {
            return Ok(Fenced { epoch, sessions, attempts });
        }
        attempts += inputs.len();
        apply(db, &inputs).await?;
    }
}

async fn fenced_attempts(db: &Db) -> Result<Vec<Named>, StoreError> {
    const SQL: &str = "SELECT a.task_id, a.attempt, a.session FROM attempts a JOIN agent_sessions s ON s.session = a.session \
            JOIN tasks t ON t.task_id = a.task_id \
        WHERE a.ended_at IS NULL AND s.end_reason = 'fenced' AND t.status <> $1 ORDER BY a.task_id LIMIT $2";
    let rows = db.connection().await?.query(SQL, &[&Status::Uncertain.as_str(), &FENCE_BATCH_COUNT]).await?;
    rows.iter()
        .map(|row| {
            Ok(Named {
                task_id: parsed("task_id", row.get::<_, &str>("task_id").parse())?,
                attempt: None,
                input: Input::SessionEnded {
                    session: switchyard_common::contract::ids::SessionId(row.get("session")),
                    reason: LossReason::Fenced,
                },
            })
        })
        .collect()
}
