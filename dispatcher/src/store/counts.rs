//! What is counted in the database for gauges, in one statement.

use super::db::Db;
use super::error::StoreError;

/// One value of a gauge.
#[derive(Debug, Clone, PartialEq)]
pub struct Counted {
    /// Which gauge.
    pub name: String,
    /// The pool; empty where the value is about no pool.
    pub pool: String,
    /// The status, for tasks.
    pub status: Option<String>,
    /// The value.
    pub value: f64,
}

/// Tasks that have not ended by pool and status (each pair, so that one that becomes empty is told), age of the oldest one that may
/// run and waits, agents and slots by pool, slots that a pool could use now, open dead letters, notifications that wait.
///
/// What could use a slot: what is in an agent's hand, and what a pass could place if there were agents. A task that is blocked, awaits
/// approval, waits for its time or is paused could not (incident 34); one that is uncertain has its agent, whatever became of that.
const COUNTS: &str = "WITH open_tasks AS (
        SELECT pool_id, status, count(*) AS n, min(since) FILTER (WHERE status = 'pending' AND run_after IS NULL) AS oldest,
            count(*) FILTER (WHERE status IN ('assigned', 'running')) AS in_hand,
            count(*) FILTER (WHERE status = 'pending' AND run_after IS NULL AND NOT workspace_paused) AS eligible
        FROM tasks WHERE finished_at IS NULL GROUP BY pool_id, status),
    load AS (
        SELECT g.pool_id, g.slots, (SELECT count(*) FROM attempts a WHERE a.ended_at IS NULL AND a.pool_id = g.pool_id
            AND a.agent_id = g.agent_id AND a.session = g.session) AS open FROM agents g WHERE g.live AND NOT g.draining)
    SELECT 'tasks' AS name, p.pool_id AS pool, s.status, coalesce(o.n, 0)::float8 AS value
        FROM pools p CROSS JOIN unnest(ARRAY['blocked', 'pending', 'assigned', 'running', 'awaiting_approval', 'uncertain']) s(status)
        LEFT JOIN open_tasks o ON o.pool_id = p.pool_id AND o.status = s.status
    UNION ALL SELECT 'oldest_waiting_seconds', p.pool_id, NULL,
        coalesce(extract(epoch FROM now() - (SELECT min(oldest) FROM open_tasks o WHERE o.pool_id = p.pool_id)), 0)::float8 FROM pools p
    UNION ALL SELECT 'agents_live', p.pool_id, NULL, (SELECT count(*) FROM agents g WHERE g.live AND g.pool_id = p.pool_id)::float8
        FROM pools p
    UNION ALL SELECT 'slots', p.pool_id, NULL, coalesce((SELECT sum(slots) FROM load l WHERE l.pool_id = p.pool_id), 0)::float8
        FROM pools p
    UNION ALL SELECT 'slots_free', p.pool_id, NULL,
        coalesce((SELECT sum(greatest(slots - open, 0)) FROM load l WHERE l.pool_id = p.pool_id), 0)::float8 FROM pools p
    UNION ALL SELECT 'slots_wanted', p.pool_id, NULL,
        coalesce((SELECT sum(in_hand + CASE WHEN p.paused_at IS NULL AND p.revoked_at IS NULL THEN eligible ELSE 0 END)
            FROM open_tasks o WHERE o.pool_id = p.pool_id), 0)::float8 FROM pools p
    UNION ALL SELECT 'dead_letters_open', '', NULL, (SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL)::float8
    UNION ALL SELECT 'notifications_waiting', '', NULL, (SELECT count(*) FROM notifications)::float8";

/// Counts.
pub async fn counts(db: &Db) -> Result<Vec<Counted>, StoreError> {
    let connection = db.connection().await?;
    // Planned each time, which is seldom: a statement without parameters keeps its plan, whatever the tables become.
    let rows = connection.query(COUNTS, &[]).await?;
    let counted = |row: &tokio_postgres::Row| Counted {
        name: row.get(0),
        pool: row.get(1),
        status: row.get(2),
        value: row.get(3),
    };
    Ok(rows.iter().map(counted).collect())
}
