//! The task behind one subscription: its channel, its consumer, its way back after each loss.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::OptionFuture;
use futures::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::ShortString;
use lapin::{Channel, Consumer};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::acker::Epoch;
use super::consumer::{ConsumerEvent, Incoming, Setup, Subscription};
use super::control::{Behind, Control};
use super::declare::{close, give_up, queue_counts};
use super::fault::{Fault, code};
use super::headers::to_table;
use super::limits::{CONSUME_ANSWER_MAX_MILLIS, RENEWAL_RETRY_MILLIS};
use super::message::Message;
use super::reconnect::Reconnect;
use super::session::Session;
use super::silence::{SilentQueues, Watch};
use crate::retry::RetryPolicy;

/// Generations are unique in the process, so that no two subscriptions can be mixed up either.
static GENERATIONS: AtomicU64 = AtomicU64::new(0);

/// What a subscription has of its connection and of its owner.
pub(super) struct Connected {
    pub(super) sessions: watch::Receiver<Option<Session>>,
    /// Declares what there is to consume, again where it is missing.
    pub(super) setup: Setup,
    pub(super) silent: SilentQueues,
    pub(super) policy: RetryPolicy,
    pub(super) behind: Arc<Behind>,
}

pub(super) struct SubscriptionTask {
    subscription: Subscription,
    reconnect: Reconnect,
    setup: Setup,
    watch: Watch,
    sessions: watch::Receiver<Option<Session>>,
    events: mpsc::Sender<ConsumerEvent>,
    control: watch::Receiver<Control>,
    behind: Arc<Behind>,
    closing: CancellationToken,
    /// The last reason given for being lost, so that the same is not repeated at each try.
    last_fault: Option<Fault>,
}

/// Why a channel's life ended.
enum End {
    /// The subscription is over.
    Closed,
    /// The channel or its connection failed.
    Lost(Fault),
    /// Consuming could not begin.
    Refused(Fault),
    /// Nothing was in hand, and it was time for a new channel. This one is closed.
    Renewed,
}

impl SubscriptionTask {
    pub(super) fn new(
        subscription: Subscription,
        connected: Connected,
        events: mpsc::Sender<ConsumerEvent>,
        control: watch::Receiver<Control>,
        closing: CancellationToken,
    ) -> Self {
        let Connected { sessions, setup, silent, policy, behind } = connected;
        let reconnect = Reconnect::new(policy);
        let watch = Watch::new(subscription.queue.clone(), subscription.when_silent.clone(), silent);
        Self {
            subscription,
            reconnect,
            setup,
            watch,
            sessions,
            events,
            control,
            behind,
            closing,
            last_fault: None,
        }
    }

    /// Channel after channel, until the subscription is over.
    pub(super) async fn run(mut self) {
        let mut renewed = false;
        while let Some(session) = self.next_session().await {
            let begun = Instant::now();
            let (fault, refused) = match self.one_channel(&session, std::mem::take(&mut renewed)).await {
                End::Closed => break,
                End::Renewed if session.is_alive() => {
                    renewed = true;
                    continue;
                }
                End::Renewed => (Fault::local("the connection has ended"), false),
                End::Lost(fault) => (fault, false),
                End::Refused(fault) => (fault, true),
            };
            let delay = self.reconnect.next_delay(Instant::now(), &mut rand::rng());
            let closing = self.closing.clone();
            let after = async {
                self.report_lost(fault.clone()).await;
                if refused && session.is_alive() {
                    self.mend(&session, &fault, begun).await;
                }
                tokio::time::sleep(delay).await;
            };
            tokio::select! {
                () = closing.cancelled() => break,
                () = after => {}
            }
        }
    }

    /// What can be done on a live connection about a queue that could not be consumed: one that is missing is declared again, one
    /// that stays silent is watched over.
    async fn mend(&mut self, session: &Session, fault: &Fault, begun: Instant) {
        if fault.is(code::NOT_FOUND)
            && let Err(error) = (self.setup)(session.clone()).await
        {
            tracing::warn!(queue = self.subscription.queue, %error, "a missing queue cannot be declared now");
        }
        self.watch.refused(session, fault, begun).await;
    }

    /// The live connection, once there is one. `None` when the subscription is over.
    async fn next_session(&mut self) -> Option<Session> {
        let alive = |session: &Option<Session>| session.as_ref().is_some_and(Session::is_alive);
        tokio::select! {
            biased;
            () = self.closing.cancelled() => None,
            // The sender is gone when the connection was closed for good.
            found = self.sessions.wait_for(alive) => found.ok().and_then(|session| session.clone()),
        }
    }

    /// Tells the owner, unless it has been told the same just before.
    async fn report_lost(&mut self, fault: Fault) {
        if self.last_fault.as_ref() == Some(&fault) {
            tracing::debug!(queue = self.subscription.queue, %fault, "still not consuming");
            return;
        }
        tracing::warn!(queue = self.subscription.queue, %fault, "not consuming any more, will try again");
        self.last_fault = Some(fault.clone());
        let _ = self.events.send(ConsumerEvent::Lost { fault }).await;
    }

