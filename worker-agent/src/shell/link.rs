//! The consume connection: control queue first (it is the lock on the agent's id), then the agent's own queue.

use std::sync::Arc;
use std::time::Duration;

use switchyard_common::broker::{
    BrokerConfig, BrokerConfigError, ConsumeConnection, ConsumerEvent, ConsumerStream, DeclareError,
    Incoming, Setup, Subscription, WhenSilent, declare,
};
use switchyard_common::contract::ids::AgentRef;
use switchyard_common::contract::topology::Namespace;
use tokio::time::Instant;

use super::limits::{CLOSE_MAX_MS, CONTROL_BUFFER_MAX_COUNT, LINK_STUCK_MS};
use super::lock::Lock;

/// The name that the connection has at the broker and in metrics.
const ROLE: &str = "consume";

/// What the link tells the driver.
#[derive(Debug)]
pub(super) enum LinkEvent {
    /// The id is ours and both queues are consumed. The agent's own may be paused, or silent: an agent that can be told something
    /// is alive, also while its queue is being made anew.
    Ready,
    /// One of the two is not consumed any more; every delivery is void.
    Lost,
    /// From the agent's own queue.
    Delivery(Box<Incoming>),
    /// From the control queue; needs no ack.
    Control(Box<Incoming>),
}

/// What makes a connection.
#[derive(Clone)]
struct Wanted {
    broker: BrokerConfig,
    namespace: Namespace,
    agent: AgentRef,
    prefetch: u16,
}

/// The two subscriptions of an agent and the connection under them.
pub(super) struct Link {
    wanted: Wanted,
    connection: ConsumeConnection,
    control: ConsumerStream,
    queue: ConsumerStream,
    lock: Arc<Lock>,
    control_ready: bool,
    queue_ready: bool,
    /// The agent's own queue does not answer, which its subscription deals with.
    queue_silent: bool,
    paused: bool,
    /// What the driver was told last.
    told_ready: bool,
    /// Since when the connection is up without the control queue's consumer, as far as was noticed.
    stuck_since: Option<Instant>,
}

impl Link {
    /// Starts to connect in the background.
    ///
    /// # Errors
    /// When the broker's settings are wrong.
    pub(super) fn start(
        broker: &BrokerConfig,
        namespace: &Namespace,
        agent: &AgentRef,
        prefetch: u16,
    ) -> Result<Self, BrokerConfigError> {
        let wanted =
            Wanted { broker: broker.clone(), namespace: namespace.clone(), agent: agent.clone(), prefetch };
        let lock = Arc::new(Lock::default());
        let (connection, control, queue) = connect(&wanted, &lock)?;
        Ok(Self {
            wanted,
            connection,
            control,
            queue,
            lock,
            control_ready: false,
            queue_ready: false,
            queue_silent: false,
            paused: false,
            told_ready: false,
            stuck_since: None,
        })
    }

    /// Asks for no more deliveries; control messages go on.
    pub(super) fn pause(&mut self) {
        self.paused = true;
        self.queue.handle().pause();
    }

    /// The next event. Cancellation-safe.
    pub(super) async fn next(&mut self) -> LinkEvent {
        loop {
            if let Some(event) = self.change() {
                return event;
            }
            let event = tokio::select! {
                event = self.control.next() => self.control_event(event),
                event = self.queue.next() => self.queue_event(event),
            };
            if let Some(event) = event {
                return event;
            }
        }
    }

    /// A delivery that waits already, for filling a turn.
    pub(super) fn try_delivery(&mut self) -> Option<Box<Incoming>> {
        self.queue.try_delivery().map(Box::new)
    }

    /// Looks whether the connection is of use: one that stays without the control queue cannot be told anything and is made anew.
    /// The agent's own queue is no reason for that: a new connection would have to wait for the lock that the old one holds, for
    /// as long as the broker is busy with the queue that does not answer. Called with every tick.
    pub(super) fn check(&mut self) {
        let stuck =
            self.stuck_since.is_some_and(|since| since.elapsed() >= Duration::from_millis(LINK_STUCK_MS));
        if self.control_ready || !self.connection.state().borrow().is_up() {
            self.stuck_since = None;
        } else if !stuck {
            self.stuck_since.get_or_insert_with(Instant::now);
        } else {
            tracing::warn!("connected without the control queue: the connection is made anew");
            self.reconnect();
        }
    }

    /// Ends both subscriptions and closes the connection.
    pub(super) async fn close(self) {
        self.connection.close(Duration::from_millis(CLOSE_MAX_MS)).await;
    }

