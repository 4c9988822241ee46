//! The loops: consume, complete, log.

use std::time::Duration;

use switchyard_common::broker::{
    Acker, ConsumerEvent, ConsumerStream, Incoming, Message, Subscription, ack_all,
};
use switchyard_common::contract::topology::Namespace;
use switchyard_common::guard::catch_panic_sync;
use switchyard_common::retry::RetryPolicy;
use switchyard_common::shutdown::Shutdown;
use tokio::sync::Notify;

use super::arrival::Arrival;
use super::{log_line, sweep};
use crate::context::Context;
use crate::store::letters::{logging, store_arrivals};
use crate::store::{Db, StoreError};

/// Nacked messages in hand: bounded, because each may be as large as the broker lets it be.
const PREFETCH_COUNT: u16 = 32;
/// How often letters that nobody announced are looked for.
const LOG_PERIOD: Duration = Duration::from_millis(500);
/// How often letters that wait for their other half are looked at.
const SWEEP_PERIOD: Duration = Duration::from_secs(5);
/// Letters that are logged in one round.
const LOG_ROUND_MAX_COUNT: usize = 100;

/// Consumes the dead-letter queue, completes letters and writes their lines, until shutdown.
pub async fn run(context: Context, shutdown: Shutdown) {
    let stored = Notify::new();
    tokio::join!(
        consume(&context, &stored, &shutdown),
        log(&context.db, &stored, &shutdown),
        complete(&context.db, &shutdown),
    );
}

async fn consume(context: &Context, stored: &Notify, shutdown: &Shutdown) {
    let queue = context.namespace.dead_letters_queue();
    let mut events = context.consumers.subscribe(Subscription::new(queue, PREFETCH_COUNT));
    while let Some(Some(event)) = shutdown.unless_requested(events.next()).await {
        match event {
            ConsumerEvent::Ready { generation } => tracing::debug!(generation, "dead letters are consumed"),
            ConsumerEvent::Lost { fault } => tracing::warn!(%fault, "dead letters are not consumed"),
            ConsumerEvent::Delivery(first) => {
                let (arrivals, ackers) = batch(&context.namespace, *first, &mut events);
                if !store(&context.db, &arrivals, shutdown).await {
                    return;
                }
                stored.notify_one();
                let counts = ack_all(ackers).await;
                tracing::debug!(stored = arrivals.len(), stale = counts.stale, "dead letters stored");
            }
        }
    }
}

/// What waits now, at most a prefetch.
fn batch(namespace: &Namespace, first: Incoming, events: &mut ConsumerStream) -> (Vec<Arrival>, Vec<Acker>) {
    let mut arrivals = vec![take_apart(namespace, &first.message)];
    let mut ackers = vec![first.acker];
    while ackers.len() < usize::from(PREFETCH_COUNT)
        && let Some(more) = events.try_delivery()
    {
        arrivals.push(take_apart(namespace, &more.message));
        ackers.push(more.acker);
    }
    (arrivals, ackers)
}

/// A body that makes the reading panic is stored all the same: this queue has no dead-letter queue behind it.
fn take_apart(namespace: &Namespace, message: &Message) -> Arrival {
    catch_panic_sync(|| Arrival::of(namespace, message)).unwrap_or_else(|panic| {
        tracing::error!(%panic, "a dead letter could not be read; it is stored as bytes");
        Arrival::unread(message)
    })
}

/// Stores a batch, however long it takes: it is never nacked, and never acked before it is stored. False on shutdown.
async fn store(db: &Db, arrivals: &[Arrival], shutdown: &Shutdown) -> bool {
    let mut tries = 0_u32;
    loop {
        let Err(error) = store_arrivals(db, arrivals).await else { return true };
        let delay = RetryPolicy::RECONNECT.next_delay(tries, &mut rand::rng());
        metrics::counter!("switchyard_dead_letters_store_failures_total").increment(1);
        if error.is_transient() {
            tracing::warn!(%error, tries, delay_ms = delay.as_millis(), "dead letters cannot be stored; they stay in their queue");
        } else {
            tracing::error!(%error, tries, delay_ms = delay.as_millis(), "dead letters cannot be stored; they stay in their queue");
        }
        tries = tries.saturating_add(1);
        if !shutdown.sleep(delay).await {
            return false;
        }
    }
}

async fn log(db: &Db, stored: &Notify, shutdown: &Shutdown) {
    while !shutdown.is_requested() {
        match log_once(db).await {
            Ok(LOG_ROUND_MAX_COUNT) => continue,
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "dead letters cannot be logged now"),
        }
        tokio::select! {
            () = stored.notified() => {}
            () = tokio::time::sleep(LOG_PERIOD) => {}
            () = shutdown.requested() => {}
        }
    }
    // What was completed by the last work before the shutdown.
    if let Err(error) = log_once(db).await {
        tracing::warn!(%error, "dead letters could not be logged; another replica, or the next start, does");
    }
}

/// Writes the lines of letters that are complete; gives their number.
pub async fn log_once(db: &Db) -> Result<usize, StoreError> {
    let claimed = logging::claim(db, LOG_ROUND_MAX_COUNT).await?;
    if claimed.letters.is_empty() {
        return Ok(0);
    }
    claimed.letters.iter().for_each(log_line::write);
    logging::mark_logged(db, &claimed).await?;
    Ok(claimed.letters.len())
}

async fn complete(db: &Db, shutdown: &Shutdown) {
    loop {
        match sweep::run_once(db).await {
            Ok(report) if report.more => continue,
            Ok(report) if report.completed > 0 => {
                tracing::info!(
                    letters = report.completed,
                    "dead letters were completed without their other half"
                );
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "dead letters cannot be completed now"),
        }
        if !shutdown.sleep(SWEEP_PERIOD).await {
            return;
        }
    }
}
