//! A request and its answer over RabbitMQ's direct reply-to: at most once, no buffer, no queue to clean up.

use std::time::Duration;

use futures::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Confirmation, Consumer};
use uuid::Uuid;

use super::fault::{Fault, code};
use super::message::{Message, Outgoing, to_library};
use super::session::Session;

/// The pseudo-queue that direct reply-to consumes from and replies to.
const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The broker failed, before or after it took the request: it may have had its effect.
    #[error("the broker failed: {0}")]
    Broker(#[from] Fault),
    /// No queue takes requests of this kind.
    #[error(
        "no queue takes the message: no dispatcher has served this namespace yet, or the namespace is wrong ({text})"
    )]
    Returned {
        /// The broker's text.
        text: String,
    },
    /// The queue is full.
    #[error("the broker refuses the message: its queue is full")]
    Refused,
    /// The request was taken; no answer came in time.
    #[error(
        "the broker has the message, but no answer came within {0:?}: it will be handled when a dispatcher is there"
    )]
    NoAnswer(Duration),
}

impl RequestError {
    /// An exchange that is not there closes the channel: nobody has declared it, just as with a queue.
    fn of_publish(fault: Fault) -> Self {
        if fault.is(code::NOT_FOUND) { Self::Returned { text: fault.text } } else { Self::Broker(fault) }
    }
}

/// Sends requests, one after the other, over one channel: direct reply-to wants both ends on the same one.
pub struct Requester {
    session: Session,
    channel: Channel,
    answers: Consumer,
}

impl Requester {
    /// Opens a channel for requests.
    ///
    /// # Errors
    /// When the connection or the channel fails.
    pub async fn open(session: &Session) -> Result<Self, Fault> {
        let channel = session.channel().await?;
        session.request(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consuming =
            channel.basic_consume(DIRECT_REPLY_TO.into(), "".into(), options, FieldTable::default());
        let answers = session.request(consuming).await?;
        Ok(Self { session: session.clone(), channel, answers })
    }

    /// Publishes `message`, mandatory and confirmed, and waits for its answer.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn request(&mut self, message: &Outgoing, timeout: Duration) -> Result<Message, RequestError> {
        let correlation_id = Uuid::new_v4().to_string();
        let mut properties = message.properties().clone();
        properties.reply_to = Some(DIRECT_REPLY_TO.to_owned());
        properties.correlation_id = Some(correlation_id.clone());
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let publishing = self.channel.basic_publish(
            message.exchange().into(),
            message.routing_key().into(),
            options,
            message.body(),
            to_library(&properties),
        );
        let confirm = self.session.request(publishing).await?;
        match self.session.request(confirm).await.map_err(RequestError::of_publish)? {
            Confirmation::Ack(None) => {}
            Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => {
                return Err(RequestError::Returned { text: returned.reply_text.to_string() });
            }
            Confirmation::Nack(None) => return Err(RequestError::Refused),
            Confirmation::NotRequested => return Err(Fault::local("confirms are off").into()),
        }
        tokio::time::timeout(timeout, self.answer(&correlation_id))
            .await
            .map_err(|_| RequestError::NoAnswer(timeout))?
    }

    /// The answer to this request; late answers to earlier ones are passed over.
    async fn answer(&mut self, correlation_id: &str) -> Result<Message, RequestError> {
        loop {
            let delivery: Delivery = match self.answers.next().await {
                Some(delivery) => delivery.map_err(Fault::from)?,
                None => return Err(Fault::local("the broker ended the consumer of answers").into()),
            };
            let message = Message::from_delivery(delivery);
            if message.properties.correlation_id.as_deref() == Some(correlation_id) {
                return Ok(message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exchange_that_nobody_has_declared_is_told_as_such_and_not_as_a_broken_broker() {
        let fault = |code| Fault { code: Some(code), ..Fault::local("no exchange 'x'") };
        let told = RequestError::of_publish(fault(code::NOT_FOUND)).to_string();
        assert!(told.contains("no dispatcher has served this namespace yet"), "{told}");
        let refused = fault(code::ACCESS_REFUSED);
        assert_eq!(RequestError::of_publish(refused.clone()), RequestError::Broker(refused));
    }
}
