//! The presence queue of this replica: signs of life, its own canary, and the declaration of losses (protocol C).

use std::time::Duration;

use switchyard_common::broker::topology::Topology;
use switchyard_common::broker::{
    ConsumerEvent, ConsumerStream, Incoming, Message, Outgoing, Properties, Subscription, declare,
    queue_counts,
};
use switchyard_common::contract::control::{Control, Order};
use switchyard_common::contract::ids::{IdError, ReplicaId};
use switchyard_common::contract::routing::canary_key;
use switchyard_common::contract::topology::Namespace;
use switchyard_common::guard::{catch_panic, catch_panic_sync, spawn_guarded};
use switchyard_common::shutdown::Shutdown;
use uuid::Uuid;

use super::beat::{Beat, newest, read_beat};
use super::clock::since_boot;
use super::drained::{EmptyLook, OtherReplica};
use super::judge::Judge;
use super::sessions::Verdict;
use super::{heard, narrate};
use crate::context::Context;
use crate::control::{Orders, Told, answer_to_beat};
use crate::route::decide::REPLICA_STALE_AFTER;
use crate::store::replicas::ReplicaRow;
use crate::store::{StoreError, agents, replicas};

/// Signs of life that may wait in memory; the newest are dropped beyond, which the next heartbeat makes good.
pub const WAITING_MAX_COUNT: u16 = 4_096;
/// Signs of life that are stored in one transaction.
pub const BATCH_MAX_COUNT: usize = 512;

/// Canaries per look at the database and the queue of outcomes, which cost more.
const TICKS_PER_LOOK_COUNT: u32 = 2;

/// The name of this replica's presence queue.
///
/// # Errors
/// Never for a UUID: its text is a label.
pub fn replica_id(replica: Uuid) -> Result<ReplicaId, IdError> {
    ReplicaId::new(replica.to_string())
}

/// What this replica declares beside what all share: its presence queue, exclusive to its connection.
///
/// # Errors
/// As [`replica_id`].
pub fn topology(namespace: &Namespace, replica: Uuid) -> Result<Topology, IdError> {
    Ok(namespace.presence_queue_topology(&replica_id(replica)?))
}

/// Listens until shutdown.
pub async fn run(context: Context, shutdown: Shutdown) {
    match replica_id(context.replica) {
        Ok(id) => Listener::new(context, id).run(shutdown).await,
        Err(error) => tracing::error!(%error, "this replica has no name for its presence queue"),
    }
}

struct Listener {
    context: Context,
    id: ReplicaId,
    events: ConsumerStream,
    orders: Orders,
    judge: Judge,
    /// The last reason against declaring losses that was logged.
    told: Option<super::judge::NotNow>,
    ticks: u32,
}

impl Listener {
    fn new(context: Context, id: ReplicaId) -> Self {
        let queue = context.namespace.presence_queue(&id);
        let events = context.consumers.subscribe(Subscription::new(queue, WAITING_MAX_COUNT).no_ack());
        let orders = Orders::start(context.publisher.clone(), &context.namespace);
        let judge = Judge::new(context.config.agent_lost_after);
        Self { context, id, events, orders, judge, told: None, ticks: 0 }
    }

