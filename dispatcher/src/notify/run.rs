//! Publishing the outbox.

use std::time::Duration;

use switchyard_common::broker::headers::HeaderValue;
use switchyard_common::broker::{Outgoing, OutgoingError, Properties, PublishOutcome};
use switchyard_common::contract::cloudevent::{CloudEvent, STRUCTURED_CONTENT_TYPE};
use switchyard_common::contract::topology::Namespace;
use switchyard_common::shutdown::Shutdown;
use switchyard_common::telemetry::TRACEPARENT_HEADER;
use tokio::time::Instant;

use super::waves::Waves;
use crate::context::Context;
use crate::store::outbox::{LEASE_SECONDS, Pending, delete, lease_batch, release};
use crate::store::{Db, StoreError};

/// Notifications of one batch.
const BATCH_MAX_COUNT: usize = 500;
/// How often the outbox is looked at.
const PERIOD: Duration = Duration::from_millis(200);
/// Wait after a batch that did not go through.
const FAILED_WAIT: Duration = Duration::from_secs(2);

/// What came of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BatchEnd {
    /// Published, confirmed and deleted.
    pub published: usize,
    /// Not confirmed: sent again with the next batch.
    pub unconfirmed: usize,
    /// There may be more.
    pub more: bool,
}

/// Publishes notifications until shutdown. An exchange that nobody has bound a queue to is fine: nobody wants to know.
pub async fn run(context: Context, shutdown: Shutdown) {
    let publish = |messages| {
        let publisher = context.publisher.clone();
        async move { publisher.publish_pipelined(messages).await }
    };
    loop {
        let wait = match run_once(&context.db, &context.namespace, publish).await {
            Ok(end) if end.unconfirmed > 0 => {
                tracing::warn!(
                    unconfirmed = end.unconfirmed,
                    "notifications were not confirmed; they are sent again"
                );
                FAILED_WAIT
            }
            Ok(end) if end.more => Duration::ZERO,
            Ok(_) => PERIOD,
            Err(error) => {
                tracing::warn!(%error, "notifications cannot be read now");
                FAILED_WAIT
            }
        };
        if !shutdown.sleep(wait).await {
            break;
        }
    }
    if let Err(error) = release(&context.db).await {
        tracing::debug!(%error, "the lease of notifications runs out by itself");
    }
}

/// One batch, if no other replica publishes.
pub async fn run_once<P>(
    db: &Db,
    namespace: &Namespace,
    publish: impl Fn(Vec<Outgoing>) -> P,
) -> Result<BatchEnd, StoreError>
where
    P: Future<Output = Vec<PublishOutcome>>,
{
    // Half of the lease: whoever is stopped for longer must not go on with what another replica has taken over.
    let stop_at = Instant::now() + Duration::from_secs_f64(LEASE_SECONDS / 2.0);
    let Some(pending) = lease_batch(db, BATCH_MAX_COUNT).await? else { return Ok(BatchEnd::default()) };
    let mut end = BatchEnd { more: pending.len() == BATCH_MAX_COUNT, ..BatchEnd::default() };
    let mut waves = Waves::new(pending);
    while Instant::now() < stop_at {
        let wave = waves.wave();
        if wave.is_empty() {
            break;
        }
        let (confirmed, unconfirmed) = publish_wave(namespace, wave, &publish).await;
        waves.stop(&unconfirmed);
        delete(db, &confirmed).await?;
        end.published += confirmed.len();
        end.unconfirmed += unconfirmed.len();
    }
    metrics::counter!("switchyard_notifications_published_total").increment(end.published as u64);
    Ok(end)
}

/// Gives the numbers of those that are done with, and those that are not confirmed.
async fn publish_wave<P>(
    namespace: &Namespace,
    wave: Vec<Pending>,
    publish: impl Fn(Vec<Outgoing>) -> P,
) -> (Vec<i64>, Vec<Pending>)
where
    P: Future<Output = Vec<PublishOutcome>>,
{
    let mut done = Vec::new();
    let mut sent = Vec::new();
    let mut messages = Vec::new();
    for pending in wave {
        match outgoing(namespace, &pending) {
            Ok(message) => {
                messages.push(message);
                sent.push(pending);
            }
            Err(error) => {
                // It will never fit: dropped, or it would hold up its task for ever. The change itself is in the database.
                metrics::counter!("switchyard_notifications_dropped_total").increment(1);
                tracing::error!(notification_id = pending.notification_id, task_id = pending.task_id, %error,
                    "a notification cannot be sent as a message and is dropped");
                done.push(pending.notification_id);
            }
        }
    }
    let outcomes = publish(messages).await;
    let mut unconfirmed = Vec::new();
    let mut outcomes = outcomes.into_iter();
    for pending in sent {
        if outcomes.next().is_some_and(|outcome| outcome.is_acked()) {
            done.push(pending.notification_id);
        } else {
            unconfirmed.push(pending);
        }
    }
    (done, unconfirmed)
}

fn outgoing(namespace: &Namespace, pending: &Pending) -> Result<Outgoing, OutgoingError> {
    let mut event = CloudEvent::new(
        pending.event_id.to_string(),
        format!("switchyard/{namespace}"),
        &pending.event_type,
        pending.body.clone(),
    );
    event.time = Some(pending.created_at);
    event.subject.clone_from(&pending.task_id);
    event.traceparent.clone_from(&pending.traceparent);
    let mut properties = Properties::persistent(STRUCTURED_CONTENT_TYPE);
    if let Some(traceparent) = &pending.traceparent {
        properties.headers.insert(TRACEPARENT_HEADER.to_owned(), HeaderValue::Text(traceparent.clone()));
    }
    properties.message_id = Some(event.id.clone());
    // A map of texts and JSON values is always JSON.
    let body = serde_json::to_vec(&event).unwrap_or_default();
    Outgoing::new(&namespace.notifications_exchange(), &pending.event_type, properties, body, false)
}
