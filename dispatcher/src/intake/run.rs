//! The events consumer: batches in, one transaction each, then acks, answers and wake-ups.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, SystemTime};

use chrono::Utc;
use switchyard_common::broker::headers::{HeaderValue, delivery_count};
use switchyard_common::broker::{
    Acker, ConsumerEvent, ConsumerStream, Incoming, Message, Subscription, ack_all,
};
use switchyard_common::contract::answer::{Accepted, Answer};
use switchyard_common::contract::ids::{Digest, TaskId};
use switchyard_common::contract::parse::parse_event;
use switchyard_common::export::span::{self, Span};
use switchyard_common::failure::FailureKind;
use switchyard_common::guard::{catch_panic, catch_panic_sync};
use switchyard_common::shutdown::Shutdown;
use switchyard_common::task::Kinds;
use switchyard_common::telemetry::TraceParent;
use tokio::time::Instant;
use uuid::Uuid;

use super::admit::admit;
use super::answer;
use super::command::{Admitted, Rejection, Verdict};
use super::deliveries::is_alone;
use crate::context::Context;
use crate::dead_letters::event_ids::EventIds;
use crate::pass::Assigner;
use crate::settle::put_back::PutBack;
use crate::store::StoreError;
use crate::store::intake::{IntakeRules, Stored, store_with};
use crate::store::letters::{About, EventLetter, record_event};

/// Events that the broker hands out ahead of their acks, in messages.
pub const PREFETCH_COUNT: u16 = 1_000;
/// Most events of one transaction.
pub const BATCH_MAX_COUNT: usize = 500;
/// Most bytes of one transaction's events.
pub const BATCH_MAX_BYTES: usize = 8 * 1024 * 1024;
/// Most events that are held for what may be about to appear: a tenth of the prefetch (protocol H).
pub const HELD_MAX_COUNT: usize = PREFETCH_COUNT as usize / 10;
/// How often held events are tried again.
const HELD_RETRY: Duration = Duration::from_millis(200);
/// Wait while the database is away, between tries.
pub(super) const STORE_WAIT: Duration = Duration::from_millis(500);

/// One event in hand.
pub(super) struct Event {
    pub(super) message: Message,
    acker: Acker,
    since: Instant,
    /// Parsed and resolved, or why not; none until it is read: one that came back again and again may kill whoever reads it.
    admitted: Option<Result<Admitted, Rejection>>,
    /// What its trials are known by, once it was handled alone: this process has survived that, or is in the middle of it.
    pub(super) trial: Option<Digest>,
}

impl Event {
    fn new(incoming: Incoming) -> Self {
        let Incoming { message, acker, .. } = incoming;
        Self { message, acker, since: Instant::now(), admitted: None, trial: None }
    }

    pub(super) fn deliveries(&self) -> u64 {
        delivery_count(&self.message.properties.headers)
    }
}

/// Consumes events until shutdown. What is in hand then is finished; what is held goes back to the broker with its channel.
pub async fn run(context: Context, assigner: Assigner, shutdown: Shutdown) {
    let events =
        context.consumers.subscribe(Subscription::new(context.namespace.events_queue(), PREFETCH_COUNT));
    let put_back = PutBack::new("intake", HELD_MAX_COUNT, events.handle());
    let intake = Intake { context, assigner, events, held: VecDeque::new(), put_back };
    intake.run(shutdown).await;
}

pub(super) struct Intake {
    pub(super) context: Context,
    assigner: Assigner,
    events: ConsumerStream,
    held: VecDeque<Event>,
    /// Events about a row that this replica cannot read.
    put_back: PutBack,
}

