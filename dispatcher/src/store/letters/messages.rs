//! Failures of events and reports, and the broker's copies of nacked messages.

use switchyard_common::broker::Message;
use switchyard_common::failure::Failure;
use uuid::Uuid;

use super::attempts::attempt_key;
use super::upsert::{self, Half, Origin, Transport};
use crate::dead_letters::arrival::{Arrival, Subject};
use crate::dead_letters::kept::{Identity, Kept, Payload};
use crate::store::db::{Db, Transaction};
use crate::store::error::StoreError;

/// What an event says that it is about: hints for whoever reads the letter, not trusted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct About {
    /// The task.
    pub task_id: Option<String>,
    /// The workspace.
    pub workspace_id: Option<String>,
    /// The pool.
    pub pool_id: Option<String>,
    /// The kind.
    pub kind: Option<String>,
}

/// A failure of an event, recorded before its nack.
#[derive(Debug, Clone, PartialEq)]
pub struct EventLetter<'a> {
    /// The event as it was delivered, or received otherwise.
    pub message: &'a Message,
    /// The queue that it came from; none when it did not come from the broker.
    pub queue: Option<&'a str>,
    /// Why.
    pub failure: Failure,
    /// What it says that it is about.
    pub about: About,
    /// It will be nacked: the broker's copy will join.
    pub broker_copy: bool,
}

/// A failure of a report, recorded before its nack.
#[derive(Debug, Clone, PartialEq)]
pub struct ReportLetter<'a> {
    /// The report as it was delivered. Lease tokens in it are not stored.
    pub message: &'a Message,
    /// The queue that it came from.
    pub queue: &'a str,
    /// Why.
    pub failure: Failure,
}

/// Records the failure of an event. It succeeds whatever the event's bytes are (protocol D5); only a database that is away, or
/// transactions that meet, are errors. A second rejection of the same event is appended to the first one's letter.
pub async fn record_event(transaction: &Transaction, letter: &EventLetter<'_>) -> Result<(), StoreError> {
    let kept = Kept::of_event(letter.message);
    let about = letter.about.clone();
    let half = Half {
        task_id: about.task_id,
        workspace_id: about.workspace_id,
        pool_id: about.pool_id,
        kind: about.kind,
        failure: Some(letter.failure.clone().bounded()),
        copy_expected: letter.broker_copy,
        ..of_kept(kept, letter.queue.map(ToOwned::to_owned))
    };
    upsert::write(transaction, &[half]).await
}

/// Records the failure of a report, as [`record_event`] does for an event.
pub async fn record_report(transaction: &Transaction, letter: &ReportLetter<'_>) -> Result<(), StoreError> {
    let kept = Kept::of_other(letter.message);
    let half = Half {
        failure: Some(letter.failure.clone().bounded()),
        ..of_kept(kept, Some(letter.queue.to_owned()))
    };
    upsert::write(transaction, &[half]).await
}

fn of_kept(kept: Kept, queue: Option<String>) -> Half {
    let origin = match &kept.identity {
        Identity::Event { .. } => Origin::Event,
        Identity::Message { .. } => Origin::Message,
    };
    Half {
        event_source: kept.ids.source,
        event_id: kept.ids.id,
        traceparent: kept.traceparent,
        transport: Some(Transport {
            queue,
            exchange: kept.exchange,
            routing_key: kept.routing_key,
            message_id: kept.message_id,
            x_death: None,
            headers: kept.headers,
        }),
        payload: Some(kept.payload),
        ..Half::new(kept.identity.key(), origin)
    }
}

/// Stores the broker's copies of nacked messages, in one transaction. Whatever their bodies are, each has its row afterwards.
pub async fn store_arrivals(db: &Db, arrivals: &[Arrival]) -> Result<(), StoreError> {
    if arrivals.is_empty() {
        return Ok(());
    }
    db.transaction(|transaction| async move {
        let transaction = &*transaction;
        let proven = proven(transaction, arrivals).await?;
        let halves: Vec<Half> =
            arrivals.iter().zip(proven).map(|(arrival, proven)| of_arrival(arrival, proven)).collect();
        upsert::write(transaction, &halves).await
    })
    .await
}

/// Which arrivals carry the lease of the attempt that they name. Anyone who may publish can name an attempt; only its assignment has
/// the secret, and only a proven copy may lead to a revoke.
async fn proven(transaction: &Transaction, arrivals: &[Arrival]) -> Result<Vec<bool>, StoreError> {
    const SQL: &str = "SELECT u.place FROM unnest($1::bigint[], $2::text[], $3::integer[], $4::uuid[]) \
            u(place, task_id, attempt, lease) \
        JOIN attempts a ON a.task_id = u.task_id AND a.attempt = u.attempt AND a.lease_token = u.lease";
    let mut places: Vec<i64> = Vec::new();
    let mut ids: Vec<&str> = Vec::new();
    let mut attempts: Vec<i32> = Vec::new();
    let mut leases: Vec<Uuid> = Vec::new();
    for (place, arrival) in (0_i64..).zip(arrivals) {
        if let Subject::Assignment { task_id, attempt, lease, .. } = &arrival.subject
            && let Ok(attempt) = i32::try_from(*attempt)
        {
            places.push(place);
            ids.push(task_id.as_str());
            attempts.push(attempt);
            leases.push(lease.0);
        }
    }
    let mut proven = vec![false; arrivals.len()];
    if places.is_empty() {
        return Ok(proven);
    }
    for row in transaction.query(SQL, &[&places, &ids, &attempts, &leases]).await? {
        if let Some(entry) =
            usize::try_from(row.get::<_, i64>(0)).ok().and_then(|place| proven.get_mut(place))
        {
            *entry = true;
        }
    }
    Ok(proven)
}

fn of_arrival(arrival: &Arrival, proven: bool) -> Half {
    let kept = &arrival.kept;
    let mut half = of_kept(kept.clone(), arrival.queue.clone());
    half.is_copy = true;
    if let Some(transport) = &mut half.transport {
        transport.x_death.clone_from(&arrival.x_death);
    }
    match &arrival.subject {
        Subject::Assignment { task_id, attempt, .. } if proven => {
            half.key = attempt_key(task_id.as_str(), *attempt);
            half.origin = Origin::Attempt;
            half.task_id = Some(task_id.to_string());
            half.attempt = Some(*attempt);
            // The payload of an attempt's letter is its task's.
            half.payload = None;
        }
        Subject::Assignment { task_id, attempt, .. } => {
            half.task_id = Some(task_id.to_string());
            half.remark = Some(format!(
                "it names attempt {attempt} of task {task_id:?}, but no such attempt has its lease token"
            ));
        }
        Subject::InputPart { task_id, attempt } => {
            half.task_id = Some(task_id.to_string());
            half.remark = Some(format!(
                "a part of an input artifact for attempt {attempt} of task {task_id:?}; its bytes are with the artifact"
            ));
            half.payload = Some(Payload::left_out(kept.payload.size));
        }
        Subject::Event | Subject::Other => {}
    }
    half
}
