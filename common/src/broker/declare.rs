//! Declares a [`Topology`], idempotently, and says clearly why when the broker refuses.

use std::time::Duration;

use lapin::ExchangeKind as LibraryExchangeKind;
use lapin::options::{
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};

use super::fault::{Fault, code};
use super::limits::CLOSE_MAX_MILLIS;
use super::session::Session;
use super::topology::{ArgumentValue, BindingDecl, ExchangeDecl, ExchangeKind, QueueDecl, Topology};
use crate::retry::Transient;

/// Why something could not be declared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeclareError {
    /// It exists with other settings than the wanted ones.
    #[error(
        "{what} exists already with other settings; the broker says: {said}. \
         To change them, let it drain, delete it and start again; or use another namespace (SWITCHYARD_NAMESPACE)"
    )]
    Differs {
        /// What: "queue `name`".
        what: String,
        /// The broker's text, which names the setting.
        said: String,
    },
    /// An exclusive queue belongs to another connection.
    #[error(
        "{what} is locked by another connection: its owner is still connected, or its id is used twice; the broker says: {said}"
    )]
    Locked {
        /// What: "queue `name`".
        what: String,
        /// The broker's text.
        said: String,
    },
    /// The broker's permissions do not allow it.
    #[error("not allowed to declare {what}; the broker says: {said}")]
    Refused {
        /// What was to be declared.
        what: String,
        /// The broker's text.
        said: String,
    },
    /// Something that it refers to does not exist.
    #[error("{what} refers to something that does not exist; the broker says: {said}")]
    Missing {
        /// What was to be declared.
        what: String,
        /// The broker's text.
        said: String,
    },
    /// A name is longer than AMQP allows.
    #[error("the name of {what} is longer than AMQP allows")]
    NameTooLong {
        /// What was to be declared.
        what: String,
    },
    /// The connection failed, or the broker gave a reason that is none of the above.
    #[error("cannot declare {what}: {fault}")]
    Failed {
        /// What was to be declared.
        what: String,
        /// Why.
        fault: Fault,
    },
}

impl DeclareError {
    fn new(what: &str, fault: Fault) -> Self {
        let (what, said) = (what.to_owned(), fault.text.clone());
        match fault.code {
            Some(code::PRECONDITION_FAILED) => Self::Differs { what, said },
            Some(code::RESOURCE_LOCKED) => Self::Locked { what, said },
            Some(code::ACCESS_REFUSED) => Self::Refused { what, said },
            Some(code::NOT_FOUND) => Self::Missing { what, said },
            Some(_) | None => Self::Failed { what, fault },
        }
    }
}

impl Transient for DeclareError {
    /// A lock is transient: it goes with its owner's connection.
    fn is_transient(&self) -> bool {
        match self {
            Self::Locked { .. } | Self::Failed { .. } => true,
            Self::Differs { .. } | Self::Refused { .. } | Self::Missing { .. } | Self::NameTooLong { .. } => {
                false
            }
        }
    }
}

/// How full a queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueCounts {
    /// Messages that wait for a consumer (those in a consumer's hand are not counted).
    pub messages: u32,
    /// Consumers.
    pub consumers: u32,
}

/// Declares everything in `topology`: exchanges, then queues, then bindings. What exists with the same settings is
/// left as it is. The first refusal ends it; what was declared before stays.
///
/// # Errors
/// The first refusal, naming what was refused.
pub async fn declare(session: &Session, topology: &Topology) -> Result<(), DeclareError> {
    let opened = session.channel().await;
    let channel = opened.map_err(|fault| DeclareError::new("a channel", fault))?;
    for exchange in &topology.exchanges {
        let what = format!("exchange `{}`", exchange.name);
        let name = short(&exchange.name, &what)?;
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let request = channel.exchange_declare(name, exchange_kind(exchange), options, FieldTable::default());
        session.request(request).await.map_err(|fault| DeclareError::new(&what, fault))?;
    }
    for queue in &topology.queues {
        let what = format!("queue `{}`", queue.name);
        let name = short(&queue.name, &what)?;
        let request = channel.queue_declare(name, queue_options(queue), arguments(queue));
        session.request(request).await.map_err(|fault| DeclareError::new(&what, fault))?;
    }
    for binding in &topology.bindings {
        bind(session, &channel, binding).await?;
    }
    close(session, &channel).await;
    Ok(())
}

