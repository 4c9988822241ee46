//! Copies of every message, later than what was sent after them: the broker shows what passes through it (its tracer), and the tap
//! publishes it again after a drawn delay. So every event, report, assignment and order comes twice, and out of order; only while the tap
//! itself is away, nothing does.
//!
//! Only what a queue has had comes again: no broker delivers later what it has returned to its publisher. Of what is published to an
//! exchange with bindings the tracer tells the queues that got it. The default exchange routes by name alone, and the tracer names the
//! queue whether it is there or not (seen on 3.10.8): of what goes there, the first delivery is what is copied.
//!
//! What it saw and what it sent is in a file of its own: a run that only a copy began can be told from one that the system began.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::ensure;
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
    /// What the tap saw, by the order in which it did: a message has a number for its publish and one for each delivery.
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
        /// The queue that it was delivered from.
        queue: Option<String>,
        /// What its publisher calls it.
        message_id: Option<String>,
        /// Whether it is a copy.
        is_copy: bool,
        /// Whether it had been delivered before.
        is_redelivered: bool,
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
    wire: Wire,
    running: GuardedTask<()>,
}

impl Tap {
    /// Begins to copy what is published in a namespace, and to write down what it does.
    ///
    /// # Errors
    /// When the file cannot be written to.
    pub fn start(amqp_url: &str, namespace: Namespace, dice: Dice, file: &Path) -> anyhow::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(file)?;
        let config = BrokerConfig::new(Secret::new(amqp_url), "chaos-tap");
        let (seen, copied, failed) = (Arc::default(), Arc::default(), Arc::default());
        let wire = Wire { namespace, seen, copied, failed, file: Arc::new(file) };
        let running = spawn_guarded("chaos-tap", run(config, wire.clone(), dice));
        Ok(Self { wire, running })
    }

    /// Copies so far.
    #[must_use]
    pub fn copied(&self) -> u64 {
        self.wire.copied.load(Ordering::Relaxed)
    }

    /// No more copies from now on, but those that are on their way. Gives how many there were.
    ///
    /// # Errors
    /// When there was none, or not everything could be written down.
    pub fn stop(self) -> anyhow::Result<u64> {
        self.running.abort();
        let failed = self.wire.failed.get();
        ensure!(failed.is_none(), "the tap could not write: {}", failed.map_or("", String::as_str));
        ensure!(self.copied() > 0, "the tap has copied nothing");
        Ok(self.copied())
    }
}

/// What is tapped, and where that is told.
#[derive(Clone)]
struct Wire {
    namespace: Namespace,
    seen: Arc<AtomicU64>,
    copied: Arc<AtomicU64>,
    /// The first failure to write.
    failed: Arc<OnceLock<String>>,
    file: Arc<File>,
}

impl Wire {
    fn write(&self, number: u64, what: What) {
        let written = || {
            let mut line = serde_json::to_string(&Line { number, at_ns: boot_now_ns()?, what })?;
            line.push('\n');
            // One write a line: copies are sent side by side.
            anyhow::Ok((&*self.file).write_all(line.as_bytes())?)
        };
        if let Err(error) = written() {
            self.failed.get_or_init(|| error.to_string());
        }
    }

    async fn send(&self, number: u64, copy: Message, channel: &Channel) {
        // The connection may have ended: then there is no copy.
        if copy.publish(channel).await.is_ok() {
            self.copied.fetch_add(1, Ordering::Relaxed);
            self.write(number, What::Copied);
        }
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
        wire.write(number, message.seen(trace, copy_in_ms));
        let Some(copy_in_ms) = copy_in_ms else { continue };
        let (channel, wire) = (channel.clone(), wire.clone());
        drop(spawn_guarded("chaos-copy", async move {
            tokio::time::sleep(Duration::from_millis(copy_in_ms)).await;
            wire.send(number, message, &channel).await;
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
    /// Where it was delivered from.
    queue: Option<String>,
}

impl Trace {
    fn of(routing_key: &ShortString, headers: &FieldTable) -> Self {
        let queue = routing_key.as_str().strip_prefix(DELIVERED).map(str::to_owned);
        let moment = if queue.is_some() { Moment::Delivered } else { Moment::Published };
        let queues = match headers.inner().get("routed_queues") {
            Some(AMQPValue::FieldArray(queues)) => queues.as_slice(),
            _ => &[],
        };
        let is_redelivered = headers.inner().get("redelivered") == Some(&AMQPValue::LongInt(1));
        Self { moment, is_routed: !queues.is_empty(), is_redelivered, queue }
    }
}

/// A message as it was published.
struct Message {
    exchange: ShortString,
    routing_key: ShortString,
    properties: BasicProperties,
    body: Vec<u8>,
    is_copy: bool,
}

impl Message {
    /// The message that a trace tells of, if it is one of the namespace. It is marked as the copy that it may become.
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
        let is_copy = own.contains_key(COPY_HEADER);
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
        let (exchange, routing_key) = (exchange.into(), routing_key.into());
        Some((Self { exchange, routing_key, properties, body: trace.data, is_copy }, told_of))
    }

    /// Each message once: what goes by name when it is first delivered, everything else when it is published to some queue.
    fn is_copied(&self, trace: &Trace) -> bool {
        let goes_by_name = self.exchange.as_str() == DEFAULT_EXCHANGE;
        let is_the_moment = match trace.moment {
            Moment::Published => !goes_by_name && trace.is_routed,
            Moment::Delivered => goes_by_name && !trace.is_redelivered,
        };
        is_the_moment && !self.is_copy
    }

    fn seen(&self, trace: Trace, copy_in_ms: Option<u64>) -> What {
        What::Seen {
            moment: trace.moment,
            exchange: self.exchange.to_string(),
            routing_key: self.routing_key.to_string(),
            queue: trace.queue,
            message_id: self.properties.message_id().as_ref().map(ToString::to_string),
            is_copy: self.is_copy,
            is_redelivered: trace.is_redelivered,
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
