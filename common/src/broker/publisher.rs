//! Confirmed publishing on a supervised connection of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::message::Outgoing;
use super::publish_link::PublishLink;
use super::settings::{BrokerConfig, BrokerConfigError};
use super::state::ConnectionState;
use crate::guard::{GuardedTask, spawn_guarded};

/// What became of a publish. Closed: match all four.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a publish that was not acked needs a decision"]
pub enum PublishOutcome {
    /// The broker has taken responsibility for the message. For a message that is not mandatory this includes
    /// "no queue wanted it".
    Acked,
    /// No queue received the message; the broker has dropped it. Only for mandatory messages.
    Returned {
        /// The broker's reply code, 312 for "no route".
        code: u16,
        /// The broker's text.
        text: String,
    },
    /// The broker refused the message: a queue is full (`reject-publish`) or failed. Some other queues may have it.
    Nacked,
    /// Nobody knows, or nothing was sent: see the reason.
    Lost(LostReason),
}

impl PublishOutcome {
    /// True when the broker has the message.
    #[must_use]
    pub fn is_acked(&self) -> bool {
        matches!(self, Self::Acked)
    }

    /// The label of the outcome in metrics and logs.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Acked => "acked",
            Self::Returned { .. } => "returned",
            Self::Nacked => "nacked",
            Self::Lost(LostReason::NotSent(_)) => "not_sent",
            Self::Lost(LostReason::Unconfirmed(_) | LostReason::NoExchange(_)) => "unconfirmed",
        }
    }
}

/// Why the broker's answer is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LostReason {
    /// It was never written to a connection: the broker does not have it.
    NotSent(String),
    /// It was written and not confirmed: the broker may or may not have it.
    Unconfirmed(String),
    /// The same, and the connection ended because an exchange does not exist that something was published to.
    NoExchange(String),
}

/// Publishes with confirms. Clones share the connection and the window.
///
/// Publishes of one caller, made one after the other or in one [`publish_pipelined`](Self::publish_pipelined), reach
/// the broker in that order. A publish to an exchange that does not exist makes the broker close the channel, and
/// everything in flight becomes [`LostReason::NoExchange`]: declare first.
#[derive(Clone, Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    requests: mpsc::UnboundedSender<Request>,
    window: Arc<Semaphore>,
    state: watch::Receiver<ConnectionState>,
    timeout: Duration,
    closing: CancellationToken,
    link: std::sync::Mutex<Option<GuardedTask<()>>>,
    _close_on_drop: DropGuard,
}

