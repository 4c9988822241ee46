//! Deleting what is old. Every statement touches a bounded number of rows, found by an index, and skips what somebody works on.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::db::Db;
use super::error::StoreError;

/// Where a walk over old rows has come to, so that rows that must stay are not looked at again and again.
#[derive(Debug, Clone, PartialEq)]
pub struct Cursor {
    at: DateTime<Utc>,
    key: String,
}

/// One old row.
#[derive(Debug, Clone, PartialEq)]
pub struct Old {
    /// Its key.
    pub key: String,
    /// The second part of its key, where it has one.
    pub key_rest: String,
    /// Nothing holds it.
    pub free: bool,
    cursor: Cursor,
}

impl Old {
    /// The place of this row in the walk.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.cursor.clone()
    }
}

/// What is walked over. `$1` is the age in seconds, `$2` and `$3` the cursor, `$4` the number of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// Finished tasks. Held by an open letter (protocol H), and by a replay that has not ended.
    Tasks,
    /// Resolved letters. A letter of a task goes after the task.
    Letters,
    /// Ids of events. Held by their task.
    Events,
    /// Ended sessions. Held by an attempt that is still open, such as that of an uncertain task.
    Sessions,
}

const TASKS: &str = "SELECT t.task_id AS key, '' AS key_rest, t.finished_at AS at, \
        NOT EXISTS (SELECT 1 FROM dead_letters d WHERE d.task_id = t.task_id AND d.resolved_at IS NULL) \
        AND NOT EXISTS (SELECT 1 FROM tasks r WHERE r.replay_of = t.task_id AND r.finished_at IS NULL) AS free \
    FROM tasks t WHERE t.finished_at IS NOT NULL AND t.finished_at < now() - make_interval(secs => $1) \
        AND (t.finished_at, t.task_id) > ($2, $3) ORDER BY t.finished_at, t.task_id LIMIT $4";

const LETTERS: &str = "SELECT d.letter_id::text AS key, '' AS key_rest, d.resolved_at AS at, \
        NOT (d.origin IN ('attempt', 'task') AND EXISTS (SELECT 1 FROM tasks t WHERE t.task_id = d.task_id)) AS free \
    FROM dead_letters d WHERE d.resolved_at IS NOT NULL AND d.resolved_at < now() - make_interval(secs => $1) \
        AND (d.resolved_at, d.letter_id) > ($2, $3::text::bigint) ORDER BY d.resolved_at, d.letter_id LIMIT $4";

const EVENTS: &str = "SELECT e.event_id AS key, e.source AS key_rest, e.received_at AS at, \
        NOT EXISTS (SELECT 1 FROM tasks t WHERE t.task_id = e.task_id) AS free \
    FROM events e WHERE e.received_at < now() - make_interval(secs => $1) \
        AND (e.received_at, e.event_id) > ($2, $3) ORDER BY e.received_at, e.event_id LIMIT $4";

const SESSIONS: &str = "SELECT s.session::text AS key, '' AS key_rest, s.ended_at AS at, \
        NOT EXISTS (SELECT 1 FROM agents g WHERE g.session = s.session) \
        AND NOT EXISTS (SELECT 1 FROM attempts a WHERE a.ended_at IS NULL AND a.pool_id = s.pool_id AND a.agent_id = s.agent_id \
            AND a.session = s.session) AS free \
    FROM agent_sessions s WHERE s.ended_at IS NOT NULL AND s.ended_at < now() - make_interval(secs => $1) \
        AND (s.ended_at, s.session) > ($2, $3::text::uuid) ORDER BY s.ended_at, s.session LIMIT $4";

impl Walk {
    const fn sql(self) -> &'static str {
        match self {
            Self::Tasks => TASKS,
            Self::Letters => LETTERS,
            Self::Events => EVENTS,
            Self::Sessions => SESSIONS,
        }
    }

    /// The smallest key, for a walk from the beginning.
    const fn first_key(self) -> &'static str {
        match self {
            Self::Tasks | Self::Events => "",
            Self::Letters => "0",
            Self::Sessions => "00000000-0000-0000-0000-000000000000",
        }
    }
}

/// The next rows of a walk that are older than `age`, by the database clock.
pub async fn old(
    db: &Db,
    walk: Walk,
    age: Duration,
    after: Option<&Cursor>,
    count_max: usize,
) -> Result<Vec<Old>, StoreError> {
    let at = after.map_or(DateTime::UNIX_EPOCH, |cursor| cursor.at);
    let key = after.map_or(walk.first_key(), |cursor| cursor.key.as_str());
    let limit = i64::try_from(count_max).unwrap_or(i64::MAX);
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(walk.sql()).await?;
    let rows = connection.query(&statement, &[&age.as_secs_f64(), &at, &key, &limit]).await?;
    let read = |row: &tokio_postgres::Row| {
        let key: String = row.get("key");
        let cursor = Cursor { at: row.get("at"), key: key.clone() };
        Old { key, key_rest: row.get("key_rest"), free: row.get("free"), cursor }
    };
    Ok(rows.iter().map(read).collect())
}

