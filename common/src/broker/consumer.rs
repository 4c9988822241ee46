//! Consuming on a supervised connection of its own: subscriptions that survive the loss of their connection or
//! channel and say so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::acker::Acker;
use super::consume_link::ConsumeLink;
use super::control::{Behind, Control};
use super::declare::DeclareError;
use super::fault::Fault;
use super::headers::HeaderValue;
use super::limits::CONSUMER_RENEWED_AFTER_MILLIS;
use super::message::Message;
use super::session::Session;
use super::settings::{BrokerConfig, BrokerConfigError};
use super::silence::{SilentQueues, WhenSilent};
use super::state::ConnectionState;
use super::subscription::{Connected, SubscriptionTask};
use crate::guard::{GuardedTask, spawn_guarded};

/// Declares what the consumers need; run on every new connection, before any subscription consumes, and again when a
/// subscription finds its queue missing: so it must be repeatable. An error on a new connection keeps
/// the connection [`Down`](ConnectionState::Down) with its text as the reason, and is tried again with backoff.
pub type Setup = Arc<dyn Fn(Session) -> BoxFuture<'static, Result<(), DeclareError>> + Send + Sync>;

/// What to consume.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscription {
    /// The queue.
    pub queue: String,
    /// Most deliveries in hand, neither acked nor nacked; 0 counts as 1. With `no_ack`, the size of the buffer.
    pub prefetch: u16,
    /// The name of the consumer on the broker; empty lets the broker choose.
    pub consumer_tag: String,
    /// Refuse other consumers of the queue. (Quorum queues ignore it in silence.)
    pub exclusive: bool,
    /// Deliveries count as acked when they are sent. A receiver that is slower than the broker loses the newest:
    /// counted in `switchyard_broker_dropped_total`.
    pub no_ack: bool,
    /// Consumer arguments.
    pub arguments: BTreeMap<String, HeaderValue>,
    /// What is done when the queue cannot be consumed for long although the connection is alive.
    pub when_silent: WhenSilent,
    /// About how long a channel is consumed on before it is made anew, at a moment when nothing is in hand. The owner hears of it as
    /// [`ConsumerEvent::Ready`].
    pub renewed_after: Duration,
}

impl Subscription {
    /// A subscription with acks and nothing special.
    #[must_use]
    pub fn new(queue: impl Into<String>, prefetch: u16) -> Self {
        Self {
            queue: queue.into(),
            prefetch,
            consumer_tag: String::new(),
            exclusive: false,
            no_ack: false,
            arguments: BTreeMap::new(),
            when_silent: WhenSilent::Wait,
            renewed_after: Duration::from_millis(CONSUMER_RENEWED_AFTER_MILLIS),
        }
    }

    /// The same, with automatic acks.
    #[must_use]
    pub fn no_ack(mut self) -> Self {
        self.no_ack = true;
        self
    }
}

/// A delivery: the message, and the right to settle it.
#[derive(Debug)]
pub struct Incoming {
    /// The message.
    pub message: Message,
    /// Which life of the subscription it came in; grows with each [`ConsumerEvent::Ready`].
    pub generation: u64,
    /// Settles it.
    pub acker: Acker,
}

/// What a subscription's stream yields. Closed: match all three.
#[derive(Debug)]
pub enum ConsumerEvent {
    /// Consuming has begun, for the first time or again. Deliveries of earlier generations are void.
    Ready {
        /// The new generation.
        generation: u64,
    },
    /// A message.
    Delivery(Box<Incoming>),
    /// Consuming has ended, or could not begin, for this reason; it will be tried again. Everything that was in
    /// hand and not settled is delivered again. A lost connection, a closed channel (406: a delivery was held longer
    /// than the consumer timeout; 405: the queue is locked; 404: it does not exist) and a consumer that the broker
    /// cancelled all look like this.
    Lost {
        /// Why.
        fault: Fault,
    },
}

/// A supervised connection for consuming. Clones are the same connection.
#[derive(Clone, Debug)]
pub struct ConsumeConnection {
    shared: Arc<Shared>,
}