    /// One channel from open to end. One that is `renewed` takes the place of another, which is nothing to tell an operator.
    async fn one_channel(&mut self, session: &Session, renewed: bool) -> End {
        let closing = self.closing.clone();
        let opened = tokio::select! {
            opened = open_channel(session, &self.subscription) => opened,
            () = closing.cancelled() => return End::Closed,
        };
        let channel = match opened {
            Ok(channel) => channel,
            Err(fault) => return End::Lost(fault),
        };
        let epoch = Epoch::new(channel, GENERATIONS.fetch_add(1, Ordering::Relaxed) + 1);
        let end = tokio::select! {
            end = self.consume(session, &epoch, renewed) => end,
            () = closing.cancelled() => End::Closed,
        };
        // What was on its way comes again, whatever ended the channel.
        self.behind.renewing();
        epoch.end();
        match &end {
            End::Refused(fault) if fault.no_answer => give_up(session, epoch.channel()).await,
            End::Refused(_) | End::Lost(_) | End::Closed => close(session, epoch.channel()).await,
            End::Renewed => {}
        }
        end
    }

    /// Consumes on an open channel until it fails, pausing on request.
    async fn consume(&mut self, session: &Session, epoch: &Arc<Epoch>, renewed: bool) -> End {
        let restarts = self.control.borrow().restarts;
        let mut announced = false;
        let renewal = Instant::now() + renewed_after(self.subscription.renewed_after, &mut rand::rng());
        loop {
            match self.wait_until_wanted(session, restarts).await {
                Ok(true) => {}
                Ok(false) => return End::Closed,
                Err(fault) => return End::Lost(fault),
            }
            let begun = start_consumer(session, epoch.channel(), &self.subscription).await;
            let consumer = match begun {
                Ok(consumer) => consumer,
                Err(fault) => return End::Refused(fault),
            };
            self.watch.consumed();
            if !announced {
                announced = true;
                self.reconnect.came_up(Instant::now());
                self.last_fault = None;
                let generation = epoch.generation();
                let queue = &self.subscription.queue;
                if renewed {
                    tracing::debug!(queue, generation, "consuming on a new channel");
                } else {
                    tracing::info!(queue, generation, "consuming");
                }
                let _ = self.events.send(ConsumerEvent::Ready { generation }).await;
            }
            match self.pump(session, epoch, consumer, (restarts, renewal)).await {
                Pumped::Paused => {}
                Pumped::Renewed => return End::Renewed,
                Pumped::Closed => return End::Closed,
                Pumped::Lost(fault) => return End::Lost(fault),
            }
        }
    }

    /// Waits while paused. False when the owner is gone; an error when the channel has to be given up.
    async fn wait_until_wanted(&mut self, session: &Session, restarts: u64) -> Result<bool, Fault> {
        loop {
            let control = *self.control.borrow_and_update();
            if control.restarts != restarts {
                return Err(restart_fault());
            }
            if !control.paused {
                return Ok(true);
            }
            tokio::select! {
                changed = self.control.changed() => if changed.is_err() { return Ok(false) },
                fault = session.lost() => return Err(fault),
            }
        }
    }

    /// Moves deliveries from the consumer to the owner until the consumer ends or is paused.
    async fn pump(
        &mut self,
        session: &Session,
        epoch: &Arc<Epoch>,
        mut consumer: Consumer,
        (restarts, mut renewal): (u64, Instant),
    ) -> Pumped {
        let mut cancelled = false;
        let Control { mut held, mut holds, .. } = *self.control.borrow();
        // Without acks the broker counts nothing as in hand.
        let renews = !self.subscription.no_ack;
        let mut looking = OptionFuture::default();
        let mut may_renew = false;
        // A delivery that waits for a place in the owner's buffer. The broker sends no more than the prefetch, so
        // this happens only while void deliveries of an earlier generation fill it.
        let mut waiting: Option<ConsumerEvent> = None;
        loop {
            tokio::select! {
                biased;
                changed = self.control.changed() => {
                    if changed.is_err() {
                        return Pumped::Closed;
                    }
                    let control = *self.control.borrow();
                    if control.restarts != restarts {
                        self.end_before_its_consumer(session, epoch).await;
                        return Pumped::Lost(restart_fault());
                    }
                    (held, holds) = (control.held, control.holds);
                    if control.paused && !cancelled {
                        cancelled = true;
                        if let Err(fault) = stop_consumer(session, epoch.channel(), &consumer).await {
                            return Pumped::Lost(fault);
                        }
                    }
                }
                place = self.events.reserve(), if waiting.is_some() => match (place, waiting.take()) {
                    (Ok(place), Some(event)) => place.send(event),
                    (Ok(_), None) => {}
                    (Err(_), _) => return Pumped::Closed,
                },
                delivery = consumer.next(), if waiting.is_none() && !held => match delivery {
                    Some(Ok(delivery)) => match self.hand_over(epoch, delivery) {
                        Ok(()) => {}
                        Err(TrySendError::Full(event)) => waiting = Some(event),
                        Err(TrySendError::Closed(_)) => return Pumped::Closed,
                    },
                    Some(Err(error)) => return Pumped::Lost(Fault::from(error)),
                    None if cancelled => return Pumped::Paused,
                    None => return Pumped::Lost(self.why_ended(session)),
                },
                fault = session.lost() => return Pumped::Lost(fault),
                () = tokio::time::sleep_until(renewal), if renews && !cancelled && !held => {
                    let soon = Instant::now() + Duration::from_millis(RENEWAL_RETRY_MILLIS);
                    renewal = soon;
                    if epoch.is_idle() {
                        looking = Some(has_leader(session.clone(), self.subscription.queue.clone()).boxed()).into();
                        // One look at a time: a queue without a leader is slow to answer.
                        renewal = soon + self.subscription.renewed_after;
                    }
                }
                Some(has_leader) = &mut looking => {
                    looking = OptionFuture::default();
                    may_renew = has_leader;
                    if has_leader {
                        renewal = Instant::now() + Duration::from_millis(RENEWAL_RETRY_MILLIS);
                    }
                }
                // The last two in this order: nothing has come that is not handed over.
                () = std::future::ready(()), if !held && waiting.is_none() && self.behind.is(holds) => {
                    self.behind.caught_up(holds);
                }
                () = std::future::ready(()), if std::mem::take(&mut may_renew) => {
                    if !held && !cancelled && waiting.is_none() && epoch.is_idle() {
                        self.end_before_its_consumer(session, epoch).await;
                        return Pumped::Renewed;
                    }
                }
            }
        }
    }

