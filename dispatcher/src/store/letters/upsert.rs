//! The one statement that makes or completes a letter.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::Value;
use switchyard_common::failure::{Failure, bound};

use super::json::opt_to_json;
use crate::dead_letters::kept::Payload;
use crate::store::db::Transaction;
use crate::store::error::StoreError;
use crate::store::save;

/// Most pieces of later evidence that a letter keeps; further ones are counted.
pub const EVIDENCE_MAX_COUNT: usize = 10;
/// Longest text in a column that comes from outside (routing key, message id, hint), in characters.
pub const LETTER_TEXT_MAX_CHARS: usize = 512;

/// What a letter is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// One attempt of a task.
    Attempt,
    /// A task that no attempt had in hand.
    Task,
    /// An event of upstream.
    Event,
    /// Any other message.
    Message,
}

impl Origin {
    /// The stored text form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Attempt => "attempt",
            Self::Task => "task",
            Self::Event => "event",
            Self::Message => "message",
        }
    }
}

/// The broker's half: where the message was, and that it was nacked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Transport {
    pub(crate) queue: Option<String>,
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) message_id: Option<String>,
    pub(crate) x_death: Option<Value>,
    pub(crate) headers: Option<Value>,
}

/// One half of a letter, or both.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Half {
    pub(crate) key: String,
    pub(crate) origin: Origin,
    pub(crate) task_id: Option<String>,
    pub(crate) attempt: Option<u32>,
    pub(crate) workspace_id: Option<String>,
    pub(crate) pool_id: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) event_source: Option<String>,
    pub(crate) event_id: Option<String>,
    pub(crate) traceparent: Option<String>,
    pub(crate) failure: Option<Failure>,
    /// The broker will deliver, or has delivered, its copy.
    pub(crate) copy_expected: bool,
    /// This is the broker's copy.
    pub(crate) is_copy: bool,
    pub(crate) transport: Option<Transport>,
    /// None for attempts and tasks: theirs is the task's.
    pub(crate) payload: Option<Payload>,
    pub(crate) remark: Option<String>,
}

impl Half {
    pub(crate) fn new(key: String, origin: Origin) -> Self {
        Self {
            key,
            origin,
            task_id: None,
            attempt: None,
            workspace_id: None,
            pool_id: None,
            kind: None,
            event_source: None,
            event_id: None,
            traceparent: None,
            failure: None,
            copy_expected: true,
            is_copy: false,
            transport: None,
            payload: None,
            remark: None,
        }
    }
}

/// A later failure, or a further copy, is appended as evidence and never replaces the first one, with two exceptions: a real failure
/// takes the place of one that was made up because none had come (`broker_*`), and a new rejection of an event whose letter was
/// resolved opens that letter again.
const UPSERT: &str = "INSERT INTO dead_letters AS d (letter_key, origin, task_id, attempt, workspace_id, pool_id, kind, step_name,
    agent_id, pod_name, node_name, session, event_source, event_id, traceparent, failure_kind, failure_message, failure, fingerprint,
    failed_at, broker_copy_expected, broker_at, queue, exchange, routing_key, message_id, x_death, headers,
    payload, payload_bytes, payload_size, remark, completed_at)
SELECT u.letter_key, u.origin, u.task_id, u.attempt, coalesce(t.workspace_id, u.workspace_id), coalesce(t.pool_id, u.pool_id),
    coalesce(t.kind, u.kind), coalesce(a.step_name, t.step_name), a.agent_id, a.pod_name, a.node_name, a.session,
    coalesce(t.source, u.event_source), coalesce(t.event_id, u.event_id), coalesce(t.traceparent, u.traceparent),
    u.failure_kind, u.failure_message, u.failure, u.fingerprint, CASE WHEN u.failure_kind IS NOT NULL THEN now() END,
    u.copy_expected, CASE WHEN u.is_copy THEN now() END, u.queue, u.exchange, u.routing_key, u.message_id, u.x_death, u.headers,
    coalesce(u.payload, t.payload::text), u.payload_bytes, coalesce(u.payload_size, octet_length(t.payload::text)), u.remark,
    CASE WHEN u.failure_kind IS NOT NULL AND (u.is_copy OR NOT u.copy_expected) THEN now() END