/// The setup, as subscriptions use it to declare again what is missing.
struct ForSubscriptions(Setup);

impl fmt::Debug for ForSubscriptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Setup")
    }
}

#[derive(Debug)]
struct Shared {
    config: BrokerConfig,
    setup: ForSubscriptions,
    silent: SilentQueues,
    sessions: watch::Receiver<Option<Session>>,
    state: watch::Receiver<ConnectionState>,
    closing: CancellationToken,
    tasks: Mutex<Vec<GuardedTask<()>>>,
    _close_on_drop: DropGuard,
}

impl ConsumeConnection {
    /// Starts the connection in the background and returns at once. `role` names it in logs and metrics; `setup`
    /// runs on each new connection. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// When the settings are wrong.
    pub fn start(config: &BrokerConfig, role: &'static str, setup: Setup) -> Result<Self, BrokerConfigError> {
        config.check()?;
        let closing = CancellationToken::new();
        let for_subscriptions = ForSubscriptions(Arc::clone(&setup));
        let (link, sessions, state) = ConsumeLink::new(config.clone(), role, setup, closing.clone());
        let shared = Shared {
            config: config.clone(),
            setup: for_subscriptions,
            silent: SilentQueues::default(),
            sessions,
            state,
            closing: closing.clone(),
            tasks: Mutex::new(vec![spawn_guarded("broker-consumer", link.run())]),
            _close_on_drop: closing.drop_guard(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The state of the connection, to watch. Up means that `setup` has succeeded.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.shared.state.clone()
    }

    /// The live connection, for declaring, counting or deleting queues; `None` while it is down.
    #[must_use]
    pub fn session(&self) -> Option<Session> {
        self.shared.sessions.borrow().clone()
    }

    /// The queues that are subscribed to and have not answered for long, to watch.
    #[must_use]
    pub fn silent_queues(&self) -> watch::Receiver<BTreeSet<String>> {
        self.shared.silent.watch()
    }

    /// Ends the connection at once, without a word to the broker, which then has everything back: for an owner that opens another
    /// one and needs what is exclusive to this one.
    pub fn abandon(&self) {
        if let Some(session) = self.session() {
            session.abandon(Fault::local("given up by its owner"));
        }
        self.shared.closing.cancel();
    }

    /// Begins to consume a queue, on a channel of its own, now or whenever the connection is up.
    #[must_use]
    pub fn subscribe(&self, subscription: Subscription) -> ConsumerStream {
        let (events, received) = mpsc::channel(usize::from(subscription.prefetch.max(1)));
        let (control, controlled) = watch::channel(Control::default());
        let closing = self.shared.closing.child_token();
        let behind = Arc::<Behind>::default();
        let connected = Connected {
            sessions: self.shared.sessions.clone(),
            setup: Arc::clone(&self.shared.setup.0),
            silent: self.shared.silent.clone(),
            policy: self.shared.config.reconnect,
            behind: Arc::clone(&behind),
        };
        let task = SubscriptionTask::new(subscription, connected, events, controlled, closing.clone());
        let running = spawn_guarded("broker-subscription", task.run());
        let mut tasks = self.shared.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|task| !task.is_finished());
        tasks.push(running);
        let handle = SubscriptionHandle { control: Arc::new(control), behind, closing: closing.clone() };
        ConsumerStream { events: received, peeked: None, handle, _cancel_on_drop: closing.drop_guard() }
    }

    /// Ends all subscriptions and closes the connection; what was in hand and not settled is delivered again to
    /// others. Returns false when `timeout` was not enough to do it in order.
    pub async fn close(&self, timeout: Duration) -> bool {
        self.shared.closing.cancel();
        let tasks = std::mem::take(&mut *self.shared.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        crate::shutdown::wait_bounded(tasks, tokio::time::Instant::now() + timeout).await.is_empty()
    }
}

/// The events of one subscription. Dropping it ends the subscription.
#[derive(Debug)]
pub struct ConsumerStream {
    events: mpsc::Receiver<ConsumerEvent>,
    /// An event that [`try_delivery`](Self::try_delivery) met and left for [`next`](Self::next).
    peeked: Option<ConsumerEvent>,
    handle: SubscriptionHandle,
    _cancel_on_drop: DropGuard,
}

impl ConsumerStream {
    /// The next event; `None` when the subscription or its connection was closed. Deliveries that have become stale
    /// while they waited here are skipped: they will come again. Cancellation-safe.
    pub async fn next(&mut self) -> Option<ConsumerEvent> {
        if let Some(event) = self.peeked.take() {
            return Some(event);
        }
        loop {
            let event = self.events.recv().await?;
            if !event.is_void() {
                return Some(event);
            }
        }
    }

    /// The next delivery if one is waiting now, for filling a batch. Stops in front of a
    /// [`Ready`](ConsumerEvent::Ready) or [`Lost`](ConsumerEvent::Lost), which [`next`](Self::next) then returns.
    pub fn try_delivery(&mut self) -> Option<Incoming> {
        if self.peeked.is_some() {
            return None;
        }
        loop {
            let event = self.events.try_recv().ok()?;
            if event.is_void() {
                continue;
            }
            match event {
                ConsumerEvent::Delivery(incoming) => return Some(*incoming),
                event @ (ConsumerEvent::Ready { .. } | ConsumerEvent::Lost { .. }) => {
                    self.peeked = Some(event);
                    return None;
                }
            }
        }
    }

    /// Whether nothing waits to be taken now. False after [`hold`](SubscriptionHandle::hold), and while the channel is made anew, until what
    /// came meanwhile is handed over.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let behind = self.handle.behind.is(self.handle.control.borrow().holds);
        !behind && self.peeked.is_none() && self.events.is_empty()
    }

    /// A handle to pause, resume, restart or end the subscription from elsewhere.
    #[must_use]
    pub fn handle(&self) -> SubscriptionHandle {
        self.handle.clone()
    }
}

impl ConsumerEvent {
    /// True for a delivery that will come again whatever is done with this copy.
    fn is_void(&self) -> bool {
        match self {
            Self::Delivery(incoming) => incoming.acker.is_void(),
            Self::Ready { .. } | Self::Lost { .. } => false,
        }
    }
}

/// Controls one subscription.
#[derive(Clone, Debug)]
pub struct SubscriptionHandle {
    control: Arc<watch::Sender<Control>>,
    behind: Arc<Behind>,
    closing: CancellationToken,
}

impl SubscriptionHandle {
    /// Asks the broker for no more messages. What is in hand, or on its way, can still be received and settled. For an owner that is about
    /// to end: RabbitMQ 3.10 keeps what is in the hand of a consumer that was stopped for ever when the node of its connection dies
    /// (docs/adr/messages-that-stay-behind.md).
    pub fn pause(&self) {
        self.control.send_modify(|control| control.paused = true);
    }

