//! What operators do with dead letters: discard and replay, audited, in a form that can be repeated without harm.

use serde::Serialize;
use serde_json::{Value, json};

use super::record::{LETTER_COLUMNS, Letter};
use crate::dead_letters::replay::{Drawn, Edit, Original, Prepared, ReplayError, build};
use crate::store::db::{Db, Transaction};
use crate::store::error::StoreError;
use crate::store::operate;

/// What became of a discard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Discarded {
    /// It is discarded now.
    Done,
    /// It was resolved before, so.
    Already(String),
    /// There is no such letter.
    Unknown,
}

/// Discards letters. The answers are in the order of `letter_ids`.
pub async fn discard(
    db: &Db,
    letter_ids: &[i64],
    by: &str,
    note: Option<&str>,
) -> Result<Vec<(i64, Discarded)>, StoreError> {
    const LOCK: &str = "SELECT letter_id, resolution FROM dead_letters WHERE letter_id = ANY($1) ORDER BY letter_id FOR NO KEY UPDATE";
    const DISCARD: &str = "UPDATE dead_letters SET resolved_at = now(), resolution = 'discarded', resolved_by = $2, \
        resolution_note = $3 WHERE letter_id = ANY($1) AND resolved_at IS NULL RETURNING letter_id";
    db.transaction(|transaction| async move {
        let locked = transaction.query(LOCK, &[&letter_ids]).await?;
        let earlier: Vec<(i64, Option<String>)> = locked.iter().map(|row| (row.get(0), row.get(1))).collect();
        let done = transaction.query(DISCARD, &[&letter_ids, &by, &note]).await?;
        for row in &done {
            audit(&transaction, by, "dead_letter.discard", row.get(0), json!({ "note": note })).await?;
        }
        let answer = |id: i64| match earlier.iter().find(|(letter, _)| *letter == id) {
            None => Discarded::Unknown,
            Some((_, None)) => Discarded::Done,
            Some((_, Some(resolution))) => Discarded::Already(resolution.clone()),
        };
        Ok(letter_ids.iter().map(|id| (*id, answer(*id))).collect())
    })
    .await
}

/// A wish to replay.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplayWish {
    /// Who.
    pub by: String,
    /// Once more, although it was replayed or resolved before.
    pub force: bool,
    /// With other contents.
    pub edit: Option<Edit>,
    /// Why.
    pub note: Option<String>,
    /// Ids for the new event and task.
    pub drawn: Drawn,
}

/// Writes down the event of a replay before it is published. A replay that was prepared before and not finished is given again, with
/// the same event id, so that repeating it after a crash cannot run the work twice.
pub async fn prepare_replay(
    db: &Db,
    letter_id: i64,
    wish: &ReplayWish,
) -> Result<Result<Prepared, ReplayError>, StoreError> {
    db.transaction(|transaction| async move {
        let transaction = &*transaction;
        let Some((letter, stored)) = locked(transaction, letter_id).await? else {
            return Ok(Err(ReplayError::UnknownLetter(letter_id)));
        };
        if let (Some(stored), false, true) = (stored, wish.force, letter.resolution.is_none()) {
            return Ok(stored.again(wish.edit.as_ref()));
        }
        if let (Some(resolution), false) = (&letter.resolution, wish.force) {
            return Ok(Err(ReplayError::Resolved {
                resolution: resolution.clone(),
                replay_task_id: letter.replay_task_id.clone(),
            }));
        }
        let original = original(transaction, &letter).await?;
        let prepared = match build(&letter, original.as_ref(), wish.edit.as_ref(), &wish.drawn) {
            Ok(prepared) => prepared,
            Err(error) => return Ok(Err(error)),
        };
        store_prepared(transaction, letter_id, &prepared).await?;
        let detail = json!({ "event_id": prepared.event_id, "task_id": prepared.task_id, "force": wish.force,
            "edited": wish.edit.is_some(), "note": wish.note });
        audit(transaction, &wish.by, "dead_letter.replay_prepared", letter_id, detail).await?;
        Ok(Ok(prepared))
    })
    .await
}

/// The letter, and the event of a replay that was prepared before.
async fn locked(
    transaction: &Transaction,
    letter_id: i64,
) -> Result<Option<(Letter, Option<Prepared>)>, StoreError> {
    let sql = format!(
        "SELECT {LETTER_COLUMNS}, d.replay_event FROM dead_letters d WHERE d.letter_id = $1 FOR NO KEY UPDATE"
    );
    let Some(row) = transaction.query_opt(&sql, &[&letter_id]).await? else { return Ok(None) };
    let letter = Letter::read(&row);
    let event: Option<String> = row.get("replay_event");
    let stored = event.and_then(|event| Prepared::read(&event, letter.replay_task_id.clone()));
    Ok(Some((letter, stored)))
}

