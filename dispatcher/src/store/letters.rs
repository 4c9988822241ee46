//! The failure half of dead letters, written in the transaction that decides the failure.

use chrono::{DateTime, Utc};
use switchyard_common::contract::ids::TaskId;
use switchyard_common::failure::Failure;

use super::db::Transaction;
use super::error::StoreError;
use super::save::int;

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
    /// When, by the database clock.
    pub at: DateTime<Utc>,
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
}

/// The key of an attempt's letter.
#[must_use]
pub fn attempt_key(task_id: &str, attempt: u32) -> String {
    format!("attempt:{task_id}#{attempt}")
}

/// Makes or completes one letter per key. A second failure for a key is appended as evidence.
const RECORD: &str = "INSERT INTO dead_letters AS d (letter_key, task_id, attempt, workspace_id, pool_id, kind, step_name, agent_id,
    pod_name, node_name, session, event_source, event_id, traceparent, failure_kind, failure_message, failure, fingerprint,
    failed_at, broker_copy_expected, payload, completed_at)
SELECT u.letter_key, t.task_id, u.attempt, t.workspace_id, t.pool_id, t.kind, coalesce(a.step_name, t.step_name), a.agent_id,
    a.pod_name, a.node_name, a.session, t.source, t.event_id, t.traceparent, u.failure_kind, u.failure_message, u.failure,
    u.fingerprint, u.failed_at, u.broker_copy, t.payload::text, CASE WHEN u.broker_copy THEN NULL ELSE u.failed_at END
FROM unnest($1::text[], $2::text[], $3::integer[], $4::text[], $5::text[], $6::jsonb[], $7::text[], $8::timestamptz[], $9::bool[])
    AS u(letter_key, task_id, attempt, failure_kind, failure_message, failure, fingerprint, failed_at, broker_copy)
JOIN tasks t ON t.task_id = u.task_id
LEFT JOIN attempts a ON a.task_id = u.task_id AND a.attempt = u.attempt
ORDER BY u.letter_key
ON CONFLICT (letter_key) DO UPDATE SET
    -- Later evidence never replaces the first failure; a broker copy that came first is completed by it.
    evidence = CASE WHEN d.failure_kind IS NULL THEN d.evidence
        ELSE d.evidence || jsonb_build_array(jsonb_build_object('at', EXCLUDED.failed_at, 'failure', EXCLUDED.failure)) END,
    failure_kind = coalesce(d.failure_kind, EXCLUDED.failure_kind),
    failure_message = coalesce(d.failure_message, EXCLUDED.failure_message),
    failure = coalesce(d.failure, EXCLUDED.failure),
    fingerprint = coalesce(d.fingerprint, EXCLUDED.fingerprint),
    failed_at = coalesce(d.failed_at, EXCLUDED.failed_at),
    completed_at = coalesce(d.completed_at,
        CASE WHEN d.broker_at IS NOT NULL OR NOT EXCLUDED.broker_copy_expected THEN EXCLUDED.failed_at END)";

/// Records failures of attempts.
pub(crate) async fn record_attempts(
    transaction: &Transaction,
    letters: &[AttemptLetter],
) -> Result<(), StoreError> {
    // One statement may not touch a key twice: later ones of the same key go in a further statement.
    let mut rest: Vec<&AttemptLetter> = letters.iter().collect();
    while !rest.is_empty() {
        let mut seen = std::collections::BTreeSet::new();
        let (now, later): (Vec<&AttemptLetter>, Vec<&AttemptLetter>) =
            rest.into_iter().partition(|letter| seen.insert(letter.key()));
        record_distinct(transaction, &now).await?;
        rest = later;
    }
    Ok(())
}

async fn record_distinct(transaction: &Transaction, letters: &[&AttemptLetter]) -> Result<(), StoreError> {
    let failures: Vec<serde_json::Value> = letters
        .iter()
        .map(|letter| serde_json::to_value(&letter.failure))
        .collect::<Result<_, _>>()
        .map_err(|error| StoreError::Unreadable(format!("failure: {error}")))?;
    let keys: Vec<String> = letters.iter().map(|letter| letter.key()).collect();
    let ids: Vec<&str> = letters.iter().map(|letter| letter.task_id.as_str()).collect();
    let attempts: Vec<Option<i32>> = letters.iter().map(|letter| letter.attempt.map(int)).collect();
    let kinds: Vec<&str> = letters.iter().map(|letter| letter.failure.kind.as_str()).collect();
    let messages: Vec<&str> = letters.iter().map(|letter| letter.failure.message.as_str()).collect();
    let fingerprints: Vec<String> = letters.iter().map(|letter| letter.failure.fingerprint()).collect();
    let times: Vec<DateTime<Utc>> = letters.iter().map(|letter| letter.at).collect();
    let copies: Vec<bool> = letters.iter().map(|letter| letter.broker_copy).collect();
    let statement = transaction.prepare_cached(RECORD).await?;
    transaction
        .execute(
            &statement,
            &[&keys, &ids, &attempts, &kinds, &messages, &failures, &fingerprints, &times, &copies],
        )
        .await?;
    Ok(())
}