    async fn run(mut self, shutdown: Shutdown) {
        let mut ticker = tokio::time::interval(self.judge.ask_every());
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                event = self.events.next() => match event {
                    Some(ConsumerEvent::Delivery(first)) => self.gather(*first).await,
                    Some(ConsumerEvent::Ready { .. }) => self.hearing_interrupted(),
                    Some(ConsumerEvent::Lost { .. }) => {
                        self.hearing_interrupted();
                        self.declare_queue().await;
                    }
                    None => return,
                },
                _ = ticker.tick() => self.tick().await,
            }
        }
    }

    fn hearing_interrupted(&mut self) {
        self.judge.hearing_interrupted();
        self.context.settled.with(super::settled::Settled::hearing_interrupted);
    }

    /// The queue goes with its consumer, so a channel that was lost takes it along: it is declared again on the same connection.
    async fn declare_queue(&self) {
        let Some(session) = self.context.consumers.session() else { return };
        let topology = self.context.namespace.presence_queue_topology(&self.id);
        if let Err(error) = declare(&session, &topology).await {
            tracing::warn!(%error, "the presence queue cannot be declared now");
        }
    }

    /// Stores the first sign of life and what has queued up behind it.
    async fn gather(&mut self, first: Incoming) {
        let mut beats = Vec::new();
        let mut next = Some(first);
        while let Some(incoming) = next {
            beats.extend(self.take(&incoming.message));
            next = if beats.len() < BATCH_MAX_COUNT { self.events.try_delivery() } else { None };
        }
        let beats = newest(beats);
        if beats.is_empty() {
            return;
        }
        let Ok(asked_at) = since_boot() else { return };
        match catch_panic(self.store(&beats, asked_at)).await {
            Ok(Ok((verdicts, epoch))) => {
                self.judge.database_answered(asked_at);
                self.after_store(&beats, &verdicts, epoch);
            }
            // Nothing is repeated: the next heartbeat says the same again.
            Ok(Err(error)) => {
                self.judge.database_failed();
                tracing::warn!(%error, beats = beats.len(), "signs of life cannot be stored now");
            }
            Err(panic) => {
                tracing::error!(%panic, backtrace = panic.backtrace, "storing signs of life panicked")
            }
        }
    }

    /// A canary goes to the judge, a sign of life is given back; anything else is counted.
    fn take(&mut self, message: &Message) -> Option<Beat> {
        if message.routing_key == canary_key(&self.id) {
            if let Ok(number) = serde_json::from_slice(&message.body)
                && let Some(sent_at) = self.judge.canary_heard(number)
                && let Ok(heard_at) = since_boot()
            {
                self.context.settled.with(|settled| settled.canary_heard(sent_at, heard_at));
            }
            return None;
        }
        match catch_panic_sync(|| read_beat(&message.routing_key, &message.body)) {
            Ok(Ok(beat)) => Some(beat),
            Ok(Err(malformed)) => {
                narrate::malformed(&message.routing_key, &malformed.to_string());
                None
            }
            Err(panic) => {
                narrate::malformed(&message.routing_key, &panic.to_string());
                None
            }
        }
    }

    async fn store(&self, beats: &[Beat], now: Duration) -> Result<(Vec<Verdict>, i64), StoreError> {
        let config = &self.context.config;
        let rules = heard::Rules {
            allow_new_pools: config.allow_new_pools,
            lost_after: config.agent_lost_after,
            silence_counts: self.judge.is_drained(now),
        };
        heard::store(&self.context.db, beats, rules).await
    }

    /// Tells what came of the signs, ends sessions that are over for us, and wakes pools that have more room.
    fn after_store(&self, beats: &[Beat], verdicts: &[Verdict], epoch: i64) {
        for (beat, verdict) in beats.iter().zip(verdicts) {
            narrate::beat(beat, *verdict);
            if matches!(verdict, Verdict::NewSession { .. }) {
                self.context.wake.pool(&beat.agent.pool);
            }
            if let Some(told) = answer_to_beat(beat, *verdict, epoch) {
                self.orders.send(told);
            }
        }
    }

    /// Asks everything that the judge wants to know, then declares losses if it may.
    async fn tick(&mut self) {
        let Ok(now) = since_boot() else { return };
        self.send_canary(now);
        self.ticks = self.ticks.wrapping_add(1);
        if self.ticks.is_multiple_of(TICKS_PER_LOOK_COUNT) {
            self.ask_for_outcomes().await;
            self.order_drains().await;
        }
        if let Err(why) = self.judge.may_declare(since_boot().unwrap_or(now)) {
            narrate::not_now(why, &mut self.told);
            return;
        }
        self.told = None;
        match heard::lose_silent(&self.context.db, self.context.config.agent_lost_after).await {
            Ok(lost) => lost.iter().for_each(|lost| {
                narrate::lost(lost);
                self.context.wake.pool(&lost.agent.pool);
            }),
            Err(error) => {
                self.judge.database_failed();
                tracing::warn!(%error, "silent agents cannot be declared lost now");
            }
        }
    }

    fn send_canary(&mut self, now: Duration) {
        let number = self.judge.canary_sent(now);
        let exchange = self.context.namespace.reports_exchange();
        let body = number.to_string().into_bytes();
        let Ok(canary) = Outgoing::new(&exchange, &canary_key(&self.id), Properties::default(), body, false)
        else {
            return;
        };
        let publisher = self.context.publisher.clone();
        // Only its return counts.
        drop(spawn_guarded("canary", async move { drop(publisher.publish(canary).await) }));
    }

    /// Is anything ready in the queue of outcomes, and what do the replicas say of what they have in hand? In this order: what was ready
    /// before somebody took it is in hand afterwards.
    async fn ask_for_outcomes(&mut self) {
        let looked = self.look_at_outcomes().await;
        let Ok(asked_at) = since_boot() else { return };
        let asked = replicas::other_replicas(&self.context.db, REPLICA_STALE_AFTER).await;
        let Ok((by_database, rows)) = asked else {
            self.judge.database_failed();
            return;
        };
        self.judge.database_answered(asked_at);
        if let Some((asked_at, answered_at)) = looked {
            self.judge.outcomes_looked(EmptyLook { asked_at, answered_at, by_database });
        }
        let others = self.others(&rows).await;
        let own = self.context.settled.with(|settled| settled.through());
        if let Ok(now) = since_boot() {
            self.judge.outcomes_told(now, own, &others);
        }
    }

    /// Orders go on until the agent says that it drains: one may be lost.
    async fn order_drains(&self) {
        let Ok(agents) = agents::to_drain(&self.context.db).await else { return };
        if agents.is_empty() {
            return;
        }
        let Ok(epoch) = agents::epoch(&self.context.db).await else { return };
        for to in agents {
            self.orders.send(Told { to, control: Control { epoch, order: Order::Drain } });
        }
    }

    /// When the queue of outcomes was asked, and when it had answered, if nothing was ready in it. One without a leader looks empty, and without
    /// our own consumer (docs/adr/silent-queues.md).
    async fn look_at_outcomes(&self) -> Option<(Duration, Duration)> {
        let session = self.context.consumers.session()?;
        let asked_at = since_boot().ok()?;
        let counts = queue_counts(&session, &self.context.namespace.outcomes_queue()).await.ok()??;
        let answered_at = since_boot().ok()?;
        (counts.messages == 0 && counts.consumers > 0).then_some((asked_at, answered_at))
    }

    /// A replica whose sign of life is stale is gone when the broker has no presence queue of it: that one goes with the connection on
    /// which it consumes, and what it had in hand is back in its queue then.
    async fn others(&self, rows: &[ReplicaRow]) -> Vec<OtherReplica> {
        let mut others = Vec::with_capacity(rows.len());
        for row in rows {
            let is_gone = !row.is_fresh && self.has_no_queue(row.replica).await;
            others.push(OtherReplica { replica: row.replica, settled_through: row.settled_through, is_gone });
        }
        let gone: Vec<Uuid> =
            others.iter().filter(|other| other.is_gone).map(|other| other.replica).collect();
        if !gone.is_empty()
            && let Err(error) = replicas::forget_replicas(&self.context.db, &gone).await
        {
            tracing::debug!(%error, "rows of replicas that are gone stay for now");
        }
        others
    }

    async fn has_no_queue(&self, replica: Uuid) -> bool {
        let (Some(session), Ok(id)) = (self.context.consumers.session(), replica_id(replica)) else {
            return false;
        };
        let queue = self.context.namespace.presence_queue(&id);
        // One that exists is locked by its connection, which is an error here.
        matches!(queue_counts(&session, &queue).await, Ok(None))
    }
}
