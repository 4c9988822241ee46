//! Trials of events that were not seen to end (protocol D4; see [`crate::intake::deliveries`]).

use std::collections::HashMap;
use std::time::Duration;

use switchyard_common::contract::ids::Digest;

use super::db::Db;
use super::error::StoreError;

/// How many trials of each event did not end; those without any are left out.
pub async fn unended(db: &Db, keys: &[Digest]) -> Result<HashMap<Digest, u32>, StoreError> {
    const SQL: &str = "SELECT trial_key, trials FROM event_trials WHERE trial_key = ANY($1)";
    let bytes: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes().as_slice()).collect();
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(SQL).await?;
    let rows = connection.query(&statement, &[&bytes]).await?;
    let trials: HashMap<Vec<u8>, i32> =
        rows.iter().map(|row| (row.get("trial_key"), row.get("trials"))).collect();
    let of = |key: &Digest| Some((key.clone(), u32::try_from(*trials.get(key.as_bytes().as_slice())?).ok()?));
    Ok(keys.iter().filter_map(of).collect())
}

/// Commits that a trial of `key` begins.
pub async fn begin(db: &Db, key: &Digest) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO event_trials (trial_key, trials) VALUES ($1, 1) ON CONFLICT (trial_key) \
        DO UPDATE SET trials = event_trials.trials + 1, begun_at = now()";
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(SQL).await?;
    connection.execute(&statement, &[&key.as_bytes().as_slice()]).await?;
    Ok(())
}

/// Forgets the trials of `key`: one of them has ended.
pub async fn end(db: &Db, key: &Digest) -> Result<(), StoreError> {
    const SQL: &str = "DELETE FROM event_trials WHERE trial_key = $1";
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(SQL).await?;
    connection.execute(&statement, &[&key.as_bytes().as_slice()]).await?;
    Ok(())
}

/// Deletes at most `count_max` rows that are older than `age`: their events have ended elsewhere or were purged.
pub async fn delete_old(db: &Db, age: Duration, count_max: i64) -> Result<u64, StoreError> {
    const SQL: &str = "DELETE FROM event_trials WHERE trial_key IN (SELECT trial_key FROM event_trials \
        WHERE begun_at < now() - make_interval(secs => $1) ORDER BY trial_key LIMIT $2 FOR UPDATE SKIP LOCKED)";
    let connection = db.connection().await?;
    Ok(connection.execute(SQL, &[&age.as_secs_f64(), &count_max]).await?)
}
