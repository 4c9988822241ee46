//! What a message on the dead-letter queue is about. Anyone may have written it: nothing in it is trusted, and nothing in it can
//! make this fail.

use serde_json::Value;
use switchyard_common::broker::Message;
use switchyard_common::broker::headers::deaths;
use switchyard_common::contract::assignment::AgentMessage;
use switchyard_common::contract::ids::{LeaseToken, TaskId};
use switchyard_common::contract::limits::BROKER_MESSAGE_MAX_BYTES;
use switchyard_common::contract::topology::Namespace;
use switchyard_common::failure::FailureKind;

use super::kept::Kept;
use super::scrub;

/// A nacked message, taken apart.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrival {
    /// The queue that it left, as the newest entry of `x-death` says.
    pub queue: Option<String>,
    /// `x-death` as JSON, bounded.
    pub x_death: Option<Value>,
    /// What is kept of it.
    pub kept: Kept,
    /// What it is about.
    pub subject: Subject,
}

/// What a nacked message is about.
#[derive(Debug, Clone, PartialEq)]
pub enum Subject {
    /// An event.
    Event,
    /// The assignment of an attempt, if the lease proves it.
    Assignment {
        /// The task that it names.
        task_id: TaskId,
        /// The attempt that it names.
        attempt: u32,
        /// The secret that it shows; compared, never stored.
        lease: LeaseToken,
    },
    /// A part of an input artifact.
    InputPart {
        /// The task that it names.
        task_id: TaskId,
        /// The attempt that it names.
        attempt: u32,
    },
    /// Anything else.
    Other,
}

impl Arrival {
    /// Takes `message` apart.
    #[must_use]
    pub fn of(namespace: &Namespace, message: &Message) -> Self {
        let death = deaths(&message.properties.headers).into_iter().next();
        let x_death = message.properties.headers.get("x-death").map(scrub::plain).and_then(scrub::bounded);
        let subject = subject(namespace, death.as_ref().map(|death| death.queue.as_str()), message);
        let mut kept = match subject {
            Subject::Event => Kept::of_event(message),
            Subject::Assignment { .. } | Subject::InputPart { .. } | Subject::Other => {
                Kept::of_other(message)
            }
        };
        // The delivery names the dead-letter exchange; where the message was published to is in `x-death`.
        if let Some(death) = &death {
            kept.exchange.clone_from(&death.exchange);
            if let Some(key) = death.routing_keys.first() {
                kept.routing_key.clone_from(key);
            }
        }
        Self { queue: death.map(|death| death.queue), x_death, kept, subject }
    }

    /// As little as possible is read.
    #[must_use]
    pub fn unread(message: &Message) -> Self {
        Self { queue: None, x_death: None, kept: Kept::of_other(message), subject: Subject::Other }
    }
}

fn subject(namespace: &Namespace, queue: Option<&str>, message: &Message) -> Subject {
    if queue == Some(namespace.events_queue().as_str()) {
        return Subject::Event;
    }
    if message.body.len() > BROKER_MESSAGE_MAX_BYTES {
        return Subject::Other;
    }
    match serde_json::from_slice::<AgentMessage>(&message.body) {
        Ok(AgentMessage::Assignment(assignment)) => Subject::Assignment {
            task_id: assignment.task_id,
            attempt: assignment.attempt,
            lease: assignment.lease,
        },
        Ok(AgentMessage::InputPart(part)) => {
            Subject::InputPart { task_id: part.key.task_id, attempt: part.key.attempt }
        }
        Err(_) => Subject::Other,
    }
}

/// The failure kind that stands for a letter whose failure never came (protocol D3), from the newest reason in its `x-death`.
#[must_use]
pub fn broker_failure(x_death: Option<&Value>) -> (FailureKind, &'static str) {
    let reason = x_death.and_then(|value| value.get(0)?.get("reason")?.as_str());
    match reason {
        Some("rejected") => {
            (FailureKind::BrokerRejected, "its consumer rejected it, and no failure report came")
        }
        Some("expired") => (FailureKind::BrokerExpired, "it expired in its queue"),
        Some("maxlen") => (FailureKind::BrokerMaxlen, "its queue was full"),
        Some("delivery_limit") => (
            FailureKind::BrokerDeliveryLimit,
            "it was delivered more often than its queue allows: each consumer was lost before it answered",
        ),
        Some(_) | None => (
            FailureKind::BrokerRejected,
            "it came to the dead-letter queue without a reason of the broker: somebody may have published it there",
        ),
    }
}