FROM unnest($1::text[], $2::text[], $3::text[], $4::integer[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
    $10::text[], $11::text[], $12::text[], $13::jsonb[], $14::text[], $15::bool[], $16::bool[], $17::text[], $18::text[], $19::text[],
    $20::text[], $21::jsonb[], $22::jsonb[], $23::text[], $24::bytea[], $25::bigint[], $26::text[])
    AS u(letter_key, origin, task_id, attempt, workspace_id, pool_id, kind, event_source, event_id,
    traceparent, failure_kind, failure_message, failure, fingerprint, copy_expected, is_copy, queue, exchange, routing_key,
    message_id, x_death, headers, payload, payload_bytes, payload_size, remark)
LEFT JOIN tasks t ON u.origin IN ('attempt', 'task') AND t.task_id = u.task_id
LEFT JOIN attempts a ON u.origin = 'attempt' AND a.task_id = u.task_id AND a.attempt = u.attempt
ORDER BY u.letter_key
ON CONFLICT (letter_key) DO UPDATE SET
    evidence = CASE
        WHEN NOT {later} OR jsonb_array_length(d.evidence) >= $27 THEN d.evidence
        WHEN {takes} THEN d.evidence || jsonb_build_array(jsonb_strip_nulls(jsonb_build_object('at', d.failed_at, 'failure', d.failure,
            'resolution', d.resolution, 'resolved_by', d.resolved_by, 'resolved_at', d.resolved_at)))
        ELSE d.evidence || jsonb_build_array(jsonb_strip_nulls(jsonb_build_object('at', now(), 'failure', EXCLUDED.failure,
            'broker_copy', CASE WHEN EXCLUDED.broker_at IS NOT NULL THEN jsonb_build_object('queue', EXCLUDED.queue,
                'exchange', EXCLUDED.exchange, 'routing_key', EXCLUDED.routing_key, 'message_id', EXCLUDED.message_id,
                'x_death', EXCLUDED.x_death) END))) END,
    evidence_count = d.evidence_count + ({later})::integer,
    failure_kind = CASE WHEN {takes} THEN EXCLUDED.failure_kind ELSE d.failure_kind END,
    failure_message = CASE WHEN {takes} THEN EXCLUDED.failure_message ELSE d.failure_message END,
    failure = CASE WHEN {takes} THEN EXCLUDED.failure ELSE d.failure END,
    fingerprint = CASE WHEN {takes} THEN EXCLUDED.fingerprint ELSE d.fingerprint END,
    failed_at = CASE WHEN {takes} THEN EXCLUDED.failed_at ELSE d.failed_at END,
    broker_copy_expected = d.broker_copy_expected OR EXCLUDED.broker_copy_expected,
    broker_at = CASE WHEN {reopens} THEN EXCLUDED.broker_at ELSE coalesce(d.broker_at, EXCLUDED.broker_at) END,
    queue = coalesce(d.queue, EXCLUDED.queue), exchange = coalesce(d.exchange, EXCLUDED.exchange),
    routing_key = coalesce(d.routing_key, EXCLUDED.routing_key), message_id = coalesce(d.message_id, EXCLUDED.message_id),
    x_death = coalesce(d.x_death, EXCLUDED.x_death), headers = coalesce(d.headers, EXCLUDED.headers),
    traceparent = coalesce(d.traceparent, EXCLUDED.traceparent),
    task_id = coalesce(d.task_id, EXCLUDED.task_id), workspace_id = coalesce(d.workspace_id, EXCLUDED.workspace_id),
    pool_id = coalesce(d.pool_id, EXCLUDED.pool_id), kind = coalesce(d.kind, EXCLUDED.kind),
    payload = CASE WHEN d.payload_size IS NULL THEN EXCLUDED.payload ELSE d.payload END,
    payload_bytes = CASE WHEN d.payload_size IS NULL THEN EXCLUDED.payload_bytes ELSE d.payload_bytes END,
    payload_size = coalesce(d.payload_size, EXCLUDED.payload_size),
    remark = nullif(concat_ws('; ', d.remark, CASE WHEN EXCLUDED.remark IS DISTINCT FROM d.remark THEN EXCLUDED.remark END,
        CASE WHEN EXCLUDED.broker_at IS NOT NULL AND d.broker_at IS NULL AND d.completed_at IS NOT NULL
            THEN 'the broker''s copy came later' END), ''),
    completed_at = CASE
        WHEN {reopens} THEN EXCLUDED.completed_at
        WHEN d.completed_at IS NOT NULL THEN d.completed_at
        WHEN EXCLUDED.failure_kind IS NOT NULL AND (d.broker_at IS NOT NULL OR NOT EXCLUDED.broker_copy_expected) THEN now()
        WHEN EXCLUDED.broker_at IS NOT NULL AND (d.failure_kind IS NOT NULL OR EXCLUDED.failure_kind IS NOT NULL) THEN now() END,
    log_claimed_at = CASE WHEN {reopens} THEN NULL ELSE d.log_claimed_at END,
    logged_at = CASE WHEN {reopens} THEN NULL ELSE d.logged_at END,
    resolved_at = CASE WHEN {reopens} THEN NULL ELSE d.resolved_at END,
    resolution = CASE WHEN {reopens} THEN NULL ELSE d.resolution END,
    resolved_by = CASE WHEN {reopens} THEN NULL ELSE d.resolved_by END,
    resolution_note = CASE WHEN {reopens} THEN NULL ELSE d.resolution_note END";

/// The half that a letter has already comes once more.
const LATER: &str = "((EXCLUDED.failure_kind IS NOT NULL AND d.failure_kind IS NOT NULL)
        OR (EXCLUDED.broker_at IS NOT NULL AND d.broker_at IS NOT NULL))";
