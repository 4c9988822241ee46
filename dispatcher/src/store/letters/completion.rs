//! Letters whose other half does not come (protocol D3).

use serde_json::Value;
use switchyard_common::failure::Failure;

use super::json::opt_to_json;
use super::record::{LETTER_COLUMNS, Letter};
use crate::store::db::Db;
use crate::store::error::StoreError;

/// Wait for the other half of a letter, in seconds (protocol D3).
pub const HALF_WAIT_SECONDS: f64 = 30.0;

/// What completes a letter as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// The letter.
    pub letter_id: i64,
    /// Made up for a letter that has none.
    pub failure: Option<Failure>,
    /// What is said about it.
    pub remark: String,
}

/// Letters that have waited for long enough, oldest first.
pub async fn overdue(db: &Db, count_max: usize) -> Result<Vec<Letter>, StoreError> {
    let sql = format!(
        "SELECT {LETTER_COLUMNS} FROM dead_letters d WHERE d.completed_at IS NULL \
         AND coalesce(d.failed_at, d.broker_at) < now() - make_interval(secs => $1) \
         ORDER BY coalesce(d.failed_at, d.broker_at) LIMIT $2"
    );
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(&sql).await?;
    let limit = i64::try_from(count_max).unwrap_or(i64::MAX);
    let rows = connection.query(&statement, &[&HALF_WAIT_SECONDS, &limit]).await?;
    Ok(rows.iter().map(Letter::read).collect())
}

/// Completes letters as they are. One whose other half has come in the meantime is left alone; the number of those that were
/// completed here is returned.
pub async fn complete(db: &Db, completions: &[Completion]) -> Result<u64, StoreError> {
    const SQL: &str = "UPDATE dead_letters d SET completed_at = now(), remark = concat_ws('; ', d.remark, u.remark),
            failure_kind = coalesce(d.failure_kind, u.failure_kind), failure_message = coalesce(d.failure_message, u.failure_message),
            failure = coalesce(d.failure, u.failure), fingerprint = coalesce(d.fingerprint, u.fingerprint),
            failed_at = coalesce(d.failed_at, now())
        FROM unnest($1::bigint[], $2::text[], $3::text[], $4::jsonb[], $5::text[], $6::text[])
            u(letter_id, failure_kind, failure_message, failure, fingerprint, remark)
        WHERE d.letter_id = u.letter_id AND d.completed_at IS NULL AND (d.failure_kind IS NULL) = (u.failure_kind IS NOT NULL)";
    if completions.is_empty() {
        return Ok(0);
    }
    let failures = || completions.iter().map(|completion| completion.failure.as_ref());
    let bodies: Vec<Option<Value>> =
        failures().map(|failure| opt_to_json("failure", failure)).collect::<Result<_, _>>()?;
    let ids: Vec<i64> = completions.iter().map(|completion| completion.letter_id).collect();
    let kinds: Vec<Option<&str>> = failures().map(|failure| failure.map(|f| f.kind.as_str())).collect();
    let messages: Vec<Option<&str>> = failures().map(|failure| failure.map(|f| f.message.as_str())).collect();
    let fingerprints: Vec<Option<String>> =
        failures().map(|failure| failure.map(Failure::fingerprint)).collect();
    let remarks: Vec<&str> = completions.iter().map(|completion| completion.remark.as_str()).collect();
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(SQL).await?;
    Ok(connection.execute(&statement, &[&ids, &kinds, &messages, &bodies, &fingerprints, &remarks]).await?)
}