    /// Ends the channel before its consumer is dropped, which would stop it: what is in the hands of a consumer that was stopped comes back
    /// only if its channel ends before its node does (docs/adr/messages-that-stay-behind.md).
    async fn end_before_its_consumer(&self, session: &Session, epoch: &Arc<Epoch>) {
        self.behind.renewing();
        epoch.end();
        close(session, epoch.channel()).await;
    }

    /// The library ends a consumer without a word when the broker has cancelled it.
    fn why_ended(&self, session: &Session) -> Fault {
        if session.is_alive() {
            let queue = &self.subscription.queue;
            Fault::local(format!("the broker cancelled the consumer of `{queue}`: was the queue deleted?"))
        } else {
            Fault::local("the connection has ended")
        }
    }

    /// Gives a delivery to the owner; comes back with it when there is no place for it now.
    fn hand_over(&self, epoch: &Arc<Epoch>, delivery: Delivery) -> Result<(), TrySendError<ConsumerEvent>> {
        let no_ack = self.subscription.no_ack;
        let acker = epoch.acker(delivery.delivery_tag, no_ack);
        let incoming =
            Incoming { generation: epoch.generation(), acker, message: Message::from_delivery(delivery) };
        match self.events.try_send(ConsumerEvent::Delivery(Box::new(incoming))) {
            // Nothing bounds how much the broker sends without acks; waiting would only move the pile.
            Err(TrySendError::Full(_)) if no_ack => {
                metrics::counter!("switchyard_broker_dropped_total").increment(1);
                Ok(())
            }
            handed => handed,
        }
    }
}

/// How long a channel is consumed on before it is renewed: spread, so that what began together is not renewed together.
fn renewed_after(after: Duration, random: &mut impl rand::RngExt) -> Duration {
    after / 2 + (after / 2).mul_f64(random.random_range(0.0..1.0))
}

/// How pumping ended.
enum Pumped {
    Paused,
    Renewed,
    Closed,
    Lost(Fault),
}

fn restart_fault() -> Fault {
    Fault::local("restarted by its owner")
}

/// Whether the queue has a leader that answers, and counts its consumers: without one a new consumer could not begin, while the old one outlives that.
async fn has_leader(session: Session, queue: String) -> bool {
    matches!(queue_counts(&session, &queue).await, Ok(Some(counts)) if counts.consumers > 0)
}

async fn open_channel(session: &Session, subscription: &Subscription) -> Result<Channel, Fault> {
    let channel = session.channel().await?;
    if !subscription.no_ack {
        session.request(channel.basic_qos(subscription.prefetch.max(1), BasicQosOptions::default())).await?;
    }
    Ok(channel)
}

async fn stop_consumer(session: &Session, channel: &Channel, consumer: &Consumer) -> Result<(), Fault> {
    session.request(channel.basic_cancel(consumer.tag(), BasicCancelOptions::default())).await
}

async fn start_consumer(
    session: &Session,
    channel: &Channel,
    subscription: &Subscription,
) -> Result<Consumer, Fault> {
    let short = |text: &str| ShortString::try_new(text).map_err(|error| Fault::local(error.to_string()));
    let options = BasicConsumeOptions {
        no_local: false,
        no_ack: subscription.no_ack,
        exclusive: subscription.exclusive,
        nowait: false,
    };
    let consuming = channel.basic_consume(
        short(&subscription.queue)?,
        short(&subscription.consumer_tag)?,
        options,
        to_table(&subscription.arguments),
    );
    session.request_within(Duration::from_millis(CONSUME_ANSWER_MAX_MILLIS), consuming).await
}