async fn original(transaction: &Transaction, letter: &Letter) -> Result<Option<Original>, StoreError> {
    const SQL: &str = "SELECT status, kind, workspace_id, payload, priority FROM tasks WHERE task_id = $1";
    let Some(task_id) = &letter.task_id else { return Ok(None) };
    let row = transaction.query_opt(SQL, &[task_id]).await?;
    Ok(row.map(|row| Original {
        status: row.get(0),
        kind: row.get(1),
        workspace_id: row.get(2),
        payload: row.get(3),
        priority: row.get(4),
    }))
}

async fn store_prepared(
    transaction: &Transaction,
    letter_id: i64,
    prepared: &Prepared,
) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE dead_letters SET replay_event = $2, replay_event_id = $3, replay_task_id = $4, replays = replays + 1 \
        WHERE letter_id = $1";
    let (body, event_id) = (&prepared.body, &prepared.event_id);
    transaction.execute(SQL, &[&letter_id, body, event_id, &prepared.task_id]).await?;
    Ok(())
}

/// What is known of a published replay.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplayVerdict {
    /// Intake has stored it.
    Accepted {
        /// The task that it made or changed.
        task_id: Option<String>,
    },
    /// Intake has refused it; it has a letter of its own.
    Rejected {
        /// That letter.
        letter_id: i64,
        /// Why.
        message: String,
    },
    /// Neither yet.
    Open,
}

/// Looks whether intake has taken a replay.
pub async fn replay_verdict(db: &Db, prepared: &Prepared) -> Result<ReplayVerdict, StoreError> {
    const ACCEPTED: &str = "SELECT task_id FROM events WHERE source = $1 AND event_id = $2";
    const REJECTED: &str = "SELECT letter_id, failure_message FROM dead_letters \
        WHERE letter_key = $1 AND failure_kind IS NOT NULL AND resolved_at IS NULL";
    let connection = db.connection().await?;
    if let Some(row) = connection.query_opt(ACCEPTED, &[&prepared.source, &prepared.event_id]).await? {
        return Ok(ReplayVerdict::Accepted { task_id: row.get(0) });
    }
    let row = connection.query_opt(REJECTED, &[&prepared.letter_key()]).await?;
    Ok(row.map_or(ReplayVerdict::Open, |row| ReplayVerdict::Rejected {
        letter_id: row.get(0),
        message: row.get::<_, Option<String>>(1).unwrap_or_default(),
    }))
}

/// The broker has confirmed the event of a replay: only now is the letter called replayed (incident 60).
pub async fn finish_replay(
    db: &Db,
    letter_id: i64,
    prepared: &Prepared,
    by: &str,
    note: Option<&str>,
) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE dead_letters SET resolved_at = now(), resolution = 'replayed', resolved_by = $3, resolution_note = $4 \
        WHERE letter_id = $1 AND replay_event_id = $2";
    db.transaction(|transaction| async move {
        let matched = transaction.execute(SQL, &[&letter_id, &prepared.event_id, &by, &note]).await?;
        if matched == 1 {
            let detail = json!({ "event_id": prepared.event_id, "task_id": prepared.task_id });
            audit(&transaction, by, "dead_letter.replayed", letter_id, detail).await?;
        }
        Ok(())
    })
    .await
}

/// The event of a replay was refused: forget it, so that the letter can be replayed otherwise.
pub async fn abandon_replay(
    db: &Db,
    letter_id: i64,
    prepared: &Prepared,
    by: &str,
) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE dead_letters SET replay_event = NULL, replay_event_id = NULL, replay_task_id = NULL \
        WHERE letter_id = $1 AND replay_event_id = $2";
    db.transaction(|transaction| async move {
        let matched = transaction.execute(SQL, &[&letter_id, &prepared.event_id]).await?;
        if matched == 1 {
            let detail = json!({ "event_id": prepared.event_id });
            audit(&transaction, by, "dead_letter.replay_refused", letter_id, detail).await?;
        }
        Ok(())
    })
    .await
}

async fn audit(
    transaction: &Transaction,
    by: &str,
    action: &str,
    letter_id: i64,
    detail: Value,
) -> Result<(), StoreError> {
    operate::audit(transaction, by, action, &format!("dead_letter:{letter_id}"), &detail).await
}
