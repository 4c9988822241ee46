//! Copies of every message, later than what was sent after them: the broker shows what passes through it (its tracer), and the tap
//! publishes it again after a drawn delay. So every event, report, assignment and order comes twice, and out of order.
//!
//! Only what a queue has had comes again: no broker delivers later what it has returned to its publisher. Of what is published to an
//! exchange with bindings the tracer tells the queues that got it. The default exchange routes by name alone, and the tracer names the
//! queue whether it is there or not (seen on 3.10.8): of what goes there, the delivery is what is copied.
//!
//! What it saw and what it sent is in a file of its own: a run that only a copy began can be told from one that the system began.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use switchyard_common::broker::{BrokerConfig, Session};
use switchyard_common::config::Secret;
use switchyard_common::contract::topology::{DEFAULT_EXCHANGE, Namespace};
use switchyard_common::guard::{GuardedTask, spawn_guarded};

use super::ledger::boot_now_ns;
use crate::sim::dice::Dice;

/// Where the broker's tracer copies to.
const TRACE_EXCHANGE: &str = "amq.rabbitmq.trace";
/// How the routing key of a trace begins: of what was published; of what was delivered.
const PUBLISHED: &str = "publish.";
/// See [`PUBLISHED`].
const DELIVERED: &str = "deliver.";
/// Marks a copy, so that it is not copied again.
const COPY_HEADER: &str = "chaos-copy";
/// Longest delay of a copy, in milliseconds.
const LATE_MAX_MS: u64 = 4_000;
/// Wait before another try when the broker is away.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// One line of the tap's file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// The message: its number among those that the tap saw.
    pub number: u64,
    /// When, by the clock of the handlers' ledger ([`boot_now_ns`]).
    pub at_ns: u64,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What a line says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// The broker showed it.
    Seen {
        /// When it was published, or when it was delivered.
        moment: Moment,
        /// The exchange that it was published to.
        exchange: String,
        /// With this routing key.
        routing_key: String,
        /// When its copy will be sent, in milliseconds from now; none when it gets none.
        copy_in_ms: Option<u64>,
        /// What it says; null if that is no JSON.
        body: Value,
    },
    /// Its copy was sent.
    Copied,
}

/// When the broker showed a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// When it was published.
    Published,
    /// When it was delivered.
    Delivered,
}

/// The tap. It ends with this value.
pub struct Tap {
    copied: Arc<AtomicU64>,
    running: GuardedTask<()>,
}

impl Tap {
    /// Begins to copy what is published in a namespace, and to write down what it does.
    ///
    /// # Errors
    /// When the file cannot be written to.
    pub fn start(amqp_url: &str, namespace: Namespace, dice: Dice, file: &Path) -> anyhow::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(file)?;
        let copied = Arc::new(AtomicU64::new(0));
        let config = BrokerConfig::new(Secret::new(amqp_url), "chaos-tap");
        let wire =
            Wire { namespace, seen: Arc::default(), copied: Arc::clone(&copied), file: Arc::new(file) };
        let running = spawn_guarded("chaos-tap", run(config, wire, dice));
        Ok(Self { copied, running })
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

/// What is tapped, and where that is told.
#[derive(Clone)]
struct Wire {
    namespace: Namespace,
    seen: Arc<AtomicU64>,
    copied: Arc<AtomicU64>,
    file: Arc<File>,
}

impl Wire {
    fn write(&self, number: u64, what: What) -> anyhow::Result<()> {
        let mut line = serde_json::to_string(&Line { number, at_ns: boot_now_ns()?, what })?;
        line.push('\n');
        // One write a line: copies are sent side by side.
        Ok((&*self.file).write_all(line.as_bytes())?)
    }

