//! The log line of a letter: claimed by one replica, written after the commit, then marked. A replica that ends in between leaves
//! the claim, and another one writes the line again: at least once rather than in silence.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::Value;
use switchyard_common::contract::limits::LOG_TAIL_MAX_LINES;
use switchyard_common::contract::notification::Notification;
use switchyard_common::failure::FailureKind;
use switchyard_common::task::Status;

use super::json::to_json;
use super::record::{LETTER_COLUMNS, Letter};
use crate::store::db::{Db, Transaction};
use crate::store::error::StoreError;
use crate::store::timeline::timelines;

/// Age of a claim at which another replica takes it over, in seconds.
pub const CLAIM_SECONDS: f64 = 30.0;
/// The type of the notification that tells of a dead letter.
pub const LETTER_EVENT_TYPE: &str = "switchyard.dead_letter.v1";

/// Letters whose lines are to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Claimed {
    /// When they were claimed: [`mark_logged`] marks only what was not claimed again since.
    pub at: DateTime<Utc>,
    /// The letters, oldest first.
    pub letters: Vec<Letter>,
}

/// Claims complete letters that have not been logged. With the first claim of a letter its timeline is stored, upstream is told, and
/// it resolves itself if its task has succeeded before (protocol D6).
pub async fn claim(db: &Db, count_max: usize) -> Result<Claimed, StoreError> {
    db.transaction(|transaction| async move {
        let transaction = &*transaction;
        let at = transaction.now().await?;
        let (mut letters, first) = claim_rows(transaction, count_max).await?;
        if letters.is_empty() {
            return Ok(Claimed { at, letters });
        }
        add_timelines(transaction, &mut letters).await?;
        add_log_tails(transaction, &mut letters).await?;
        store_timelines(transaction, &letters).await?;
        let is_told = |letter: &&Letter| db.notifies && first.contains(&letter.letter_id);
        let told: Vec<&Letter> = letters.iter().filter(is_told).collect();
        notify(transaction, &told).await?;
        resolve_recovered(transaction, &letters).await?;
        Ok(Claimed { at, letters })
    })
    .await
}

async fn claim_rows(
    transaction: &Transaction,
    count_max: usize,
) -> Result<(Vec<Letter>, Vec<i64>), StoreError> {
    let sql = format!(
        "UPDATE dead_letters d SET log_claimed_at = now() FROM (\
             SELECT letter_id, log_claimed_at IS NULL AS first FROM dead_letters \
             WHERE logged_at IS NULL AND completed_at IS NOT NULL \
                 AND (log_claimed_at IS NULL OR log_claimed_at < now() - make_interval(secs => $1)) \
             ORDER BY completed_at LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED) c \
         WHERE d.letter_id = c.letter_id RETURNING c.first, {LETTER_COLUMNS}"
    );
    let limit = i64::try_from(count_max).unwrap_or(i64::MAX);
    let rows = transaction.query(&sql, &[&CLAIM_SECONDS, &limit]).await?;
    let mut letters: Vec<Letter> = rows.iter().map(Letter::read).collect();
    letters.sort_by_key(|letter| (letter.completed_at, letter.letter_id));
    let first = rows.iter().filter(|row| row.get("first")).map(|row| row.get("letter_id")).collect();
    Ok((letters, first))
}

async fn add_timelines(transaction: &Transaction, letters: &mut [Letter]) -> Result<(), StoreError> {
    let ids: Vec<String> = letters.iter().filter_map(|letter| letter.task_id.clone()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let timelines = timelines(transaction, &ids).await?;
    for letter in letters {
        if let Some(timeline) = letter.task_id.as_ref().and_then(|id| timelines.get(id)) {
            letter.timeline = serde_json::to_value(timeline).ok();
        }
    }
    Ok(())
}

/// For a failure that came without the handler's last lines: those that were stored.
async fn add_log_tails(transaction: &Transaction, letters: &mut [Letter]) -> Result<(), StoreError> {
    const SQL: &str = "SELECT u.task_id, u.attempt, l.line FROM unnest($1::text[], $2::integer[]) u(task_id, attempt) \
        CROSS JOIN LATERAL (SELECT sequence, line FROM logs WHERE task_id = u.task_id AND attempt = u.attempt \
            ORDER BY sequence DESC LIMIT $3) l ORDER BY u.task_id, u.attempt, l.sequence";
    let mut ids: Vec<String> = Vec::new();
    let mut attempts: Vec<i32> = Vec::new();
    for letter in letters.iter().filter(|letter| letter.log_tail().is_empty()) {
        if let (Some(id), Some(attempt)) = (&letter.task_id, letter.attempt) {
            ids.push(id.clone());
            attempts.push(attempt);
        }
    }
    if ids.is_empty() {
        return Ok(());
    }
    let limit = i64::try_from(LOG_TAIL_MAX_LINES).unwrap_or(i64::MAX);
    let mut tails: HashMap<(String, i32), Vec<Value>> = HashMap::new();
    for row in transaction.query(SQL, &[&ids, &attempts, &limit]).await? {
        tails.entry((row.get(0), row.get(1))).or_default().push(Value::String(row.get(2)));
    }
    for letter in letters {
        let key = letter.task_id.clone().zip(letter.attempt);
        if let Some(tail) = key.and_then(|key| tails.remove(&key))
            && let Some(Value::Object(failure)) = &mut letter.failure
        {
            failure.insert("log_tail".to_owned(), Value::Array(tail));
        }
    }
    Ok(())
}

async fn store_timelines(transaction: &Transaction, letters: &[Letter]) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE dead_letters d SET timeline = u.timeline, failure = u.failure \
        FROM unnest($1::bigint[], $2::jsonb[], $3::jsonb[]) u(letter_id, timeline, failure) WHERE d.letter_id = u.letter_id";
    let ids: Vec<i64> = letters.iter().map(|letter| letter.letter_id).collect();
    let timelines: Vec<Option<&Value>> = letters.iter().map(|letter| letter.timeline.as_ref()).collect();
    let failures: Vec<Option<&Value>> = letters.iter().map(|letter| letter.failure.as_ref()).collect();
    transaction.execute(SQL, &[&ids, &timelines, &failures]).await?;
    Ok(())
}

