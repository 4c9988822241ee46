//! The consume connection: control queue first (it is the lock on the agent's id), then the agent's own queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use switchyard_common::broker::{
    BrokerConfig, BrokerConfigError, ConsumeConnection, ConsumerEvent, ConsumerStream, DeclareError,
    Incoming, Setup, Subscription, declare,
};
use switchyard_common::contract::ids::AgentRef;
use switchyard_common::contract::topology::Namespace;
use tokio::time::Instant;

use super::limits::{CLOSE_MAX_MS, CONTROL_BUFFER_MAX_COUNT, LINK_STUCK_MS};

/// The name that the connection has at the broker and in metrics.
const ROLE: &str = "consume";

/// What the link tells the driver.
#[derive(Debug)]
pub(super) enum LinkEvent {
    /// The id is ours and both queues are consumed (or the agent's own is paused).
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
    control_ready: bool,
    queue_ready: bool,
    paused: bool,
    /// What the driver was told last.
    told_ready: bool,
    /// Since when the connection is up without both consumers, as far as was noticed.
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
        let (connection, control, queue) = connect(&wanted)?;
        Ok(Self {
            wanted,
            connection,
            control,
            queue,
            control_ready: false,
            queue_ready: false,
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

    /// Looks whether the connection is of use. A control queue that was deleted under us never comes back on the same connection, so
    /// one that stays without its consumers is made anew. Called with every tick.
    pub(super) fn check(&mut self) {
        let closed =
            self.stuck_since.is_some_and(|since| since.elapsed() >= Duration::from_millis(LINK_STUCK_MS));
        if self.is_ready() || !self.connection.state().borrow().is_up() {
            self.stuck_since = None;
        } else if !closed {
            self.stuck_since.get_or_insert_with(Instant::now);
        } else {
            tracing::warn!("connected without consuming: the connection is made anew");
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
        self.control_ready && (self.queue_ready || self.paused)
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
            Some(ConsumerEvent::Ready { .. }) => self.queue_ready = true,
            Some(ConsumerEvent::Lost { .. }) => {
                self.queue_ready = false;
                // Deliveries are void whether or not the queue is paused, so the driver is told in either case.
                if self.paused && self.told_ready {
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
        self.stuck_since = None;
        match connect(&self.wanted) {
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
) -> Result<(ConsumeConnection, ConsumerStream, ConsumerStream), BrokerConfigError> {
    let AgentRef { pool, agent } = &wanted.agent;
    let connection = ConsumeConnection::start(&wanted.broker, ROLE, setup(wanted))?;
    let control = Subscription {
        exclusive: true,
        ..Subscription::new(wanted.namespace.control_queue(pool, agent), CONTROL_BUFFER_MAX_COUNT).no_ack()
    };
    let queue = Subscription::new(wanted.namespace.agent_queue(pool, agent), wanted.prefetch);
    let (control, queue) = (connection.subscribe(control), connection.subscribe(queue));
    Ok((connection, control, queue))
}

/// Takes the lock on the id before anything else is declared.
fn setup(wanted: &Wanted) -> Setup {
    let AgentRef { pool, agent } = wanted.agent.clone();
    let lock = Arc::new(wanted.namespace.control_queue_topology(&pool, &agent));
    let own = Arc::new(wanted.namespace.agent_queue_topology(&pool, &agent));
    let said = Arc::new(AtomicBool::new(false));
    Arc::new(move |session| {
        let (lock, own, said) = (Arc::clone(&lock), Arc::clone(&own), Arc::clone(&said));
        let (pool, agent) = (pool.clone(), agent.clone());
        Box::pin(async move {
            let locked = declare(&session, &lock).await;
            match &locked {
                Err(DeclareError::Locked { .. }) => {
                    // Once, not at every try.
                    if !said.swap(true, Ordering::Relaxed) {
                        tracing::error!(%pool, %agent, "this agent id is in use by another process: waiting until it is free");
                    }
                }
                Ok(()) | Err(_) => said.store(false, Ordering::Relaxed),
            }
            locked?;
            declare(&session, &own).await
        })
    })
}
