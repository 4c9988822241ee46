//! Failures of attempts and of tasks that wait, written in the transaction that decides them.

use switchyard_common::contract::ids::TaskId;
use switchyard_common::failure::Failure;

use super::upsert::{self, Half, Origin};
use crate::store::db::Transaction;
use crate::store::error::StoreError;

/// A failure of an attempt, or of a task that no attempt has in hand.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptLetter {
    /// The task.
    pub task_id: TaskId,
    /// The attempt; none where the task failed while it waited.
    pub attempt: Option<u32>,
    /// Why.
    pub failure: Failure,
    /// The agent nacks a delivery: the broker's copy will join.
    pub broker_copy: bool,
}

impl AttemptLetter {
    /// The key under which failure and broker copy meet (protocol D2).
    #[must_use]
    pub fn key(&self) -> String {
        match self.attempt {
            Some(attempt) => attempt_key(self.task_id.as_str(), attempt),
            None => format!("task:{}", self.task_id),
        }
    }

    fn half(&self) -> Half {
        let origin = if self.attempt.is_some() { Origin::Attempt } else { Origin::Task };
        Half {
            task_id: Some(self.task_id.to_string()),
            attempt: self.attempt,
            failure: Some(self.failure.clone().bounded()),
            copy_expected: self.broker_copy,
            ..Half::new(self.key(), origin)
        }
    }
}

/// The key of an attempt's letter.
#[must_use]
pub fn attempt_key(task_id: &str, attempt: u32) -> String {
    format!("attempt:{task_id}#{attempt}")
}

/// Records failures of attempts.
pub(crate) async fn record_attempts(
    transaction: &Transaction,
    letters: &[AttemptLetter],
) -> Result<(), StoreError> {
    let halves: Vec<Half> = letters.iter().map(AttemptLetter::half).collect();
    upsert::write(transaction, &halves).await
}

/// Letters of tasks that have succeeded resolve themselves (protocol D6).
pub(crate) async fn resolve_succeeded(
    transaction: &Transaction,
    task_ids: &[&str],
) -> Result<(), StoreError> {
    if task_ids.is_empty() {
        return Ok(());
    }
    const SQL: &str = "UPDATE dead_letters SET resolved_at = now(), resolution = 'task_succeeded', resolved_by = 'switchyard' \
        WHERE letter_id IN (SELECT letter_id FROM dead_letters WHERE task_id = ANY($1) AND origin IN ('attempt', 'task') \
            AND resolved_at IS NULL ORDER BY letter_key FOR NO KEY UPDATE)";
    transaction.execute(SQL, &[&task_ids]).await?;
    Ok(())
}
