//! Copies of every message, later than what was sent after them: the broker shows what is published (its tracer), and the tap publishes
//! it again after a drawn delay. So every event, report, assignment and order comes twice, and out of order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel};
use switchyard_common::broker::{BrokerConfig, Session};
use switchyard_common::config::Secret;
use switchyard_common::contract::topology::Namespace;
use switchyard_common::guard::{GuardedTask, spawn_guarded};

use crate::sim::dice::Dice;

/// Where the broker's tracer copies to.
const TRACE_EXCHANGE: &str = "amq.rabbitmq.trace";
/// Marks a copy, so that it is not copied again.
const COPY_HEADER: &str = "chaos-copy";
/// Longest delay of a copy, in milliseconds.
const LATE_MAX_MS: u64 = 4_000;
/// Wait before another try when the broker is away.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// The tap. It ends with this value.
pub struct Tap {
    copied: Arc<AtomicU64>,
    running: GuardedTask<()>,
}

impl Tap {
    /// Begins to copy what is published in a namespace.
    #[must_use]
    pub fn start(amqp_url: &str, namespace: Namespace, dice: Dice) -> Self {
        let copied = Arc::new(AtomicU64::new(0));
        let config = BrokerConfig::new(Secret::new(amqp_url), "chaos-tap");
        let running = spawn_guarded("chaos-tap", run(config, namespace, dice, Arc::clone(&copied)));
        Self { copied, running }
    }

    /// Copies so far.
    #[must_use]
    pub fn copied(&self) -> u64 {
        self.copied.load(Ordering::Relaxed)
    }

    /// No more copies from now on, but those that are on their way.
    pub fn stop(self) -> u64 {
        self.running.abort();
        self.copied()
    }
}

async fn run(config: BrokerConfig, namespace: Namespace, mut dice: Dice, copied: Arc<AtomicU64>) {
    loop {
        // Ends whenever the broker is away, which is what these runs are about.
        if let Ok(session) = Session::open(&config, "tap").await {
            let _until_it_is_away = copy_all(&session, &namespace, &mut dice, &copied).await;
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

async fn copy_all(
    session: &Session,
    namespace: &Namespace,
    dice: &mut Dice,
    copied: &Arc<AtomicU64>,
) -> anyhow::Result<()> {
    let channel = session.channel().await?;
    let options =
        QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let queue = format!("{namespace}.chaos-tap");
    channel.queue_declare(queue.as_str().into(), options, FieldTable::default()).await?;
    let (bind, none) = (QueueBindOptions::default(), FieldTable::default());
    channel.queue_bind(queue.as_str().into(), TRACE_EXCHANGE.into(), "publish.#".into(), bind, none).await?;
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let mut traced =
        channel.basic_consume(queue.into(), "tap".into(), options, FieldTable::default()).await?;
    while let Some(delivery) = traced.next().await {
        let Some(copy) = Copy::of(delivery?, namespace) else { continue };
        let (channel, copied) = (channel.clone(), Arc::clone(copied));
        let late = Duration::from_millis(dice.below(LATE_MAX_MS));
        drop(spawn_guarded("chaos-copy", async move {
            tokio::time::sleep(late).await;
            // The connection may have ended: then there is no copy.
            if copy.publish(&channel).await.is_ok() {
                copied.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    Ok(())
}

/// A message as it was published.
struct Copy {
    exchange: ShortString,
    routing_key: ShortString,
    properties: BasicProperties,
    body: Vec<u8>,
}

impl Copy {
    /// The message that a trace tells of, if it is one of the namespace and no copy itself.
    fn of(trace: Delivery, namespace: &Namespace) -> Option<Self> {
        let headers = trace.properties.headers().as_ref()?;
        let exchange = text(headers, "exchange_name")?;
        let AMQPValue::FieldArray(keys) = headers.inner().get("routing_keys")? else { return None };
        let AMQPValue::LongString(key) = keys.as_slice().first()? else { return None };
        let routing_key = key.to_string();
        let ours = if exchange.is_empty() { &routing_key } else { &exchange };
        if !ours.starts_with(&format!("{namespace}.")) {
            return None;
        }
        let AMQPValue::FieldTable(told) = headers.inner().get("properties")? else { return None };
        let mut properties = BasicProperties::default();
        let mut own = FieldTable::default();
        if let Some(AMQPValue::FieldTable(told)) = told.inner().get("headers") {
            own = told.clone();
        }
        if own.contains_key(COPY_HEADER) {
            return None;
        }
        // What no queue had, such as what went back to its publisher, no broker delivers later.
        let AMQPValue::FieldArray(routed) = headers.inner().get("routed_queues")? else { return None };
        if routed.as_slice().is_empty() {
            return None;
        }
        own.insert(COPY_HEADER.into(), AMQPValue::Boolean(true));
        properties = properties.with_headers(own).with_delivery_mode(2);
        if let Some(content_type) = text(told, "content_type") {
            properties = properties.with_content_type(content_type.into());
        }
        if let Some(id) = text(told, "message_id") {
            properties = properties.with_message_id(id.into());
        }
        if let Some(kind) = text(told, "type") {
            properties = properties.with_type(kind.into());
        }
        Some(Self {
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            properties,
            body: trace.data,
        })
    }

    async fn publish(self, channel: &Channel) -> lapin::Result<()> {
        let options = BasicPublishOptions::default();
        channel
            .basic_publish(self.exchange, self.routing_key, options, &self.body, self.properties)
            .await
            .map(drop)
    }
}

fn text(table: &FieldTable, name: &str) -> Option<String> {
    let AMQPValue::LongString(text) = table.inner().get(name)? else { return None };
    Some(text.to_string())
}