async fn bind(
    session: &Session,
    channel: &lapin::Channel,
    binding: &BindingDecl,
) -> Result<(), DeclareError> {
    let BindingDecl { exchange, queue, routing_key } = binding;
    let what = format!("binding of queue `{queue}` to exchange `{exchange}` with key `{routing_key}`");
    let request = channel.queue_bind(
        short(queue, &what)?,
        short(exchange, &what)?,
        short(routing_key, &what)?,
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    session.request(request).await.map_err(|fault| DeclareError::new(&what, fault))
}

/// Looks at a queue without changing it. `None` when it does not exist.
///
/// # Errors
/// [`DeclareError::Locked`] for another connection's exclusive queue; otherwise as [`declare`].
pub async fn queue_counts(session: &Session, queue: &str) -> Result<Option<QueueCounts>, DeclareError> {
    let what = format!("queue `{queue}`");
    let name = short(queue, &what)?;
    let channel = session.channel().await.map_err(|fault| DeclareError::new(&what, fault))?;
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    match session.request(channel.queue_declare(name, options, FieldTable::default())).await {
        Ok(queue) => {
            close(session, &channel).await;
            let counts = QueueCounts { messages: queue.message_count(), consumers: queue.consumer_count() };
            Ok(Some(counts))
        }
        Err(fault) if fault.is(code::NOT_FOUND) => Ok(None),
        Err(fault) => Err(DeclareError::new(&what, fault)),
    }
}

/// Deletes a queue with whatever is in it; returns how many messages that were. A queue that does not exist counts
/// as deleted. Never asks the broker for "only if empty": on a quorum queue that closes the whole connection. Drain
/// it first.
///
/// # Errors
/// As [`declare`].
pub async fn delete_queue(session: &Session, queue: &str) -> Result<u32, DeclareError> {
    let what = format!("queue `{queue}`");
    let name = short(queue, &what)?;
    let channel = session.channel().await.map_err(|fault| DeclareError::new(&what, fault))?;
    let deleted = session.request(channel.queue_delete(name, QueueDeleteOptions::default())).await;
    close(session, &channel).await;
    deleted.map_err(|fault| DeclareError::new(&what, fault))
}

/// Removes what waits in a queue, without dead-lettering it; returns how many messages that were.
///
/// # Errors
/// As [`declare`].
pub async fn purge_queue(session: &Session, queue: &str) -> Result<u32, DeclareError> {
    let what = format!("queue `{queue}`");
    let name = short(queue, &what)?;
    let channel = session.channel().await.map_err(|fault| DeclareError::new(&what, fault))?;
    let purged = session.request(channel.queue_purge(name, QueuePurgeOptions::default())).await;
    close(session, &channel).await;
    purged.map_err(|fault| DeclareError::new(&what, fault))
}

/// Closes a channel that did its work. A failure changes nothing about that work.
pub(super) async fn close(session: &Session, channel: &lapin::Channel) {
    if channel.status().connected() {
        let closing = channel.close(200, "done".into());
        let _ = session.request_within(Duration::from_millis(CLOSE_MAX_MILLIS), closing).await;
    }
}

/// Asks for the end of a channel whose last request is not answered, without waiting: this one would not be answered either. The broker
/// comes to it after that request, so nothing is consumed on a channel that nobody looks at.
pub(super) async fn give_up(session: &Session, channel: &lapin::Channel) {
    if channel.status().connected() {
        let _ = session.request_within(Duration::ZERO, channel.close(200, "no answer".into())).await;
    }
}

fn short(name: &str, what: &str) -> Result<ShortString, DeclareError> {
    ShortString::try_new(name).map_err(|_| DeclareError::NameTooLong { what: what.to_owned() })
}

fn exchange_kind(exchange: &ExchangeDecl) -> LibraryExchangeKind {
    match exchange.kind {
        ExchangeKind::Direct => LibraryExchangeKind::Direct,
        ExchangeKind::Topic => LibraryExchangeKind::Topic,
    }
}

fn queue_options(queue: &QueueDecl) -> QueueDeclareOptions {
    QueueDeclareOptions {
        passive: false,
        durable: queue.durable,
        exclusive: queue.exclusive,
        auto_delete: queue.auto_delete,
        nowait: false,
    }
}

fn arguments(queue: &QueueDecl) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in &queue.arguments {
        let value = match value {
            ArgumentValue::Text(text) => AMQPValue::LongString(LongString::from(text.as_str())),
            ArgumentValue::Integer(number) => AMQPValue::LongLongInt(*number),
        };
        if let Ok(name) = ShortString::try_new(name.as_str()) {
            table.insert(name, value);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: u16) -> DeclareError {
        DeclareError::new("queue `q`", Fault { code: Some(code), ..Fault::local("the broker's words") })
    }

    #[test]
    fn each_refusal_names_the_queue_and_quotes_the_broker() {
        for code in [403, 404, 405, 406, 541] {
            let text = error(code).to_string();
            assert!(text.contains("queue `q`") && text.contains("the broker's words"), "{text}");
        }
    }

    #[test]
    fn differing_settings_say_what_to_do() {
        let text = error(406).to_string();
        assert!(text.contains("delete it") && text.contains("SWITCHYARD_NAMESPACE"), "{text}");
    }

    #[test]
    fn only_locks_and_lost_connections_are_worth_another_try() {
        let transient = [403, 404, 405, 406, 541].map(|code| error(code).is_transient());
        assert_eq!(transient, [false, false, true, false, true]);
    }
}