impl Publisher {
    /// Starts the connection in the background and returns at once; [`state`](Self::state) tells when it is up.
    /// `role` names it in logs and metrics. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// When the settings are wrong.
    pub fn start(config: &BrokerConfig, role: &'static str) -> Result<Self, BrokerConfigError> {
        config.check()?;
        let closing = CancellationToken::new();
        let (requests, received) = mpsc::unbounded_channel();
        let (link, state) = PublishLink::new(config.clone(), role, received, closing.clone());
        let shared = Shared {
            requests,
            window: Arc::new(Semaphore::new(config.publish_window)),
            state,
            timeout: config.publish_timeout,
            closing: closing.clone(),
            link: std::sync::Mutex::new(Some(spawn_guarded("broker-publisher", link.run()))),
            _close_on_drop: closing.drop_guard(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The state of the connection, to watch.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.shared.state.clone()
    }

    /// Publishes one message and waits for its outcome, at most for the configured publish timeout. While there is
    /// no connection it waits for one. Dropping the future abandons a message that has not been written yet.
    pub async fn publish(&self, message: Outgoing) -> PublishOutcome {
        self.publish_until(message, Instant::now() + self.shared.timeout).await
    }

    /// As [`publish`](Self::publish), with another deadline.
    pub async fn publish_until(&self, message: Outgoing, deadline: Instant) -> PublishOutcome {
        match self.enqueue(message, deadline).await {
            Ok(ticket) => ticket.outcome(deadline).await,
            Err(lost) => lost,
        }
    }

    /// Writes all messages, in order, without waiting in between, then waits for all outcomes; the result has the
    /// order of the input. One deadline, the configured publish timeout, for all.
    pub async fn publish_pipelined(&self, messages: Vec<Outgoing>) -> Vec<PublishOutcome> {
        let deadline = Instant::now() + self.shared.timeout;
        let mut tickets = Vec::with_capacity(messages.len());
        for message in messages {
            tickets.push(self.enqueue(message, deadline).await);
        }
        let mut outcomes = Vec::with_capacity(tickets.len());
        for ticket in tickets {
            outcomes.push(match ticket {
                Ok(ticket) => ticket.outcome(deadline).await,
                Err(lost) => lost,
            });
        }
        outcomes
    }

    /// As [`publish_pipelined`](Self::publish_pipelined), for messages of which at most one copy may be outstanding. What was not
    /// written by `write_by` is never sent. What was written is waited for until the broker has answered or its connection has ended,
    /// which the confirm timeout brings about; so after [`LostReason::Unconfirmed`] (and the like) nothing is outstanding on a live connection.
    pub async fn publish_settled(&self, messages: Vec<Outgoing>, write_by: Instant) -> Vec<PublishOutcome> {
        let mut tickets = Vec::with_capacity(messages.len());
        for message in messages {
            tickets.push(self.enqueue(message, write_by).await);
        }
        let mut outcomes = Vec::with_capacity(tickets.len());
        for ticket in tickets {
            outcomes.push(match ticket {
                Ok(ticket) => ticket.settled(write_by).await,
                Err(lost) => lost,
            });
        }
        outcomes
    }

    /// Takes no more messages, waits until those in flight are confirmed but not longer than `timeout`, and closes
    /// the connection. Returns false when the time was not enough; what was in flight is then lost.
    pub async fn close(&self, timeout: Duration) -> bool {
        self.shared.closing.cancel();
        let link = self.shared.link.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let Some(mut link) = link else { return true };
        let ended = tokio::time::timeout(timeout, &mut link).await.is_ok();
        if !ended {
            link.abort();
        }
        ended
    }

    /// Hands a message to the connection's task; the order of calls is the order of writing.
    async fn enqueue(&self, message: Outgoing, deadline: Instant) -> Result<Ticket, PublishOutcome> {
        let window = Arc::clone(&self.shared.window);
        let permit = match timeout_at(deadline, window.acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => return Err(not_sent("the publisher is closed")),
            Err(_) => return Err(not_sent(&self.waited_for("a place in the publish window"))),
        };
        if self.shared.closing.is_cancelled() {
            return Err(not_sent("the publisher is closed"));
        }
        let (reply, outcome) = oneshot::channel();
        let stage = Arc::new(Stage::default());
        let request =
            Request { message, reply, stage: Arc::clone(&stage), write_by: deadline, _permit: permit };
        let state = self.shared.state.clone();
        match self.shared.requests.send(request) {
            Ok(()) => Ok(Ticket { outcome, stage, state }),
            Err(_) => Err(not_sent("the publisher is closed")),
        }
    }

    fn waited_for(&self, what: &str) -> String {
        format!("waited too long for {what}; {}", describe(&self.shared.state.borrow()))
    }
}

fn describe(state: &ConnectionState) -> String {
    match state {
        ConnectionState::Up { .. } => "the broker connection is up".to_owned(),
        ConnectionState::Blocked { reason, .. } => format!("the broker has blocked the connection: {reason}"),
        ConnectionState::Down { since, reason } => {
            format!("the broker connection is down since {}: {reason}", since.to_rfc3339())
        }
        ConnectionState::Closed => "the publisher is closed".to_owned(),
    }
}

fn not_sent(why: &str) -> PublishOutcome {
    let outcome = PublishOutcome::Lost(LostReason::NotSent(why.to_owned()));
    metrics::counter!("switchyard_broker_publishes_total", "outcome" => outcome.label()).increment(1);
    outcome
}

/// One message on its way to the connection's task.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) message: Outgoing,
    pub(super) reply: oneshot::Sender<PublishOutcome>,
    pub(super) stage: Arc<Stage>,
    /// Not to be written after this.
    pub(super) write_by: Instant,
    /// The place in the window, kept until the broker has answered or the connection is gone.
    pub(super) _permit: OwnedSemaphorePermit,
}

/// Whether a message has been written, decided once: by the writer, or by a caller that gave up.
#[derive(Debug, Default)]
pub(super) struct Stage(AtomicU8);

impl Stage {
    const WAITING: u8 = 0;
    const WRITTEN: u8 = 1;
    const ABANDONED: u8 = 2;

    /// The writer's claim. False when the caller has given up: the message must not be written any more.
    pub(super) fn claim_for_writing(&self) -> bool {
        self.0.compare_exchange(Self::WAITING, Self::WRITTEN, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// The caller gives up. True when nothing was written, and nothing will be.
    fn abandon(&self) -> bool {
        let was = self.0.compare_exchange(Self::WAITING, Self::ABANDONED, Ordering::SeqCst, Ordering::SeqCst);
        was.is_ok() || was == Err(Self::ABANDONED)
    }
}

/// The caller's side of a message on its way. Dropping it abandons what has not been written.
struct Ticket {
    outcome: oneshot::Receiver<PublishOutcome>,
    stage: Arc<Stage>,
    state: watch::Receiver<ConnectionState>,
}

impl Ticket {
    async fn outcome(mut self, deadline: Instant) -> PublishOutcome {
        let why = match timeout_at(deadline, &mut self.outcome).await {
            Ok(Ok(outcome)) => return outcome,
            Ok(Err(_)) => "the publisher ended".to_owned(),
            Err(_) => format!("no confirm in time; {}", describe(&self.state.borrow())),
        };
        if self.stage.abandon() {
            return not_sent(&why);
        }
        // The answer may have come between the deadline and here.
        self.outcome.try_recv().unwrap_or(PublishOutcome::Lost(LostReason::Unconfirmed(why)))
    }

    /// Gives up what is not written by `write_by`, and waits for the fate of what is.
    async fn settled(mut self, write_by: Instant) -> PublishOutcome {
        let ended = match timeout_at(write_by, &mut self.outcome).await {
            Ok(ended) => ended,
            Err(_) if self.stage.abandon() => {
                return not_sent(&format!("not written in time; {}", describe(&self.state.borrow())));
            }
            Err(_) => (&mut self.outcome).await,
        };
        match ended {
            Ok(outcome) => outcome,
            Err(_) if self.stage.abandon() => not_sent("the publisher ended"),
            Err(_) => PublishOutcome::Lost(LostReason::Unconfirmed("the publisher ended".to_owned())),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.stage.abandon();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_either_written_or_abandoned_never_both() {
        let stage = Stage::default();
        assert!(stage.claim_for_writing() && !stage.abandon());
        let stage = Stage::default();
        assert!(stage.abandon() && !stage.claim_for_writing() && stage.abandon());
    }
}
