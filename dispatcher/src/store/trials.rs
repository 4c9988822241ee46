//! Trials of events, and which of them a replica left behind that is gone (protocol D4; see [`crate::intake::deliveries`]).

use std::collections::HashMap;
use std::time::Duration;

use switchyard_common::contract::ids::Digest;
use uuid::Uuid;

use super::db::{Db, Transaction};
use super::error::StoreError;

/// How many trials of each event were left behind by other replicas that give no sign of life for `stale_after`; those without any are left out.
pub async fn left_behind(
    db: &Db,
    keys: &[Digest],
    stale_after: Duration,
) -> Result<HashMap<Digest, u32>, StoreError> {
    const SQL: &str = "SELECT t.trial_key, count(*)::integer AS trials FROM event_trials t \
        WHERE t.trial_key = ANY($1) AND t.replica_id <> $2 AND NOT EXISTS (SELECT 1 FROM replicas r \
            WHERE r.replica_id = t.replica_id AND r.heartbeat_at > now() - $3 * interval '1 second') \
        GROUP BY t.trial_key";
    let bytes: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes().as_slice()).collect();
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(SQL).await?;
    let rows = connection.query(&statement, &[&bytes, &db.replica, &stale_after.as_secs_f64()]).await?;
    let trials: HashMap<Vec<u8>, i32> =
        rows.iter().map(|row| (row.get("trial_key"), row.get("trials"))).collect();
    let of = |key: &Digest| Some((key.clone(), u32::try_from(*trials.get(key.as_bytes().as_slice())?).ok()?));
    Ok(keys.iter().filter_map(of).collect())
}

/// Commits that `trial` of `key` begins. The same again changes nothing: an answer may have been lost.
pub async fn begin(db: &Db, key: &Digest, trial: Uuid) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO event_trials (trial_key, trial_id, replica_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(SQL).await?;
    connection.execute(&statement, &[&key.as_bytes().as_slice(), &trial, &db.replica]).await?;
    Ok(())
}

/// Forgets every trial of `key`: one of them has ended.
const END: &str = "DELETE FROM event_trials WHERE trial_key = $1";

/// Forgets every trial of `key`: one of them has ended, without an effect.
pub async fn end(db: &Db, key: &Digest) -> Result<(), StoreError> {
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(END).await?;
    connection.execute(&statement, &[&key.as_bytes().as_slice()]).await?;
    Ok(())
}

/// The same together with the event's effect: what has taken effect has no trial that did not end, whatever happens next.
pub(super) async fn end_with_effect(transaction: &Transaction, key: &Digest) -> Result<(), StoreError> {
    transaction.execute(END, &[&key.as_bytes().as_slice()]).await?;
    Ok(())
}

/// Deletes at most `count_max` rows that are older than `age`: their events have ended elsewhere or were purged.
pub async fn delete_old(db: &Db, age: Duration, count_max: i64) -> Result<u64, StoreError> {
    const SQL: &str = "DELETE FROM event_trials WHERE (trial_key, trial_id) IN (SELECT trial_key, trial_id FROM event_trials \
        WHERE begun_at < now() - make_interval(secs => $1) ORDER BY trial_key, trial_id LIMIT $2 FOR UPDATE SKIP LOCKED)";
    let connection = db.connection().await?;
    Ok(connection.execute(SQL, &[&age.as_secs_f64(), &count_max]).await?)
}
