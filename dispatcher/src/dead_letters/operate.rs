//! Replay as an operator asks for it: write it down, publish it, look what came of it, and only then call the letter replayed.

use std::time::Duration;

use serde::Serialize;
use switchyard_common::broker::{Outgoing, OutgoingError, Properties, PublishOutcome};
use switchyard_common::contract::cloudevent::STRUCTURED_CONTENT_TYPE;
use switchyard_common::contract::topology::Namespace;
use tokio::time::Instant;

use super::replay::{Prepared, ReplayError};
use crate::store::letters::resolve::{
    ReplayVerdict, ReplayWish, abandon_replay, finish_replay, prepare_replay, replay_verdict,
};
use crate::store::{Db, StoreError};

/// How often it is looked whether intake has taken a replay.
const VERDICT_PERIOD: Duration = Duration::from_millis(100);

/// A replay that was published and confirmed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Replayed {
    /// The letter.
    pub letter_id: i64,
    /// The new event.
    pub event_id: String,
    /// The new task, for a letter of a task.
    pub task_id: Option<String>,
    /// What is known of it.
    pub verdict: ReplayVerdict,
}

/// Why a replay did not come about.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    /// The letter, or the wish, does not allow it.
    #[error(transparent)]
    Refused(#[from] ReplayError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The event is too large for a message.
    #[error("the event cannot be published: {0}")]
    Outgoing(#[from] OutgoingError),
    /// The broker did not take it. Nothing is lost: a repeated replay publishes the same event.
    #[error(
        "the broker did not confirm the event ({0}): the letter stays open; repeat the replay, it is the same event then"
    )]
    NotConfirmed(&'static str),
    /// Intake refused it.
    #[error("the replayed event was rejected: {message} (dead letter {letter_id})")]
    Rejected {
        /// Why.
        message: String,
        /// The letter of the replayed event.
        letter_id: i64,
    },
}

/// Replays a letter through the same admission as any event. Waits up to `verdict_wait` for intake to take it.
pub async fn replay(
    db: &Db,
    namespace: &Namespace,
    letter_id: i64,
    wish: &ReplayWish,
    verdict_wait: Duration,
    publish: impl AsyncFn(Outgoing) -> PublishOutcome,
) -> Result<Replayed, OperateError> {
    let prepared = prepare_replay(db, letter_id, wish).await??;
    let outcome = publish(outgoing(namespace, &prepared)?).await;
    if !outcome.is_acked() {
        return Err(OperateError::NotConfirmed(outcome.label()));
    }
    let verdict = wait_for_verdict(db, &prepared, verdict_wait).await?;
    if let ReplayVerdict::Rejected { letter_id: rejected, message } = verdict {
        abandon_replay(db, letter_id, &prepared, &wish.by).await?;
        return Err(OperateError::Rejected { message, letter_id: rejected });
    }
    finish_replay(db, letter_id, &prepared, &wish.by, wish.note.as_deref()).await?;
    Ok(Replayed { letter_id, event_id: prepared.event_id, task_id: prepared.task_id, verdict })
}

/// The message of a replay: mandatory, so that a missing queue is not taken for success.
pub fn outgoing(namespace: &Namespace, prepared: &Prepared) -> Result<Outgoing, OutgoingError> {
    let mut properties = Properties::persistent(STRUCTURED_CONTENT_TYPE);
    properties.message_id = Some(prepared.event_id.clone());
    let body = prepared.body.clone().into_bytes();
    Outgoing::new(&namespace.events_exchange(), &prepared.event_type, properties, body, true)
}

async fn wait_for_verdict(db: &Db, prepared: &Prepared, wait: Duration) -> Result<ReplayVerdict, StoreError> {
    let deadline = Instant::now() + wait;
    loop {
        let verdict = replay_verdict(db, prepared).await?;
        if verdict != ReplayVerdict::Open || Instant::now() >= deadline {
            return Ok(verdict);
        }
        tokio::time::sleep(VERDICT_PERIOD).await;
    }
}