    /// Hands over nothing more for now, and remains a consumer: as many messages as the prefetch has room for wait here, and the rest goes
    /// to other consumers of the queue.
    pub fn hold(&self) {
        self.control.send_modify(|control| {
            control.held = true;
            control.holds += 1;
        });
    }

    /// Goes on after [`pause`](Self::pause), [`hold`](Self::hold) or [`give_back`](Self::give_back).
    pub fn resume(&self) {
        self.control.send_modify(|control| (control.paused, control.held) = (false, false));
    }

    /// Hands everything that is not settled back to the queue, by closing the channel, and begins again (or stays
    /// paused): for a receiver that cannot say what it did with its deliveries.
    pub fn restart(&self) {
        self.control.send_modify(|control| control.restarts += 1);
    }

    /// Hands everything that is not settled back to the queue, by closing the channel, and asks for nothing more until
    /// [`resume`](Self::resume): for an owner that can settle nothing for now, while others may. The stream does not call itself empty until
    /// it has caught up on its new channel.
    pub fn give_back(&self) {
        self.control.send_modify(|control| {
            (control.paused, control.held) = (true, false);
            control.holds += 1;
            control.restarts += 1;
        });
    }

    /// Ends the subscription; what is not settled goes back to the queue.
    pub fn cancel(&self) {
        self.closing.cancel();
    }
}
