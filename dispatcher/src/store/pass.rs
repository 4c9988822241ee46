//! What a scheduling pass reads, under its pool's lock.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use switchyard_common::contract::ids::{AgentId, HandlerName, PoolId, SessionId, TaskId};
use tokio_postgres::Row;

use super::db::Transaction;
use super::error::StoreError;
use super::rows::{count, parsed};
use crate::schedule::{AgentView, Candidate, Class, ClassLimit, Pause, PoolView, QUIET_AFTER_FENCE};

/// A pool; quiet while sessions of it were fenced or revoked a moment ago.
const POOL_SQL: &str = "SELECT p.paused_at, p.paused_by, p.paused_why, p.revoked_at, \
        (SELECT max(s.ended_at) + $2 * interval '1 second' FROM agent_sessions s WHERE s.pool_id = p.pool_id \
            AND s.ended_at > now() - $2 * interval '1 second' AND s.end_reason IN ('fenced', 'pool_revoked')) AS quiet_until \
    FROM pools p WHERE p.pool_id = $1";

/// Locks the pool for this pass, or says that another replica runs one (protocol E1: NO KEY, so that foreign keys go on).
pub(crate) async fn lock_pool(
    transaction: &Transaction,
    pool: &PoolId,
) -> Result<Option<PoolView>, StoreError> {
    let sql = format!("{POOL_SQL} FOR NO KEY UPDATE OF p SKIP LOCKED");
    let row = transaction.query_opt(&sql, &[&pool.as_str(), &QUIET_AFTER_FENCE.as_secs_f64()]).await?;
    Ok(row.map(|row| pool_view(pool, &row)))
}

/// The pool without its lock, to explain a task; none when there is no such pool.
pub(crate) async fn read_pool(
    transaction: &Transaction,
    pool: &PoolId,
) -> Result<Option<PoolView>, StoreError> {
    let row = transaction.query_opt(POOL_SQL, &[&pool.as_str(), &QUIET_AFTER_FENCE.as_secs_f64()]).await?;
    Ok(row.map(|row| pool_view(pool, &row)))
}

fn pool_view(pool: &PoolId, row: &Row) -> PoolView {
    PoolView {
        id: pool.clone(),
        paused: pause(row),
        revoked: row.get::<_, Option<DateTime<Utc>>>("revoked_at").is_some(),
        quiet_until: row.get("quiet_until"),
    }
}

/// The pause that a row of a pool, an agent or a workspace tells.
pub(crate) fn pause(row: &Row) -> Option<Pause> {
    Some(Pause {
        at: row.get::<_, Option<DateTime<Utc>>>("paused_at")?,
        by: row.get::<_, Option<String>>("paused_by")?,
        why: row.get::<_, Option<String>>("paused_why").unwrap_or_default(),
    })
}

pub(super) const AGENTS: &str = "SELECT g.agent_id, g.session, g.pod, g.slots, g.credit, g.max_exclusive, g.handlers, g.live, \
        g.draining OR g.drain_requested_at IS NOT NULL AS draining, \
        g.paused_at, g.paused_by, g.paused_why, \
        coalesce(o.open, 0)::integer AS open, coalesce(o.open_exclusive, 0)::integer AS open_exclusive \
    FROM agents g LEFT JOIN LATERAL ( \
        SELECT count(*) AS open, count(*) FILTER (WHERE a.exclusive) AS open_exclusive FROM attempts a \
        WHERE a.pool_id = g.pool_id AND a.agent_id = g.agent_id AND a.session = g.session AND a.ended_at IS NULL) o ON true \
    WHERE g.pool_id = $1 ORDER BY g.agent_id";

/// The pool's agents with the open attempts of their current session, derived (incidents 27, 71).
pub(crate) async fn agents(transaction: &Transaction, pool: &PoolId) -> Result<Vec<AgentView>, StoreError> {
    transaction.query(AGENTS, &[&pool.as_str()]).await?.iter().map(agent).collect()
}

fn agent(row: &Row) -> Result<AgentView, StoreError> {
    let handlers: Vec<String> = row.get("handlers");
    let handlers: Result<BTreeSet<HandlerName>, _> = handlers.iter().map(HandlerName::new).collect();
    Ok(AgentView {
        id: parsed("agent_id", row.get::<_, &str>("agent_id").parse::<AgentId>())?,
        session: SessionId(row.get("session")),
        pod: row.get("pod"),
        slots: count("slots", row.get("slots"))?,
        credit: count("credit", row.get("credit"))?,
        max_exclusive: count("max_exclusive", row.get("max_exclusive"))?,
        handlers: parsed("handlers", handlers)?,
        live: row.get("live"),
        draining: row.get("draining"),
        paused: pause(row),
        open: count("open", row.get("open"))?,
        open_exclusive: count("open_exclusive", row.get("open_exclusive"))?,
    })
}