/// Deletes log lines of these tasks, at most `count_max`; gives their number.
pub async fn delete_logs(db: &Db, task_ids: &[&str], count_max: i64) -> Result<u64, StoreError> {
    const SQL: &str =
        "DELETE FROM logs WHERE ctid = ANY(ARRAY(SELECT ctid FROM logs WHERE task_id = ANY($1) LIMIT $2))";
    execute(db, SQL, task_ids, count_max).await
}

/// Deletes parts of artifacts of these tasks, at most `count_max`; gives their number.
pub async fn delete_parts(db: &Db, task_ids: &[&str], count_max: i64) -> Result<u64, StoreError> {
    const SQL: &str = "DELETE FROM artifact_parts WHERE ctid = ANY(ARRAY(SELECT ctid FROM artifact_parts WHERE task_id = ANY($1) LIMIT $2))";
    execute(db, SQL, task_ids, count_max).await
}

async fn execute(db: &Db, sql: &str, task_ids: &[&str], count_max: i64) -> Result<u64, StoreError> {
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(sql).await?;
    Ok(connection.execute(&statement, &[&task_ids, &count_max]).await?)
}

/// Deletes finished tasks with what hangs on them, unless something has come to hold them since they were looked at.
pub async fn delete_tasks(db: &Db, task_ids: &[&str]) -> Result<u64, StoreError> {
    const SQL: &str = "DELETE FROM tasks WHERE task_id IN (SELECT t.task_id FROM tasks t WHERE t.task_id = ANY($1) \
        AND t.finished_at IS NOT NULL \
        AND NOT EXISTS (SELECT 1 FROM dead_letters d WHERE d.task_id = t.task_id AND d.resolved_at IS NULL) \
        AND NOT EXISTS (SELECT 1 FROM tasks r WHERE r.replay_of = t.task_id AND r.finished_at IS NULL) \
        ORDER BY t.task_id FOR UPDATE SKIP LOCKED)";
    keyed(db, SQL, task_ids).await
}

/// Deletes resolved letters.
pub async fn delete_letters(db: &Db, letter_ids: &[&str]) -> Result<u64, StoreError> {
    const SQL: &str = "DELETE FROM dead_letters WHERE letter_id IN (SELECT d.letter_id FROM dead_letters d \
        WHERE d.letter_id = ANY($1::text[]::bigint[]) AND d.resolved_at IS NOT NULL ORDER BY d.letter_key FOR UPDATE SKIP LOCKED)";
    keyed(db, SQL, letter_ids).await
}

/// Deletes ended sessions.
pub async fn delete_sessions(db: &Db, sessions: &[&str]) -> Result<u64, StoreError> {
    const SQL: &str = "DELETE FROM agent_sessions WHERE session IN (SELECT s.session FROM agent_sessions s \
        WHERE s.session = ANY($1::text[]::uuid[]) AND s.ended_at IS NOT NULL ORDER BY s.session FOR UPDATE SKIP LOCKED)";
    keyed(db, SQL, sessions).await
}

async fn keyed(db: &Db, sql: &str, keys: &[&str]) -> Result<u64, StoreError> {
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(sql).await?;
    Ok(connection.execute(&statement, &[&keys]).await?)
}

/// Deletes ids of events, unless their task is back.
pub async fn delete_events(db: &Db, ids: &[&str], sources: &[&str]) -> Result<u64, StoreError> {
    const SQL: &str = "DELETE FROM events e USING unnest($1::text[], $2::text[]) u(event_id, source) \
        WHERE e.source = u.source AND e.event_id = u.event_id AND NOT EXISTS (SELECT 1 FROM tasks t WHERE t.task_id = e.task_id)";
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(SQL).await?;
    Ok(connection.execute(&statement, &[&ids, &sources]).await?)
}

/// Deletes rows of the audit log that are older than `age`, at most `count_max`.
pub async fn delete_audit(db: &Db, age: Duration, count_max: i64) -> Result<u64, StoreError> {
    const SQL: &str = "DELETE FROM audit_log WHERE audit_id IN (SELECT audit_id FROM audit_log \
        WHERE at < now() - make_interval(secs => $1) ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED)";
    let connection = db.connection().await?;
    Ok(connection.execute(SQL, &[&age.as_secs_f64(), &count_max]).await?)
}

/// Deletes rows of replicas that have been silent for longer than `age`.
pub async fn delete_replicas(db: &Db, age: Duration, count_max: i64) -> Result<u64, StoreError> {
    const SQL: &str = "DELETE FROM replicas WHERE replica_id IN (SELECT replica_id FROM replicas \
        WHERE heartbeat_at < now() - make_interval(secs => $1) ORDER BY replica_id LIMIT $2 FOR UPDATE SKIP LOCKED)";
    let connection = db.connection().await?;
    Ok(connection.execute(SQL, &[&age.as_secs_f64(), &count_max]).await?)
}