async fn notify(transaction: &Transaction, letters: &[&Letter]) -> Result<(), StoreError> {
    const STATUS: &str = "SELECT task_id, status, version FROM tasks WHERE task_id = ANY($1)";
    const SQL: &str = "INSERT INTO notifications (task_id, event_type, body) SELECT u.task_id, $3, u.body \
        FROM unnest($1::text[], $2::jsonb[]) u(task_id, body)";
    if letters.is_empty() {
        return Ok(());
    }
    let ids: Vec<&str> = letters.iter().filter_map(|letter| letter.task_id.as_deref()).collect();
    let tasks: HashMap<String, (String, i64)> = transaction
        .query(STATUS, &[&ids])
        .await?
        .iter()
        .map(|row| (row.get(0), (row.get(1), row.get(2))))
        .collect();
    let told: Vec<Option<&str>> = letters.iter().map(|letter| letter.task_id.as_deref()).collect();
    let bodies: Vec<Value> = letters
        .iter()
        .map(|letter| {
            let task = letter.task_id.as_ref().and_then(|id| tasks.get(id));
            to_json("notification", &notification(letter, task))
        })
        .collect::<Result<_, _>>()?;
    transaction.execute(SQL, &[&told, &bodies, &LETTER_EVENT_TYPE]).await?;
    Ok(())
}

/// What the event says about itself is a hint: an id that is none is left out.
fn notification(letter: &Letter, task: Option<&(String, i64)>) -> Notification {
    Notification {
        task_id: letter.task_id.as_ref().and_then(|id| id.parse().ok()),
        workspace_id: letter.workspace_id.as_ref().and_then(|id| id.parse().ok()),
        kind: letter.kind.as_ref().and_then(|kind| kind.parse().ok()),
        status: task.and_then(|(status, _)| Status::parse(status)),
        letter_id: Some(letter.letter_id),
        version: task.map_or(0, |(_, version)| *version),
        at: letter.completed_at.unwrap_or(letter.created_at),
        artifact_digest: None,
        failure: letter.failure_kind.as_deref().and_then(FailureKind::parse),
        message: letter.failure_message.clone(),
    }
}

/// A letter that came after its task had succeeded resolves itself.
async fn resolve_recovered(transaction: &Transaction, letters: &[Letter]) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE dead_letters d SET resolved_at = now(), resolution = 'task_succeeded', resolved_by = 'switchyard' \
        FROM tasks t WHERE d.letter_id = ANY($1) AND d.origin IN ('attempt', 'task') AND d.resolved_at IS NULL \
            AND t.task_id = d.task_id AND t.status = 'succeeded'";
    let ids: Vec<i64> = letters.iter().map(|letter| letter.letter_id).collect();
    transaction.execute(SQL, &[&ids]).await?;
    Ok(())
}

/// Says that the lines of these letters are written.
pub async fn mark_logged(db: &Db, claimed: &Claimed) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE dead_letters SET logged_at = now() WHERE letter_id = ANY($1) AND log_claimed_at = $2 \
        AND logged_at IS NULL AND completed_at IS NOT NULL";
    let ids: Vec<i64> = claimed.letters.iter().map(|letter| letter.letter_id).collect();
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(SQL).await?;
    connection.execute(&statement, &[&ids, &claimed.at]).await?;
    Ok(())
}
