//! What operators see of dead letters: one, many, or grouped by fingerprint.

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_postgres::types::ToSql;

use super::record::{LETTER_COLUMNS, Letter};
use crate::store::db::Db;
use crate::store::error::StoreError;

/// Most letters, or groups, of one answer.
pub const LIST_MAX_COUNT: usize = 1_000;

/// Which letters. Every field that is set must match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterFilter {
    /// Resolved or not; none = both.
    pub resolved: Option<bool>,
    /// A kind of failure.
    pub failure_kind: Option<String>,
    /// A group.
    pub fingerprint: Option<String>,
    /// A task.
    pub task_id: Option<String>,
    /// A workspace.
    pub workspace_id: Option<String>,
    /// A pool.
    pub pool_id: Option<String>,
    /// `attempt`, `task`, `event` or `message`.
    pub origin: Option<String>,
    /// Made at or after this time.
    pub since: Option<DateTime<Utc>>,
    /// With a smaller number: the next page.
    pub before: Option<i64>,
    /// At most this many; never more than [`LIST_MAX_COUNT`].
    pub count_max: usize,
}

impl Default for LetterFilter {
    /// Unresolved ones, a page of 50.
    fn default() -> Self {
        Self {
            resolved: Some(false),
            failure_kind: None,
            fingerprint: None,
            task_id: None,
            workspace_id: None,
            pool_id: None,
            origin: None,
            since: None,
            before: None,
            count_max: 50,
        }
    }
}

/// The condition over `dead_letters d` that [`LetterFilter::parameters`] fill.
const FILTER: &str = "($1::boolean IS NULL OR (d.resolved_at IS NOT NULL) = $1) AND ($2::text IS NULL OR d.failure_kind = $2) \
    AND ($3::text IS NULL OR d.fingerprint = $3) AND ($4::text IS NULL OR d.task_id = $4) \
    AND ($5::text IS NULL OR d.workspace_id = $5) AND ($6::text IS NULL OR d.pool_id = $6) \
    AND ($7::text IS NULL OR d.origin = $7) AND ($8::timestamptz IS NULL OR d.created_at >= $8) \
    AND ($9::bigint IS NULL OR d.letter_id < $9)";

impl LetterFilter {
    fn parameters(&self) -> [&(dyn ToSql + Sync); 9] {
        [
            &self.resolved,
            &self.failure_kind,
            &self.fingerprint,
            &self.task_id,
            &self.workspace_id,
            &self.pool_id,
            &self.origin,
            &self.since,
            &self.before,
        ]
    }

    fn limit(&self) -> i64 {
        i64::try_from(self.count_max.min(LIST_MAX_COUNT)).unwrap_or(i64::MAX)
    }
}

/// Letters that share a fingerprint.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LetterGroup {
    /// The fingerprint.
    pub fingerprint: String,
    /// Their kind of failure.
    pub failure_kind: String,
    /// The message of the newest one.
    pub newest_message: String,
    /// How many there are.
    pub count: i64,
    /// How many tasks they concern.
    pub tasks: i64,
    /// When the oldest one was made.
    pub oldest_at: DateTime<Utc>,
    /// When the newest one was made.
    pub newest_at: DateTime<Utc>,
    /// The number of the newest one.
    pub newest_letter_id: i64,
}

/// The numbers of every letter that `filter` names, however many there are, newest first.
pub async fn numbers(db: &Db, filter: &LetterFilter) -> Result<Vec<i64>, StoreError> {
    let sql = format!("SELECT d.letter_id FROM dead_letters d WHERE {FILTER} ORDER BY d.letter_id DESC");
    let connection = db.connection().await?;
    let rows = connection.query(&sql, &filter.parameters()).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Letters, newest first.
pub async fn list(db: &Db, filter: &LetterFilter) -> Result<Vec<Letter>, StoreError> {
    let sql = format!(
        "SELECT {LETTER_COLUMNS} FROM dead_letters d WHERE {FILTER} ORDER BY d.letter_id DESC LIMIT $10"
    );
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(&sql).await?;
    let limit = filter.limit();
    let mut parameters = filter.parameters().to_vec();
    parameters.push(&limit);
    Ok(connection.query(&statement, &parameters).await?.iter().map(Letter::read).collect())
}

/// Letters by fingerprint, the largest group first.
pub async fn groups(db: &Db, filter: &LetterFilter) -> Result<Vec<LetterGroup>, StoreError> {
    let sql = format!(
        "SELECT d.fingerprint, min(d.failure_kind) AS failure_kind, count(*) AS count, count(DISTINCT d.task_id) AS tasks, \
             (array_agg(d.failure_message ORDER BY d.letter_id DESC))[1] AS newest_message, \
             min(d.created_at) AS oldest_at, max(d.created_at) AS newest_at, max(d.letter_id) AS newest_letter_id \
         FROM dead_letters d WHERE {FILTER} AND d.fingerprint IS NOT NULL \
         GROUP BY d.fingerprint ORDER BY count(*) DESC, max(d.letter_id) DESC LIMIT $10"
    );
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(&sql).await?;
    let limit = filter.limit();
    let mut parameters = filter.parameters().to_vec();
    parameters.push(&limit);
    let rows = connection.query(&statement, &parameters).await?;
    let group = |row: &tokio_postgres::Row| LetterGroup {
        fingerprint: row.get("fingerprint"),
        failure_kind: row.get("failure_kind"),
        newest_message: row.get::<_, Option<String>>("newest_message").unwrap_or_default(),
        count: row.get("count"),
        tasks: row.get("tasks"),
        oldest_at: row.get("oldest_at"),
        newest_at: row.get("newest_at"),
        newest_letter_id: row.get("newest_letter_id"),
    };
    Ok(rows.iter().map(group).collect())
}

/// One letter.
pub async fn show(db: &Db, letter_id: i64) -> Result<Option<Letter>, StoreError> {
    let sql = format!("SELECT {LETTER_COLUMNS} FROM dead_letters d WHERE d.letter_id = $1");
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(&sql).await?;
    Ok(connection.query_opt(&statement, &[&letter_id]).await?.as_ref().map(Letter::read))
}
