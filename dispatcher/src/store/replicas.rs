//! Replicas of the dispatcher and their own signs of life.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_postgres::Row;
use uuid::Uuid;

use super::db::Db;
use super::error::StoreError;

/// Another replica, as its own row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaRow {
    /// Which.
    pub replica: Uuid,
    /// Up to when it has settled what the broker handed to it.
    pub settled_through: Option<DateTime<Utc>>,
    /// Its sign of life is fresh.
    pub is_fresh: bool,
}

/// The time of the database, and what all other replicas say of themselves.
pub async fn other_replicas(
    db: &Db,
    stale_after: Duration,
) -> Result<(DateTime<Utc>, Vec<ReplicaRow>), StoreError> {
    const SQL: &str = "SELECT clock_timestamp() AS now, r.replica_id, r.settled_through, \
            coalesce(r.heartbeat_at > now() - $2::double precision * interval '1 second', false) AS is_fresh \
        FROM (VALUES (1)) one LEFT JOIN replicas r ON r.replica_id <> $1";
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(SQL).await?;
    let rows = connection.query(&statement, &[&db.replica, &stale_after.as_secs_f64()]).await?;
    let now = rows.first().map(|row| row.get("now"));
    let now = now.ok_or_else(|| StoreError::Statement("the database did not tell its time".into()))?;
    let replica = |row: &Row| {
        let (settled_through, is_fresh) = (row.get("settled_through"), row.get("is_fresh"));
        Some(ReplicaRow { replica: row.get::<_, Option<Uuid>>("replica_id")?, settled_through, is_fresh })
    };
    Ok((now, rows.iter().filter_map(replica).collect()))
}

/// Rows of replicas that the broker does not know either are deleted after this, in seconds.
const GONE_REPLICA_KEPT_SECONDS: f64 = 60.0;

/// Writes this replica's own sign of life: while it is fresh and says that the replica `publishes`, the replica looks after what it
/// published (protocol B2). Gives the database's time.
pub async fn replica_beat(
    db: &Db,
    host: &str,
    settled_through: Option<DateTime<Utc>>,
    publishes: bool,
) -> Result<DateTime<Utc>, StoreError> {
    const SQL: &str = "INSERT INTO replicas AS r (replica_id, host, settled_through, publishes) VALUES ($1, $2, $3, $4) \
        ON CONFLICT (replica_id) DO UPDATE SET heartbeat_at = now(), publishes = EXCLUDED.publishes, \
            settled_through = greatest(r.settled_through, EXCLUDED.settled_through) \
        RETURNING clock_timestamp()";
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(SQL).await?;
    Ok(connection.query_one(&statement, &[&db.replica, &host, &settled_through, &publishes]).await?.get(0))
}

/// Takes away the rows of replicas that the broker does not know any more, once they have been silent for a while.
pub async fn forget_replicas(db: &Db, gone: &[Uuid]) -> Result<(), StoreError> {
    const SQL: &str =
        "DELETE FROM replicas WHERE replica_id = ANY($1) AND heartbeat_at < now() - $2 * interval '1 second'";
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(SQL).await?;
    connection.execute(&statement, &[&gone, &GONE_REPLICA_KEPT_SECONDS]).await?;
    Ok(())
}

/// Takes this replica's row away at its orderly end, so that others take over at once. Rows of others stay, however old: one that is
/// silent may still have outcomes in hand, unacked, and only the broker knows (see [`forget_replicas`]).
pub async fn replica_ends(db: &Db) -> Result<(), StoreError> {
    // Trials of events that it did not come to the end of are no deaths (protocol D4).
    const SQL: &str = "WITH trials AS (DELETE FROM event_trials WHERE replica_id = $1) DELETE FROM replicas WHERE replica_id = $1";
    let connection = db.connection().await?;
    connection.execute(SQL, &[&db.replica]).await?;
    Ok(())
}
