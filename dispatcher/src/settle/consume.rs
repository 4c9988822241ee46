//! The loop that the consumers of reports share: batch what has queued up, settle it in one transaction, ack after the commit.
//!
//! Transient trouble stops consuming and is waited out; it is never a reason to nack. Where it lasts, what is in hand goes back to the
//! broker until the store answers: this replica alone may be cut off from it. A message that is at fault itself is isolated,
//! its failure recorded, then nacked (protocol D4, D5).

use std::time::Duration;

use switchyard_common::broker::headers::delivery_count;
use switchyard_common::broker::{
    Acker, ConsumeConnection, ConsumerEvent, ConsumerStream, Incoming, Message, Subscription,
    SubscriptionHandle, ack_all,
};
use switchyard_common::contract::routing::ReportKind;
use switchyard_common::failure::{Failure, FailureKind};
use switchyard_common::guard::{catch_panic, catch_panic_sync};
use switchyard_common::retry::RetryPolicy;
use switchyard_common::shutdown::Shutdown;
use tokio::time::Instant;

use super::batch::{ALONE_FROM_DELIVERIES, AfterError, Fill, after_error, after_panic};
use super::held::{HELD_MAX, HOLDS_BACK_MAX, LATE_RETRY, first_to_go, oldest_that_holds_back};
use super::put_back::PutBack;
use super::reach::{GIVEN_BACK_AFTER, answers_within_reach, soon};
use super::read::{Heard, read};
use crate::presence::clock::since_boot;
use crate::store::letters::{ReportLetter, record_report};
use crate::store::{Db, StoreError};

/// How often messages that wait for something are tried again.
const HELD_RETRY: Duration = Duration::from_millis(250);

/// What became of a report.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// It has had its effect, or has none.
    Done,
    /// What is left of it waits for something that may be about to arrive.
    Hold(Box<Heard>),
    /// Something in it was refused as bad input and changed nothing: it is recorded with this reason, then nacked.
    Refuse(Box<Failure>),
}

/// What makes reports of one queue into changes in the store.
pub trait Settler: Send + Sync {
    /// The part's name in logs and metrics.
    const NAME: &'static str;
    /// Reports that come to its queue.
    const KINDS: &'static [ReportKind];
    /// How long what it holds may wait.
    const HELD_MAX: Duration = HELD_MAX;

    /// Settles a batch in order and commits; one fate per report. What must follow a commit is done in here as well.
    fn settle(&self, batch: &[&Heard]) -> impl Future<Output = Result<Vec<Fate>, StoreError>> + Send;

    /// Nothing waited at `at`, and what was taken before is settled but for what is kept, of which the oldest arrived at `kept`.
    fn emptied(&self, _at: Duration, _kept: Option<Duration>) {}

    /// Consuming began anew at `at`: what was handed out before comes again.
    fn began_anew(&self, _at: Duration) {}
}

/// A report in hand.
struct InHand {
    message: Message,
    acker: Acker,
    heard: Heard,
    since: Instant,
    /// Where it is held: when it is looked at again.
    look_at: Instant,
    /// Since boot; not later than it was.
    arrived_at: Duration,
}

/// Consumes `queue` until shutdown, with `prefetch` messages handed out ahead of their acks; a tenth of them may wait for something
/// (protocol H). What is in hand at the end is finished; what waits goes back to the broker.
pub async fn consume<S: Settler>(
    settler: S,
    db: Db,
    consumers: &ConsumeConnection,
    queue: String,
    prefetch: u16,
    shutdown: Shutdown,
) {
    let events = consumers.subscribe(Subscription::new(queue.clone(), prefetch));
    let control = events.handle();
    let held_max = usize::from(prefetch / 10).max(1);
    let put_back = PutBack::new(S::NAME, held_max, control.clone());
    let consumer =
        Consumer { settler, db, queue, events, control, paused: false, held: Vec::new(), held_max, put_back };
    consumer.run(shutdown).await;
}