/// The first candidates of each class but for `passed_over`, in the order in which they are served: an index range per class, so that
/// the cost is what is read, not what waits.
pub(crate) async fn candidates(
    transaction: &Transaction,
    pool: &PoolId,
    classes: &[ClassLimit],
    passed_over: &[TaskId],
) -> Result<Vec<Candidate>, StoreError> {
    if classes.is_empty() {
        return Ok(Vec::new());
    }
    const SQL: &str = "SELECT t.task_id, t.workspace_id, t.handler, t.exclusive, t.step_repeatable, t.rank, t.priority, t.seq \
        FROM unnest($2::text[], $3::bool[], $4::bool[], $5::bigint[]) c(handler, exclusive, repeatable, most) \
        CROSS JOIN LATERAL ( \
            SELECT task_id, workspace_id, handler, exclusive, step_repeatable, rank, priority, seq FROM tasks \
            WHERE pool_id = $1 AND handler = c.handler AND exclusive = c.exclusive AND step_repeatable = c.repeatable \
                AND status = 'pending' AND run_after IS NULL AND NOT workspace_paused \
                AND task_id <> ALL($6::text[]) \
            ORDER BY rank, priority DESC, seq LIMIT c.most) t";
    let handlers: Vec<&str> = classes.iter().map(|c| c.class.handler.as_str()).collect();
    let exclusive: Vec<bool> = classes.iter().map(|c| c.class.exclusive).collect();
    let repeatable: Vec<bool> = classes.iter().map(|c| c.class.repeatable).collect();
    let most: Vec<i64> = classes.iter().map(|c| i64::from(c.limit)).collect();
    let passed_over: Vec<&str> = passed_over.iter().map(TaskId::as_str).collect();
    let rows = transaction
        .query(SQL, &[&pool.as_str(), &handlers, &exclusive, &repeatable, &most, &passed_over])
        .await?;
    rows.iter().map(candidate).collect()
}

fn candidate(row: &Row) -> Result<Candidate, StoreError> {
    Ok(Candidate {
        task_id: parsed("task_id", row.get::<_, &str>("task_id").parse())?,
        workspace: parsed("workspace_id", row.get::<_, &str>("workspace_id").parse())?,
        class: Class {
            handler: parsed("handler", row.get::<_, &str>("handler").parse())?,
            exclusive: row.get("exclusive"),
            repeatable: row.get("step_repeatable"),
        },
        rank: row.get("rank"),
        priority: row.get("priority"),
        seq: row.get("seq"),
    })
}

/// What waits in a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// Its agents, live or not.
    pub(crate) agents: usize,
    /// Those that are live.
    pub(crate) live: usize,
    /// Something may run now that a live agent offers the handler for, whether or not it has room.
    pub(crate) any: bool,
}

const WAITING: &str = "SELECT (SELECT count(*) FROM agents g WHERE g.pool_id = $1) AS agents, \
        (SELECT count(*) FROM agents g WHERE g.pool_id = $1 AND g.live) AS live, EXISTS (SELECT 1 FROM \
        (SELECT DISTINCT h.handler FROM agents g CROSS JOIN LATERAL unnest(g.handlers) h(handler) WHERE g.pool_id = $1 AND g.live) o \
        CROSS JOIN (VALUES (false, false), (false, true), (true, false), (true, true)) c(exclusive, repeatable) \
        CROSS JOIN LATERAL ( \
            SELECT 1 FROM tasks t WHERE t.pool_id = $1 AND t.handler = o.handler AND t.exclusive = c.exclusive \
                AND t.step_repeatable = c.repeatable AND t.status = 'pending' AND t.run_after IS NULL AND NOT t.workspace_paused \
            ORDER BY t.rank, t.priority DESC, t.seq LIMIT 1) first) AS waits";

/// Looks what waits, as one row per class at most.
pub(crate) async fn waiting(transaction: &Transaction, pool: &PoolId) -> Result<Waiting, StoreError> {
    Ok(read_waiting(&transaction.query_one(WAITING, &[&pool.as_str()]).await?))
}

/// The same outside a transaction, and without the pool's lock.
pub(crate) async fn look_waiting(db: &super::Db, pool: &PoolId) -> Result<Waiting, StoreError> {
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(WAITING).await?;
    Ok(read_waiting(&connection.query_one(&statement, &[&pool.as_str()]).await?))
}

fn read_waiting(row: &Row) -> Waiting {
    let count = |column| usize::try_from(row.get::<_, i64>(column)).unwrap_or(0);
    Waiting { agents: count("agents"), live: count("live"), any: row.get("waits") }
}

/// Moves the pool's virtual time up to what was served.
pub(crate) async fn advance_rank(
    transaction: &Transaction,
    pool: &PoolId,
    served: i64,
) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE pools SET served_rank = greatest(served_rank, $2) WHERE pool_id = $1";
    transaction.execute(SQL, &[&pool.as_str(), &served]).await?;
    Ok(())
}

/// Every pool, for the periodic pass.
pub async fn pools(db: &super::Db) -> Result<Vec<PoolId>, StoreError> {
    let connection = db.connection().await?;
    let statement = connection.prepare_cached("SELECT pool_id FROM pools ORDER BY pool_id").await?;
    connection
        .query(&statement, &[])
        .await?
        .iter()
        .map(|row| parsed("pool_id", row.get::<_, &str>("pool_id").parse()))
        .collect()
}
