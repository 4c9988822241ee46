//! What the broker tests share: the broker's address, names of their own, queues, and a proxy that can be cut.

pub(crate) mod proxy;
pub(crate) mod raw;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use switchyard_common::broker::topology::{ArgumentValue, QueueDecl, QueueKind, Topology};
use switchyard_common::broker::{
    BrokerConfig, ConnectionState, ConsumeConnection, ConsumerEvent, ConsumerStream, Incoming, Outgoing,
    Properties, Publisher, Session, Setup, declare, delete_queue,
};
use switchyard_common::config::Secret;
use switchyard_common::retry::RetryPolicy;
use tokio::sync::watch;

/// Longest wait for anything that should happen at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The URL of the test broker.
pub(crate) fn url() -> String {
    std::env::var("SWITCHYARD_AMQP_URL").unwrap_or_else(|_| {
        panic!(
            "SWITCHYARD_AMQP_URL is not set: these tests need a real RabbitMQ. Run `make test`, which starts one, \
             or `make up` and then `eval \"$(make env)\"`"
        )
    })
}

/// Settings for tests: quick to come back.
pub(crate) fn config_for(url: &str) -> BrokerConfig {
    let reconnect =
        RetryPolicy { initial: Duration::from_millis(20), max: Duration::from_millis(200), multiplier: 2.0 };
    BrokerConfig {
        reconnect,
        publish_timeout: PATIENCE,
        ..BrokerConfig::new(Secret::new(url), "broker tests")
    }
}

pub(crate) fn config() -> BrokerConfig {
    config_for(&url())
}

/// A name that no other test uses.
pub(crate) fn name(what: &str) -> String {
    format!("test.{what}.{}", uuid::Uuid::new_v4().simple())
}

/// A durable classic queue with these arguments.
pub(crate) fn classic<const N: usize>(name: &str, arguments: [(&str, ArgumentValue); N]) -> QueueDecl {
    QueueDecl {
        name: name.to_owned(),
        kind: QueueKind::Classic,
        durable: true,
        exclusive: false,
        auto_delete: false,
        arguments: arguments.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<BTreeMap<_, _>>(),
    }
}

pub(crate) fn topology(queue: QueueDecl) -> Topology {
    Topology { queues: vec![queue], ..Topology::default() }
}

/// A queue of one test, and the session to look at it.
pub(crate) struct Queue {
    pub(crate) session: Session,
    pub(crate) name: String,
}

impl Queue {
    pub(crate) async fn declare(decl: QueueDecl) -> Self {
        let session = Session::open(&config(), "test").await.unwrap();
        let name = decl.name.clone();
        declare(&session, &topology(decl)).await.unwrap();
        Self { session, name }
    }

    pub(crate) async fn new(what: &str) -> Self {
        Self::declare(classic(&name(what), [])).await
    }

    /// What production has, with other rules for consumers.
    pub(crate) async fn quorum(what: &str) -> Self {
        let kind = ArgumentValue::Text(QueueKind::Quorum.as_str().to_owned());
        let decl = classic(&name(what), [("x-queue-type", kind)]);
        Self::declare(QueueDecl { kind: QueueKind::Quorum, ..decl }).await
    }

    pub(crate) fn message(&self, body: &str) -> Outgoing {
        to_queue(&self.name, body)
    }

    pub(crate) async fn delete(self) {
        delete_queue(&self.session, &self.name).await.unwrap();
        self.session.close().await;
    }
}

/// A mandatory message for a queue, through the default exchange.
pub(crate) fn to_queue(queue: &str, body: &str) -> Outgoing {
    Outgoing::new("", queue, Properties::persistent("text/plain"), body.as_bytes().to_vec(), true).unwrap()
}

pub(crate) async fn publisher(config: &BrokerConfig) -> Publisher {
    let publisher = Publisher::start(config, "test-publish").unwrap();
    wait_up(publisher.state()).await;
    publisher
}

pub(crate) fn no_setup() -> Setup {
    Arc::new(|_| Box::pin(async { Ok(()) }))
}

pub(crate) fn consumer(config: &BrokerConfig) -> ConsumeConnection {
    ConsumeConnection::start(config, "test-consume", no_setup()).unwrap()
}

pub(crate) async fn wait_up(state: watch::Receiver<ConnectionState>) {
    wait_for(state, ConnectionState::is_up).await;
}

pub(crate) async fn wait_for(
    mut state: watch::Receiver<ConnectionState>,
    wanted: impl Fn(&ConnectionState) -> bool,
) -> ConnectionState {
    within(async { state.wait_for(|state| wanted(state)).await.unwrap().clone() }).await
}

/// Fails the test when something takes too long.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it took too long")
}

pub(crate) async fn next_ready(events: &mut ConsumerStream) -> u64 {
    match within(events.next()).await {
        Some(ConsumerEvent::Ready { generation }) => generation,
        other => panic!("expected Ready, got {other:?}"),
    }
}

pub(crate) async fn next_delivery(events: &mut ConsumerStream) -> Incoming {
    match within(events.next()).await {
        Some(ConsumerEvent::Delivery(incoming)) => *incoming,
        other => panic!("expected a delivery, got {other:?}"),
    }
}

pub(crate) async fn next_lost(events: &mut ConsumerStream) -> switchyard_common::broker::Fault {
    match within(events.next()).await {
        Some(ConsumerEvent::Lost { fault }) => fault,
        other => panic!("expected Lost, got {other:?}"),
    }
}

pub(crate) fn body(incoming: &Incoming) -> &str {
    std::str::from_utf8(&incoming.message.body).unwrap()
}