    async fn send(&self, number: u64, copy: Message, channel: &Channel) -> anyhow::Result<()> {
        copy.publish(channel).await?;
        self.copied.fetch_add(1, Ordering::Relaxed);
        self.write(number, What::Copied)
    }
}

async fn run(config: BrokerConfig, wire: Wire, mut dice: Dice) {
    loop {
        // Ends whenever the broker is away, which is what these runs are about.
        if let Ok(session) = Session::open(&config, "tap").await {
            let _until_it_is_away = copy_all(&session, &wire, &mut dice).await;
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

async fn copy_all(session: &Session, wire: &Wire, dice: &mut Dice) -> anyhow::Result<()> {
    let channel = session.channel().await?;
    let options =
        QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let queue = format!("{}.chaos-tap", wire.namespace);
    channel.queue_declare(queue.as_str().into(), options, FieldTable::default()).await?;
    let (bind, none) = (QueueBindOptions::default(), FieldTable::default());
    for shown in [PUBLISHED, DELIVERED] {
        let (queue, key) = (queue.as_str().into(), format!("{shown}#").into());
        channel.queue_bind(queue, TRACE_EXCHANGE.into(), key, bind, none.clone()).await?;
    }
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let mut traced =
        channel.basic_consume(queue.into(), "tap".into(), options, FieldTable::default()).await?;
    while let Some(delivery) = traced.next().await {
        let Some((message, trace)) = Message::of(delivery?, &wire.namespace) else { continue };
        let number = wire.seen.fetch_add(1, Ordering::Relaxed);
        let copy_in_ms = message.is_copied(&trace).then(|| dice.below(LATE_MAX_MS));
        wire.write(number, message.seen(trace.moment, copy_in_ms))?;
        let Some(copy_in_ms) = copy_in_ms else { continue };
        let (channel, wire) = (channel.clone(), wire.clone());
        drop(spawn_guarded("chaos-copy", async move {
            tokio::time::sleep(Duration::from_millis(copy_in_ms)).await;
            // The connection may have ended: then there is no copy.
            let _unless_the_connection_ended = wire.send(number, message, &channel).await;
        }));
    }
    Ok(())
}

/// What the broker tells of a message.
struct Trace {
    moment: Moment,
    /// Whether it went to any queue, as far as its exchange knows.
    is_routed: bool,
    is_redelivered: bool,
}

impl Trace {
    fn of(routing_key: &ShortString, headers: &FieldTable) -> Self {
        let moment =
            if routing_key.as_str().starts_with(DELIVERED) { Moment::Delivered } else { Moment::Published };
        let queues = match headers.inner().get("routed_queues") {
            Some(AMQPValue::FieldArray(queues)) => queues.as_slice(),
            _ => &[],
        };
        let is_redelivered = headers.inner().get("redelivered") == Some(&AMQPValue::LongInt(1));
        Self { moment, is_routed: !queues.is_empty(), is_redelivered }
    }
}

/// A message as it was published.
struct Message {
    exchange: ShortString,
    routing_key: ShortString,
    properties: BasicProperties,
    body: Vec<u8>,
}

impl Message {
    /// The message that a trace tells of, if it is one of the namespace and no copy itself. It is marked as the copy that it will be.
    fn of(trace: Delivery, namespace: &Namespace) -> Option<(Self, Trace)> {
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
        let told_of = Trace::of(&trace.routing_key, headers);
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
        let message =
            Self { exchange: exchange.into(), routing_key: routing_key.into(), properties, body: trace.data };
        Some((message, told_of))
    }

    /// Each message once: what goes by name when it is first delivered, everything else when it is published to some queue.
    fn is_copied(&self, trace: &Trace) -> bool {
        match trace.moment {
            Moment::Published => self.exchange.as_str() != DEFAULT_EXCHANGE && trace.is_routed,
            Moment::Delivered => self.exchange.as_str() == DEFAULT_EXCHANGE && !trace.is_redelivered,
        }
    }

    fn seen(&self, moment: Moment, copy_in_ms: Option<u64>) -> What {
        What::Seen {
            moment,
            exchange: self.exchange.to_string(),
            routing_key: self.routing_key.to_string(),
            copy_in_ms,
            body: serde_json::from_slice(&self.body).unwrap_or_default(),
        }
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