    /// Readiness that the driver was not told yet.
    fn change(&mut self) -> Option<LinkEvent> {
        let ready = self.is_ready();
        if ready == self.told_ready {
            return None;
        }
        self.told_ready = ready;
        Some(if ready { LinkEvent::Ready } else { LinkEvent::Lost })
    }

    const fn is_ready(&self) -> bool {
        self.control_ready && (self.queue_ready || self.paused || self.queue_silent)
    }

    fn control_event(&mut self, event: Option<ConsumerEvent>) -> Option<LinkEvent> {
        match event {
            Some(ConsumerEvent::Ready { .. }) => self.control_ready = true,
            Some(ConsumerEvent::Lost { .. }) => {
                self.control_ready = false;
                // Its loss makes every delivery void for the machine, so the broker must have them back too.
                self.queue.handle().restart();
            }
            Some(ConsumerEvent::Delivery(incoming)) => return Some(LinkEvent::Control(incoming)),
            None => self.reconnect(),
        }
        None
    }

    fn queue_event(&mut self, event: Option<ConsumerEvent>) -> Option<LinkEvent> {
        match event {
            Some(ConsumerEvent::Ready { .. }) => {
                self.queue_ready = true;
                self.queue_silent = false;
            }
            Some(ConsumerEvent::Lost { fault }) => {
                self.queue_ready = false;
                self.queue_silent = fault.no_answer;
                // Deliveries are void whether or not somebody still hears us, so the driver is told in either case.
                if (self.paused || self.queue_silent) && self.told_ready {
                    self.told_ready = false;
                    return Some(LinkEvent::Lost);
                }
            }
            Some(ConsumerEvent::Delivery(incoming)) => return Some(LinkEvent::Delivery(incoming)),
            None => self.reconnect(),
        }
        None
    }

    fn reconnect(&mut self) {
        self.control_ready = false;
        self.queue_ready = false;
        self.queue_silent = false;
        self.stuck_since = None;
        // It holds the lock on the id as long as the broker sees it.
        self.connection.abandon();
        match connect(&self.wanted, &self.lock) {
            Ok((connection, control, queue)) => {
                if self.paused {
                    queue.handle().pause();
                }
                (self.connection, self.control, self.queue) = (connection, control, queue);
            }
            Err(error) => tracing::error!(%error, "cannot connect anew"),
        }
    }
}

fn connect(
    wanted: &Wanted,
    lock: &Arc<Lock>,
) -> Result<(ConsumeConnection, ConsumerStream, ConsumerStream), BrokerConfigError> {
    let AgentRef { pool, agent } = &wanted.agent;
    let connection = ConsumeConnection::start(&wanted.broker, ROLE, setup(wanted, lock))?;
    let control = Subscription {
        exclusive: true,
        ..Subscription::new(wanted.namespace.control_queue(pool, agent), CONTROL_BUFFER_MAX_COUNT).no_ack()
    };
    let queue = Subscription {
        // What is in it is committed in the database and is sent again, or found missing in the agent's heartbeats and revoked.
        when_silent: WhenSilent::Rebuild(wanted.namespace.agent_queue_topology(pool, agent)),
        ..Subscription::new(wanted.namespace.agent_queue(pool, agent), wanted.prefetch)
    };
    let (control, queue) = (connection.subscribe(control), connection.subscribe(queue));
    Ok((connection, control, queue))
}

/// Takes the lock on the id before anything else is declared.
fn setup(wanted: &Wanted, lock: &Arc<Lock>) -> Setup {
    let AgentRef { pool, agent } = wanted.agent.clone();
    let control = Arc::new(wanted.namespace.control_queue_topology(&pool, &agent));
    let own = Arc::new(wanted.namespace.agent_queue_topology(&pool, &agent));
    let lock = Arc::clone(lock);
    Arc::new(move |session| {
        let (control, own, lock) = (Arc::clone(&control), Arc::clone(&own), Arc::clone(&lock));
        Box::pin(async move {
            let locked = declare(&session, &control).await;
            lock.tried(&locked);
            locked?;
            match declare(&session, &own).await {
                // A queue without a living process: the subscription finds out the same, and knows what to do about it.
                Err(error) if is_lifeless(&error) => {
                    tracing::warn!(%error, "the agent's own queue cannot be declared now");
                    Ok(())
                }
                declared => declared,
            }
        })
    })
}

fn is_lifeless(error: &DeclareError) -> bool {
    match error {
        DeclareError::Missing { .. } => true,
        DeclareError::Failed { fault, .. } => fault.no_answer,
        DeclareError::Differs { .. }
        | DeclareError::Locked { .. }
        | DeclareError::Refused { .. }
        | DeclareError::NameTooLong { .. } => false,
    }
}