impl Intake {
    async fn run(mut self, shutdown: Shutdown) {
        let mut retry = tokio::time::interval(HELD_RETRY);
        retry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = self.events.next() => match event {
                    Some(ConsumerEvent::Delivery(first)) => {
                        let batch = self.gather(*first);
                        self.handle(batch, &shutdown).await;
                    }
                    // What was held is void with its channel: the broker delivers it again.
                    Some(ConsumerEvent::Lost { .. }) => {
                        self.held.clear();
                        self.put_back.clear();
                    }
                    Some(ConsumerEvent::Ready { .. }) => {}
                    None => return,
                },
                _ = retry.tick(), if !self.held.is_empty() || !self.put_back.is_empty() => {
                    self.put_back.give_back_due().await;
                    let held = self.held.drain(..).collect();
                    self.handle(held, &shutdown).await;
                }
                () = shutdown.requested() => return,
            }
        }
    }

    /// The first event and whatever has queued up behind it: no waiting for more.
    fn gather(&mut self, first: Incoming) -> Vec<Event> {
        let mut bytes = first.message.body.len();
        let mut batch = vec![Event::new(first)];
        while batch.len() < BATCH_MAX_COUNT && bytes < BATCH_MAX_BYTES {
            let Some(next) = self.events.try_delivery() else { break };
            bytes += next.message.body.len();
            batch.push(Event::new(next));
        }
        batch
    }

    /// Handles what has arrived: together, but for what came back again and again (protocol D4).
    async fn handle(&mut self, batch: Vec<Event>, shutdown: &Shutdown) {
        let (alone, together): (Vec<Event>, Vec<Event>) =
            batch.into_iter().partition(|event| event.trial.is_none() && is_alone(event.deliveries()));
        self.handle_together(together, shutdown).await;
        if !alone.is_empty() {
            self.handle_alone(alone, shutdown).await;
        }
    }

    /// Stores a batch; one that fails falls back to one transaction per event, so that a poison row cannot hold the rest.
    pub(super) async fn handle_together(&mut self, batch: Vec<Event>, shutdown: &Shutdown) {
        let mut good = Vec::with_capacity(batch.len());
        for mut event in batch {
            let kinds = &self.context.kinds;
            let rejection = match event.admitted.get_or_insert_with(|| admit_message(kinds, &event.message)) {
                Ok(_) => None,
                Err(rejection) => Some(rejection.clone()),
            };
            match rejection {
                None => good.push(event),
                Some(rejection) => self.reject(event, rejection, shutdown).await,
            }
        }
        if good.is_empty() {
            return;
        }
        match self.store(&good, shutdown).await {
            Some(Ok(stored)) => self.settle(good, stored, shutdown).await,
            Some(Err(error)) if good.len() > 1 => {
                tracing::warn!(%error, events = good.len(), "a batch of events failed; each gets a transaction of its own");
                for event in good {
                    Box::pin(self.handle_together(vec![event], shutdown)).await;
                }
            }
            Some(Err(StoreError::Unreadable(why))) => {
                for event in good {
                    let deliveries = event.deliveries();
                    self.put_back.keep(event.acker, Duration::ZERO, deliveries, &why);
                }
            }
            Some(Err(error)) => {
                for event in good {
                    let rejection = poison_row(&error);
                    self.reject(event, rejection, shutdown).await;
                }
            }
            // Shutdown came while the database was away: the broker delivers everything again.
            None => {}
        }
    }

    /// Tries until the database answers: transient trouble is never a reason to nack. Nothing further is consumed meanwhile.
    async fn store(&self, good: &[Event], shutdown: &Shutdown) -> Option<Result<Stored, StoreError>> {
        let admitted: Vec<Admitted> = good.iter().filter_map(|event| event.admitted.clone()?.ok()).collect();
        let rules = IntakeRules { allow_new_pools: self.context.config.allow_new_pools };
        let trial = match good {
            [alone] => alone.trial.as_ref(),
            _ => None,
        };
        let mut told = false;
        let mut at_once = true;
        loop {
            let idle = if at_once { self.assigner.idle_pools() } else { BTreeSet::new() };
            let stored = catch_panic(store_with(&self.context.db, &admitted, rules, &idle, trial)).await;
            let stored = stored.unwrap_or_else(|panic| Err(StoreError::Panicked(panic.to_string())));
            match stored {
                // It may have been the assignment that failed: nothing is held against the event before it is stored without.
                Err(error) if !idle.is_empty() && !error.is_transient() => {
                    tracing::warn!(%error, events = admitted.len(), "events could not be stored; trying without assigning them at once");
                    at_once = false;
                }
                // What is wrong with the database or the program is not the event's fault: it waits, however long that takes.
                Err(error) if error.is_transient() || (admitted.len() == 1 && !error.is_of_the_row()) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(%error, events = admitted.len(), "intake waits for the database");
                    }
                    metrics::counter!("switchyard_store_waits_total", "part" => "intake").increment(1);
                    // What it waits for may be a row that somebody holds for long: no pool is kept waiting with it.
                    at_once = false;
                    if !shutdown.sleep(STORE_WAIT).await {
                        return None;
                    }
                }
                result => {
                    if told {
                        tracing::info!("intake goes on");
                    }
                    return Some(result);
                }
            }
        }
    }

    /// After the commit: ack, answer, wake; reject and hold what the store said so of.
    async fn settle(&mut self, good: Vec<Event>, stored: Stored, shutdown: &Shutdown) {
        if let Some(at_once) = stored.at_once {
            self.assigner.committed(at_once).await;
        }
        for pool in &stored.pools {
            self.assigner.leave_to_pass(pool);
        }
        let mut accepted = Vec::with_capacity(good.len());
        for (event, verdict) in good.into_iter().zip(stored.verdicts) {
            match verdict {
                Verdict::Accepted(answer) => {
                    export(&event, &answer);
                    self.accept(&event.message, answer);
                    accepted.push(event.acker);
                }
                Verdict::Rejected(rejection) => self.reject(event, rejection, shutdown).await,
                Verdict::Hold(rejection) => self.hold(event, rejection, shutdown).await,
            }
        }
        metrics::counter!("switchyard_events_total", "answer" => "accepted").increment(accepted.len() as u64);
        let _stale_ones_come_again = ack_all(accepted).await;
    }

    fn accept(&self, request: &Message, answer: Accepted) {
        self.answer(request, &Answer::Accepted(answer));
    }

    fn answer(&self, request: &Message, answer: &Answer) {
        let prefix = self.context.config.reply_to_prefix.as_deref();
        if let Some(outgoing) = answer::outgoing(request, answer, prefix) {
            let publisher = self.context.publisher.clone();
            drop(switchyard_common::guard::spawn_guarded("answer", async move {
                publisher.publish(outgoing).await
            }));
        }
    }

    /// Keeps an event that names what may be about to appear. Beyond the limits of time and number it is rejected.
    async fn hold(&mut self, event: Event, rejection: Rejection, shutdown: &Shutdown) {
        if event.since.elapsed() >= self.context.config.hold_events_for {
            self.reject(event, rejection, shutdown).await;
            return;
        }
        if self.held.len() >= HELD_MAX_COUNT
            && let Some(oldest) = self.held.pop_front()
        {
            let crowded = Rejection::new(
                rejection.code,
                format!("{}; too many events wait for something that does not exist yet", rejection.message),
                rejection.what_to_do.clone(),
            );
            self.reject(oldest, crowded, shutdown).await;
        }
        self.held.push_back(event);
    }

    /// Records the failure, answers, then nacks: in this order, since a nack carries no reason.
    pub(super) async fn reject(&self, event: Event, rejection: Rejection, shutdown: &Shutdown) {
        let about = about(&event);
        let queue = self.context.namespace.events_queue();
        loop {
            let letter = EventLetter {
                message: &event.message,
                queue: Some(&queue),
                failure: rejection.failure(),
                about: about.clone(),
                broker_copy: true,
            };
            let letter = &letter;
            let recorded = self
                .context
                .db
                .transaction(|transaction| async move { record_event(&transaction, letter).await })
                .await;
            match recorded {
                Ok(()) => break,
                Err(error) if error.is_transient() => {
                    tracing::warn!(%error, "a rejection waits for the database");
                    if !shutdown.sleep(STORE_WAIT).await {
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "a rejection cannot be recorded; the broker's copy will make its record");
                    break;
                }
            }
        }
        metrics::counter!("switchyard_events_total", "answer" => "rejected").increment(1);
        let event_id = EventIds::of(&event.message).id;
        self.answer(&event.message, &Answer::Rejected(rejection.answer(event_id.as_deref())));
        let _ = event.acker.nack(false).await;
    }
}