struct Consumer<S> {
    settler: S,
    db: Db,
    queue: String,
    events: ConsumerStream,
    control: SubscriptionHandle,
    paused: bool,
    held: Vec<InHand>,
    held_max: usize,
    put_back: PutBack,
}

impl<S: Settler> Consumer<S> {
    async fn run(mut self, shutdown: Shutdown) {
        let mut retry = tokio::time::interval(HELD_RETRY);
        retry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.tell_if_empty();
            tokio::select! {
                () = shutdown.requested() => return,
                event = self.events.next() => match event {
                    Some(ConsumerEvent::Delivery(first)) => {
                        let batch = self.gather(*first, &shutdown).await;
                        self.handle(batch, &shutdown).await;
                    }
                    Some(ConsumerEvent::Lost { .. }) => {
                        self.held.clear();
                        self.put_back.clear();
                    }
                    Some(ConsumerEvent::Ready { .. }) => {
                        if let Ok(at) = since_boot() {
                            self.settler.began_anew(at);
                        }
                    }
                    None => return,
                },
                _ = retry.tick() => {
                    self.put_back.give_back_due().await;
                    let due = self.due_again();
                    self.handle(due, &shutdown).await;
                }
            }
        }
    }

    /// Those that wait and are looked at again now.
    fn due_again(&mut self) -> Vec<InHand> {
        let now = Instant::now();
        let is_due = |one: &InHand| now >= one.look_at;
        let (mut due, held) = std::mem::take(&mut self.held).into_iter().partition::<Vec<_>, _>(is_due);
        self.held = held;
        for one in &mut due {
            let waits_long = now.saturating_duration_since(one.since) >= HOLDS_BACK_MAX;
            one.look_at = now + if waits_long { LATE_RETRY } else { Duration::ZERO };
        }
        due
    }

    /// The clock is read first: what arrives afterwards is not spoken for.
    fn tell_if_empty(&self) {
        let Ok(at) = since_boot() else { return };
        if self.events.is_empty() {
            let held = oldest_that_holds_back(at, self.held.iter().map(|one| one.arrived_at));
            let kept = held.into_iter().chain(self.put_back.oldest()).min();
            self.settler.emptied(at, kept);
        }
    }

    /// The first delivery and what has queued up behind it: nobody waits for more to come.
    async fn gather(&mut self, first: Incoming, shutdown: &Shutdown) -> Vec<InHand> {
        let mut fill = Fill::default();
        let mut batch = Vec::new();
        let mut next = Some(first);
        while let Some(incoming) = next {
            fill.add(incoming.message.body.len());
            batch.extend(self.take(incoming, shutdown).await);
            next = if fill.is_full() { None } else { self.events.try_delivery() };
        }
        batch
    }

    /// Reads a delivery; one that is no report is recorded and nacked.
    async fn take(&mut self, incoming: Incoming, shutdown: &Shutdown) -> Option<InHand> {
        let Incoming { message, acker, .. } = incoming;
        let attempted = catch_panic_sync(|| read(&message.routing_key, &message.body, S::KINDS));
        let failure = match attempted {
            Ok(Ok(heard)) => {
                let arrived_at = since_boot().unwrap_or_default();
                let since = Instant::now();
                return Some(InHand { message, acker, heard, since, look_at: since, arrived_at });
            }
            Ok(Err(malformed)) => Failure::new(FailureKind::MalformedReport, malformed.to_string()),
            Err(panic) => match after_panic(&panic, 1) {
                AfterError::Refuse(failure) => failure,
                AfterError::Wait | AfterError::Isolate | AfterError::PutBack(_) => return None,
            },
        };
        self.refuse(message, acker, failure, shutdown).await;
        None
    }

    /// Settles a batch. A report that was delivered again and again goes alone.
    async fn handle(&mut self, batch: Vec<InHand>, shutdown: &Shutdown) {
        let again = |one: &InHand| delivery_count(&one.message.properties.headers) >= ALONE_FROM_DELIVERIES;
        let (alone, together): (Vec<_>, Vec<_>) = batch.into_iter().partition(again);
        for left in self.settle(together, shutdown).await {
            self.settle(vec![left], shutdown).await;
        }
        for one in alone {
            self.settle(vec![one], shutdown).await;
        }
    }

    /// Settles reports together until that succeeds or one is at fault. Gives back those that must be settled one by one.
    async fn settle(&mut self, mut batch: Vec<InHand>, shutdown: &Shutdown) -> Vec<InHand> {
        let (mut waits, mut failing_since) = (0, None);
        loop {
            // Those of a channel that is gone come again.
            batch.retain(|one| !one.acker.is_stale());
            if batch.is_empty() {
                break;
            }
            for one in &mut batch {
                one.heard.waited |= one.since.elapsed() >= S::HELD_MAX;
            }
            let heard: Vec<&Heard> = batch.iter().map(|one| &one.heard).collect();
            let settling = catch_panic(self.settler.settle(&heard));
            let (attempted, took_long) =
                soon(settling, || self.gives_back("the store does not answer")).await;
            // What was given back meanwhile is wanted again.
            self.paused |= took_long;
            let after = match attempted {
                Ok(Ok(fates)) => {
                    self.ended(batch, fates, shutdown).await;
                    break;
                }
                Ok(Err(error)) => {
                    tracing::warn!(part = S::NAME, %error, reports = batch.len(), waits, "reports cannot be settled now");
                    after_error(&error, batch.len())
                }
                Err(panic) => {
                    tracing::error!(part = S::NAME, %panic, backtrace = panic.backtrace, reports = batch.len(),
                        "settling reports panicked");
                    after_panic(&panic, batch.len())
                }
            };
            let after = match &batch[..] {
                [one] if after.is_of_the_message() => self.settle_apart(&one.heard, after).await,
                _ => Some(after),
            };
            let Some(after) = after else {
                self.ended(batch, vec![Fate::Done], shutdown).await;
                break;
            };
            match after {
                AfterError::Wait => {
                    if !self.wait(waits, *failing_since.get_or_insert_with(Instant::now), shutdown).await {
                        return Vec::new();
                    }
                    waits += 1;
                }
                AfterError::Isolate => {
                    self.resume();
                    return batch;
                }
                AfterError::PutBack(why) => {
                    for one in batch {
                        let deliveries = delivery_count(&one.message.properties.headers);
                        self.put_back.keep(one.acker, one.arrived_at, deliveries, &why);
                    }
                    break;
                }
                AfterError::Refuse(failure) => {
                    for one in batch {
                        self.refuse(one.message, one.acker, failure.clone(), shutdown).await;
                    }
                    break;
                }
            }
        }
        self.resume();
        Vec::new()
    }

    /// Settles what one message says of several attempts one by one: what is wrong with one of them must not cost what the same agent said
    /// of the others (incident 59). Gives what follows for the message; none when everything is settled after all.
    async fn settle_apart(&self, heard: &Heard, after_all: AfterError) -> Option<AfterError> {
        let parts = heard.apart();
        if parts.is_empty() {
            return Some(after_all);
        }
        let mut after: Option<AfterError> = None;
        for part in &parts {
            let after_part = match catch_panic(self.settler.settle(&[part])).await {
                Ok(Ok(fates)) => fates.into_iter().find_map(after_fate),
                Ok(Err(error)) => Some(after_error(&error, 1)),
                Err(panic) => Some(after_panic(&panic, 1)),
            };
            after = match (after, after_part) {
                (Some(one), Some(other)) => Some(one.or_graver(other)),
                (one, other) => one.or(other),
            };
        }
        after
    }

    /// Takes nothing more for a while. False when everything in hand goes back to the broker: shutdown came, or the store was away for
    /// long and answers now.
    async fn wait(&mut self, waits: u32, failing_since: Instant, shutdown: &Shutdown) -> bool {
        self.paused = true;
        if failing_since.elapsed() >= GIVEN_BACK_AFTER {
            self.give_back(shutdown).await;
            return false;
        }
        self.control.hold();
        metrics::counter!("switchyard_store_waits_total", "part" => S::NAME).increment(1);
        let delay = RetryPolicy::RECONNECT.ceiling(waits).max(HELD_RETRY);
        shutdown.sleep(delay).await
    }

    /// Other replicas may reach the store: they get what is in hand, until this one reaches it again.
    async fn give_back(&mut self, shutdown: &Shutdown) {
        self.held.clear();
        self.put_back.clear();
        self.gives_back("the store is away for long");
        if answers_within_reach(&self.db, shutdown).await {
            self.resume();
        }
    }

    fn gives_back(&self, why: &str) {
        tracing::warn!(
            part = S::NAME,
            "{why}: reports go back to the broker, for replicas that can settle them"
        );
        metrics::counter!("switchyard_reports_given_back_total", "part" => S::NAME).increment(1);
        self.control.give_back();
    }

    fn resume(&mut self) {
        if std::mem::take(&mut self.paused) {
            tracing::info!(part = S::NAME, "settling goes on");
            self.control.resume();
        }
    }

    /// Acks what is done and keeps what waits; beyond the limit, one of those gets its last chance at once.
    async fn ended(&mut self, batch: Vec<InHand>, fates: Vec<Fate>, shutdown: &Shutdown) {
        let mut done = Vec::with_capacity(batch.len());
        let mut bad = Vec::new();
        for (one, fate) in batch.into_iter().zip(fates) {
            match fate {
                Fate::Done => done.push(one.acker),
                Fate::Refuse(failure) => bad.push((one, failure)),
                Fate::Hold(rest) => self.held.push(InHand { heard: *rest, ..one }),
            }
        }
        let _those_that_are_stale_come_again = ack_all(done).await;
        for (one, failure) in bad {
            self.refuse(one.message, one.acker, *failure, shutdown).await;
        }
        while self.held.len() > self.held_max {
            self.held.sort_by_key(|one| one.arrived_at);
            let senders: Vec<_> = self.held.iter().map(|one| &one.heard.sender).collect();
            let mut first = self.held.remove(first_to_go(&senders).unwrap_or_default());
            first.heard.waited = true;
            Box::pin(self.settle(vec![first], shutdown)).await;
        }
    }

    /// Records the failure, then nacks: a nack carries no reason.
    async fn refuse(&mut self, message: Message, acker: Acker, failure: Failure, shutdown: &Shutdown) {
        metrics::counter!("switchyard_reports_refused_total", "part" => S::NAME, "reason" => failure.kind.as_str())
            .increment(1);
        tracing::warn!(
            part = S::NAME,
            routing_key = message.routing_key,
            reason = failure.kind.as_str(),
            message = failure.message,
            "a report is refused"
        );
        let queue = self.queue.clone();
        let letter = ReportLetter { message: &message, queue: &queue, failure };
        let (mut waits, mut failing_since) = (0, None);
        loop {
            match record(&self.db, &letter).await {
                Ok(()) => break,
                Err(error) if error.is_transient() => {
                    tracing::warn!(part = S::NAME, %error, "a refusal waits for the database");
                    if !self.wait(waits, *failing_since.get_or_insert_with(Instant::now), shutdown).await {
                        return;
                    }
                    waits += 1;
                }
                Err(error) => {
                    tracing::error!(part = S::NAME, %error,
                        "a refusal cannot be recorded; the broker's copy will make its record");
                    break;
                }
            }
        }
        self.resume();
        let _one_that_is_stale_comes_again = acker.nack(false).await;
    }
}

/// What follows for a message of which one attempt was settled alone.
fn after_fate(fate: Fate) -> Option<AfterError> {
    match fate {
        Fate::Done => None,
        // It comes again with the rest, and by then what it waits for has arrived or never will.
        Fate::Hold(_) => {
            Some(AfterError::PutBack("an outcome in this message waits for its artifacts".to_owned()))
        }
        Fate::Refuse(failure) => Some(AfterError::Refuse(*failure)),
    }
}

async fn record(db: &Db, letter: &ReportLetter<'_>) -> Result<(), StoreError> {
    db.transaction(|transaction| async move { record_report(&transaction, letter).await }).await
}