/// A new rejection of an event whose letter was resolved.
const REOPENS: &str =
    "(EXCLUDED.failure_kind IS NOT NULL AND d.resolved_at IS NOT NULL AND d.origin IN ('event', 'message'))";
/// The new failure takes the first place. It cannot be NULL: a failure's kind is known or the whole is false.
const TAKES: &str = "(EXCLUDED.failure_kind IS NOT NULL AND (d.failure_kind IS NULL OR {reopens}
        OR (d.failure_kind LIKE 'broker\\_%' AND EXCLUDED.failure_kind NOT LIKE 'broker\\_%')))";

static UPSERT_SQL: LazyLock<String> = LazyLock::new(|| {
    UPSERT.replace("{later}", LATER).replace("{takes}", TAKES).replace("{reopens}", REOPENS)
});

/// Writes halves. A row that PostgreSQL refuses is written alone, and in its minimal form if it is refused again (protocol D5), so
/// that it cannot hold the others and the failure cannot be lost.
pub(crate) async fn write(transaction: &Transaction, halves: &[Half]) -> Result<(), StoreError> {
    // One statement may not touch a key twice: later halves of the same key go in a further statement.
    let mut rest: Vec<&Half> = halves.iter().collect();
    while !rest.is_empty() {
        let mut seen = BTreeSet::new();
        let (now, later): (Vec<&Half>, Vec<&Half>) =
            rest.into_iter().partition(|half| seen.insert(half.key.as_str()));
        write_distinct(transaction, &now).await?;
        rest = later;
    }
    Ok(())
}

async fn write_distinct(transaction: &Transaction, halves: &[&Half]) -> Result<(), StoreError> {
    if try_full(transaction, halves).await? {
        return Ok(());
    }
    for half in halves {
        if !try_full(transaction, &[half]).await? {
            metrics::counter!("switchyard_dead_letters_minimal_total").increment(1);
            execute(transaction, &[&minimal(half)]).await?;
        }
    }
    Ok(())
}

