//! Reading the outbox of notifications. One replica at a time publishes, by a lease: no lock is held across the network.

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::db::Db;
use super::error::StoreError;

/// How long a replica may publish before another one may take over, in seconds.
pub const LEASE_SECONDS: f64 = 15.0;

/// A notification that is not known to be published.
#[derive(Debug, Clone, PartialEq)]
pub struct Pending {
    /// Its number: for one task, the order in which things happened.
    pub notification_id: i64,
    /// The id of its CloudEvent.
    pub event_id: Uuid,
    /// The task.
    pub task_id: Option<String>,
    /// Its CloudEvents type.
    pub event_type: String,
    /// Its data.
    pub body: Value,
    /// The W3C trace context of the task.
    pub traceparent: Option<String>,
    /// When it was written.
    pub created_at: DateTime<Utc>,
}

/// The oldest notifications, if this replica has, or gets, the lease. None while another replica has it.
pub async fn lease_batch(db: &Db, count_max: usize) -> Result<Option<Vec<Pending>>, StoreError> {
    const LEASE: &str = "UPDATE notifier SET replica_id = $1, until = now() + make_interval(secs => $2) \
        WHERE replica_id = $1 OR until < now()";
    const BATCH: &str = "SELECT n.notification_id, n.event_id, n.task_id, n.event_type, n.body, n.created_at, t.traceparent \
        FROM notifications n LEFT JOIN tasks t ON t.task_id = n.task_id ORDER BY n.notification_id LIMIT $1";
    let connection = db.connection().await?;
    let limit = i64::try_from(count_max).unwrap_or(i64::MAX);
    let statement = connection.prepare_cached(LEASE).await?;
    if connection.execute(&statement, &[&db.replica, &LEASE_SECONDS]).await? == 0 {
        return Ok(None);
    }
    let statement = connection.prepare_cached(BATCH).await?;
    let rows = connection.query(&statement, &[&limit]).await?;
    let pending = |row: &tokio_postgres::Row| Pending {
        notification_id: row.get(0),
        event_id: row.get(1),
        task_id: row.get(2),
        event_type: row.get(3),
        body: row.get(4),
        created_at: row.get(5),
        traceparent: row.get(6),
    };
    Ok(Some(rows.iter().map(pending).collect()))
}

/// Forgets what the broker has confirmed.
pub async fn delete(db: &Db, notification_ids: &[i64]) -> Result<u64, StoreError> {
    const SQL: &str = "DELETE FROM notifications WHERE notification_id = ANY($1)";
    if notification_ids.is_empty() {
        return Ok(0);
    }
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(SQL).await?;
    Ok(connection.execute(&statement, &[&notification_ids]).await?)
}

/// Gives the lease back at the end, so that another replica need not wait for it to run out.
pub async fn release(db: &Db) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE notifier SET until = '-infinity' WHERE replica_id = $1";
    let connection = db.connection().await?;
    connection.execute(SQL, &[&db.replica]).await?;
    Ok(())
}