/// The span that is exported of an accepted event, under the trace that it brought.
fn export(event: &Event, answer: &Accepted) {
    let Some(Ok(admitted)) = &event.admitted else { return };
    if !span::enabled() {
        return;
    }
    let attributes = [
        ("switchyard.event_id", admitted.key.id.clone()),
        ("switchyard.event_source", admitted.key.source.clone()),
        ("switchyard.event_type", admitted.event_type.to_owned()),
        ("switchyard.task_id", answer.task_id.as_ref().map(ToString::to_string).unwrap_or_default()),
    ];
    let parent = admitted.traceparent.as_deref().and_then(|text| text.parse().ok());
    let since = SystemTime::now().checked_sub(event.since.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH);
    drop(Span::begin(span::EVENT, parent, since, &attributes));
}

/// Parses and resolves one event. A panic in there concerns that event alone (design 5).
///
/// # Errors
/// Why it has no effect, and what its publisher is to do.
pub fn admit_message(kinds: &Kinds, message: &Message) -> Result<Admitted, Rejection> {
    let attempted = catch_panic_sync(|| {
        let headers: BTreeMap<String, String> = message
            .properties
            .headers
            .iter()
            .filter_map(|(name, value): (&String, &HeaderValue)| {
                Some((name.clone(), value.as_text()?.to_owned()))
            })
            .collect();
        let content_type = message.properties.content_type.as_deref();
        let parsed = parse_event(&message.routing_key, content_type, &headers, &message.body, Utc::now())?;
        let fresh = TaskId::new(Uuid::now_v7().to_string()).map_err(|error| {
            Rejection::new(
                FailureKind::DispatcherPanicked,
                format!("a drawn id {error}"),
                "report this as a bug",
            )
        })?;
        let mut admitted = admit(parsed, kinds, fresh)?;
        // A task without a trace begins one here, so that whatever it does can be found by one id.
        admitted.traceparent.get_or_insert_with(|| TraceParent::generate(&mut rand::rng()).to_string());
        Ok(admitted)
    });
    attempted.unwrap_or_else(|panic| {
        Err(Rejection::new(
            FailureKind::DispatcherPanicked,
            format!("the dispatcher panicked while it read this event: {panic}"),
            "report this as a bug, with the event",
        ))
    })
}

