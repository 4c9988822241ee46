//! What is tried at the broker, and whether it was allowed.

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel};
use switchyard_common::broker::{Fault, Session, code};

/// True when the broker did it or had something else against it; false when it refused access.
pub(crate) fn allowed<T>(answer: Result<T, Fault>) -> bool {
    match answer {
        Ok(_) => true,
        Err(fault) if fault.is(code::ACCESS_REFUSED) => false,
        // Not there, other arguments, in use: the right was looked at first.
        Err(fault) if fault.is(code::NOT_FOUND) || fault.is(code::PRECONDITION_FAILED) => true,
        Err(fault) => panic!("the broker answers neither yes nor no: {fault}"),
    }
}

pub(crate) async fn open(session: &Session) -> Channel {
    session.channel().await.expect("a channel")
}

/// Binds a queue and takes the binding away again.
pub(crate) async fn bind(session: &Session, queue: &str, exchange: &str, key: &str) -> bool {
    let channel = open(session).await;
    let none = FieldTable::default();
    let options = QueueBindOptions::default();
    let binding = channel.queue_bind(queue.into(), exchange.into(), key.into(), options, none.clone());
    let bound = allowed(session.request(binding).await);
    if bound {
        let unbinding = channel.queue_unbind(queue.into(), exchange.into(), key.into(), none);
        session.request(unbinding).await.expect("what could be bound can be unbound");
    }
    bound
}

/// Publishes one message and waits until the broker has confirmed or refused it.
pub(crate) async fn publish(session: &Session, exchange: &str, key: &str) -> bool {
    let channel = open(session).await;
    session.request(channel.confirm_select(ConfirmSelectOptions::default())).await.expect("confirms");
    let options = BasicPublishOptions::default();
    let publishing =
        channel.basic_publish(exchange.into(), key.into(), options, b"x", BasicProperties::default());
    let confirm = session.request(publishing).await.expect("the publish is written");
    allowed(session.request(confirm).await)
}
