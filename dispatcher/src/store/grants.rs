//! The grant of a pool: taking it away ends every session of the pool at once, and nothing that its agents say counts any more (incident 63).

use serde_json::json;
use switchyard_common::contract::ids::PoolId;

use super::db::{Db, Transaction};
use super::error::StoreError;
use super::operate::audit;

/// What taking a grant away did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revoked {
    /// It was revoked before.
    pub again: bool,
    /// Sessions that have ended.
    pub sessions: u64,
}

/// Takes a pool's grant away, with who and why. From the commit on its agents are not heard, their reports are refused and nothing is assigned
/// to them; what they had in hand is lost, which the next sweep of any replica carries out. A pool that nobody has registered is revoked as well: its credentials may be out already.
///
/// # Errors
/// When the database fails.
pub async fn revoke(db: &Db, pool: &PoolId, by: &str, why: &str) -> Result<Revoked, StoreError> {
    db.transaction(|transaction| async move {
        let again = close(&transaction, pool, by).await?;
        let sessions = end_sessions(&transaction, pool).await?;
        let detail = json!({ "why": why, "again": again, "sessions": sessions });
        audit(&transaction, by, "revoke_pool", &format!("pool:{pool}"), &detail).await?;
        Ok(Revoked { again, sessions })
    })
    .await
}

/// Marks the pool; true when it was marked already.
async fn close(transaction: &Transaction, pool: &PoolId, by: &str) -> Result<bool, StoreError> {
    const LOOK: &str = "SELECT revoked_at IS NOT NULL FROM pools WHERE pool_id = $1 FOR NO KEY UPDATE";
    const CLOSE: &str = "INSERT INTO pools (pool_id, revoked_at, revoked_by) VALUES ($1, now(), $2) \
        ON CONFLICT (pool_id) DO UPDATE SET revoked_at = coalesce(pools.revoked_at, now()), \
            revoked_by = coalesce(pools.revoked_by, EXCLUDED.revoked_by)";
    let again = transaction.query(LOOK, &[&pool.as_str()]).await?.first().is_some_and(|row| row.get(0));
    transaction.execute(CLOSE, &[&pool.as_str(), &by]).await?;
    Ok(again)
}

async fn end_sessions(transaction: &Transaction, pool: &PoolId) -> Result<u64, StoreError> {
    const SQL: &str = "WITH gone AS (UPDATE agents SET live = false WHERE pool_id = $1 AND live RETURNING session) \
        UPDATE agent_sessions s SET ended_at = now(), end_reason = 'pool_revoked' FROM gone \
        WHERE s.session = gone.session AND s.ended_at IS NULL";
    transaction.execute(SQL, &[&pool.as_str()]).await
}

/// Gives a pool its grant back, with who and why; false when it has it. Its agents take new sessions when they are heard.
///
/// # Errors
/// When the database fails.
pub async fn grant(db: &Db, pool: &PoolId, by: &str, why: &str) -> Result<bool, StoreError> {
    const SQL: &str =
        "UPDATE pools SET revoked_at = NULL, revoked_by = NULL WHERE pool_id = $1 AND revoked_at IS NOT NULL";
    db.transaction(|transaction| async move {
        let changed = transaction.execute(SQL, &[&pool.as_str()]).await? > 0;
        if changed {
            audit(&transaction, by, "grant_pool", &format!("pool:{pool}"), &json!({ "why": why })).await?;
        }
        Ok(changed)
    })
    .await
}

/// A pool, for people.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PoolSummary {
    /// Its name.
    pub pool: String,
    /// Agents that are heard.
    pub agents: i64,
    /// Since when it is paused.
    pub paused_at: Option<chrono::DateTime<chrono::Utc>>,
    /// Since when its grant is revoked.
    pub revoked_at: Option<chrono::DateTime<chrono::Utc>>,
    /// Who revoked it.
    pub revoked_by: Option<String>,
}

/// Every pool.
///
/// # Errors
/// When the database fails.
pub async fn list(db: &Db) -> Result<Vec<PoolSummary>, StoreError> {
    const SQL: &str = "SELECT p.pool_id, p.paused_at, p.revoked_at, p.revoked_by, \
            (SELECT count(*) FROM agents a WHERE a.pool_id = p.pool_id AND a.live) AS agents \
        FROM pools p ORDER BY p.pool_id";
    let rows = db.connection().await?.query(SQL, &[]).await?;
    let pool = |row: &tokio_postgres::Row| PoolSummary {
        pool: row.get("pool_id"),
        agents: row.get("agents"),
        paused_at: row.get("paused_at"),
        revoked_at: row.get("revoked_at"),
        revoked_by: row.get("revoked_by"),
    };
    Ok(rows.iter().map(pool).collect())
}