fn poison_row(error: &StoreError) -> Rejection {
    if let StoreError::Panicked(panic) = error {
        return Rejection::new(
            FailureKind::DispatcherPanicked,
            format!("the dispatcher panicked while it stored this event: {panic}"),
            "report this as a bug, with the event",
        );
    }
    Rejection::new(
        FailureKind::PoisonRow,
        format!("the event cannot be stored: {error}"),
        "look at the value that the database refuses",
    )
}

fn about(event: &Event) -> About {
    use super::command::Command;
    let Some(Ok(admitted)) = &event.admitted else { return About::default() };
    match &admitted.command {
        Command::Register(registered) => About {
            workspace_id: Some(registered.workspace_id.to_string()),
            pool_id: Some(registered.pool.to_string()),
            ..About::default()
        },
        Command::Submit(new) => About {
            // What is rejected has no task: a drawn id would lead whoever looks for it nowhere.
            task_id: (!new.id_is_drawn).then(|| new.task_id.to_string()),
            workspace_id: Some(new.workspace.to_string()),
            kind: Some(new.kind.name.to_string()),
            ..About::default()
        },
        Command::Approve(asked) => task(&asked.task_id),
        Command::Discard(asked) => task(&asked.task_id),
        Command::Cancel(asked) => task(&asked.task_id),
    }
}

fn task(task_id: &TaskId) -> About {
    About { task_id: Some(task_id.to_string()), ..About::default() }
}