/// False when the database refused a row: nothing is written then, and the transaction goes on.
async fn try_full(transaction: &Transaction, halves: &[&Half]) -> Result<bool, StoreError> {
    transaction.batch_execute("SAVEPOINT letter").await?;
    match execute(transaction, halves).await {
        Ok(()) => {
            transaction.batch_execute("RELEASE SAVEPOINT letter").await?;
            Ok(true)
        }
        Err(error @ StoreError::PoisonRow { .. }) => {
            tracing::warn!(%error, letters = halves.len(), "the database refuses a dead letter; it is stored alone, then in short");
            transaction.batch_execute("ROLLBACK TO SAVEPOINT letter; RELEASE SAVEPOINT letter").await?;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// What always fits: a key of plain characters, the failure's kind, and the payload's bytes.
fn minimal(half: &Half) -> Half {
    let payload = half.payload.as_ref().map(Payload::as_bytes_only);
    let failure = half.failure.as_ref().map(|failure| {
        let message: String = failure.message.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').collect();
        Failure::new(failure.kind, bound(&message, LETTER_TEXT_MAX_CHARS))
    });
    let remark = "stored in short: the database refused the full record".to_owned();
    Half {
        failure,
        copy_expected: half.copy_expected,
        is_copy: half.is_copy,
        task_id: half.task_id.clone(),
        attempt: half.attempt,
        payload,
        remark: Some(remark),
        ..Half::new(half.key.clone(), half.origin)
    }
}

async fn execute(transaction: &Transaction, halves: &[&Half]) -> Result<(), StoreError> {
    let parameters = parameters(halves)?;
    transaction.execute(&UPSERT_SQL, &save::borrow(&parameters)).await?;
    Ok(())
}

type Parameter = Box<dyn tokio_postgres::types::ToSql + Sync + Send>;

fn parameters(halves: &[&Half]) -> Result<Vec<Parameter>, StoreError> {
    let text = |get: fn(&Half) -> Option<&String>| -> Parameter {
        Box::new(
            halves
                .iter()
                .map(|half| get(half).map(|text| bound(text, LETTER_TEXT_MAX_CHARS)))
                .collect::<Vec<_>>(),
        )
    };
    let moved = |get: fn(&Transport) -> Option<&String>| -> Parameter {
        let read =
            |half: &&Half| half.transport.as_ref().and_then(get).map(|t| bound(t, LETTER_TEXT_MAX_CHARS));
        Box::new(halves.iter().map(read).collect::<Vec<_>>())
    };
    let json = |get: fn(&Transport) -> Option<&Value>| -> Parameter {
        let read = |half: &&Half| half.transport.as_ref().and_then(get).cloned();
        Box::new(halves.iter().map(read).collect::<Vec<_>>())
    };
    let failed = || halves.iter().map(|half| half.failure.as_ref());
    let failures: Vec<Option<Value>> =
        failed().map(|failure| opt_to_json("failure", failure)).collect::<Result<_, _>>()?;
    let payloads = || halves.iter().map(|half| half.payload.as_ref());
    Ok(vec![
        Box::new(halves.iter().map(|half| half.key.clone()).collect::<Vec<_>>()),
        Box::new(halves.iter().map(|half| half.origin.as_str()).collect::<Vec<_>>()),
        text(|half| half.task_id.as_ref()),
        Box::new(halves.iter().map(|half| half.attempt.map(save::int)).collect::<Vec<_>>()),
        text(|half| half.workspace_id.as_ref()),
        text(|half| half.pool_id.as_ref()),
        text(|half| half.kind.as_ref()),
        text(|half| half.event_source.as_ref()),
        text(|half| half.event_id.as_ref()),
        text(|half| half.traceparent.as_ref()),
        Box::new(failed().map(|failure| failure.map(|f| f.kind.as_str())).collect::<Vec<_>>()),
        Box::new(failed().map(|failure| failure.map(|f| f.message.clone())).collect::<Vec<_>>()),
        Box::new(failures),
        Box::new(failed().map(|failure| failure.map(Failure::fingerprint)).collect::<Vec<_>>()),
        Box::new(halves.iter().map(|half| half.copy_expected).collect::<Vec<_>>()),
        Box::new(halves.iter().map(|half| half.is_copy).collect::<Vec<_>>()),
        moved(|t| t.queue.as_ref()),
        moved(|t| Some(&t.exchange)),
        moved(|t| Some(&t.routing_key)),
        moved(|t| t.message_id.as_ref()),
        json(|t| t.x_death.as_ref()),
        json(|t| t.headers.as_ref()),
        Box::new(payloads().map(|p| p.and_then(|p| p.text().map(ToOwned::to_owned))).collect::<Vec<_>>()),
        Box::new(payloads().map(|p| p.and_then(|p| p.bytes().map(ToOwned::to_owned))).collect::<Vec<_>>()),
        Box::new(payloads().map(|p| p.map(|p| p.size)).collect::<Vec<_>>()),
        Box::new(halves.iter().map(|half| half.remark.clone()).collect::<Vec<_>>()),
        Box::new(i32::try_from(EVIDENCE_MAX_COUNT).unwrap_or(i32::MAX)),
    ])
}
