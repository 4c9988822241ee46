//! The raw three-hop chain: event, assignment, outcome over quorum queues, with confirms, and an ack only after the confirm of what
//! was forwarded. No database, no scheduling: the most that this broker on this machine allows.
//!
//! One connection per role. `make load` runs the roles as tasks of one process, `make bench` as processes of their own.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};
use switchyard_common::contract::topology::DEFAULT_EXCHANGE;
use uuid::Uuid;

use super::probe::Writer;
use super::publish::{Flow, WINDOW_COUNT, channel, send, to_chain};

/// Longest run of all roles in one process.
const RUN_MAX: Duration = Duration::from_secs(120);
/// Queues on the way.
const HOPS: u8 = 3;

/// The queues of the chain `name`, in order.
#[must_use]
pub fn queues(name: &str) -> Vec<String> {
    (1..=HOPS).map(|hop| format!("bench.{name}.{hop}")).collect()
}

/// Runs `count` messages of `bytes` bytes through the chain and gives messages per second, from the first publish to the last
/// arrival, publishing at the same time.
///
/// # Panics
/// When the broker fails or the run takes too long.
pub async fn run(amqp_url: &str, count: usize, bytes: usize) -> f64 {
    let queues = queues(&Uuid::new_v4().simple().to_string());
    declare(amqp_url, &queues).await;
    let flow = Flow { count, per_second: None, bytes, workspaces: 1 };
    let started = Instant::now();
    let work = async {
        tokio::join!(
            to_chain(amqp_url, &queues[0], flow),
            forward(amqp_url, &queues[0], &queues[1], count, None),
            forward(amqp_url, &queues[1], &queues[2], count, None),
            sink(amqp_url, &queues[2], count, None),
        )
    };
    tokio::time::timeout(RUN_MAX, work).await.expect("the chain is done in time");
    let rate = count as f64 / started.elapsed().as_secs_f64();
    delete(amqp_url, &queues).await;
    rate
}

/// Declares the queues.
pub async fn declare(amqp_url: &str, queues: &[String]) {
    let (_connection, channel) = channel(amqp_url).await;
    for queue in queues {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.as_str().into(), options, arguments).await.expect("a queue");
    }
}

async fn delete(amqp_url: &str, queues: &[String]) {
    let (connection, channel) = channel(amqp_url).await;
    for queue in queues {
        let deleted = channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await;
        deleted.expect("the queue is deleted");
    }
    connection.close(200, "done".into()).await.expect("closed");
}

async fn consume(channel: &Channel, queue: &str) -> lapin::Consumer {
    channel.basic_qos(WINDOW_COUNT, BasicQosOptions::default()).await.expect("qos");
    let options = BasicConsumeOptions::default();
    channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await.expect("consuming")
}

/// Forwards `count` messages: each is acked when its forwarded copy is confirmed. `probe` is told of each at its arrival.
pub async fn forward(amqp_url: &str, from: &str, to: &str, count: usize, mut probe: Option<Writer>) {
    let (_connection, channel) = channel(amqp_url).await;
    let mut deliveries = consume(&channel, from).await;
    let mut in_flight = FuturesUnordered::new();
    let mut forwarded = 0;
    while forwarded < count {
        tokio::select! {
            Some(delivery) = deliveries.next() => {
                let delivery: Delivery = delivery.expect("a delivery");
                arrived(probe.as_mut(), &delivery);
                let properties = BasicProperties::default();
                let confirm = send(&channel, DEFAULT_EXCHANGE, to, properties, &delivery.data).await;
                in_flight.push(async move {
                    confirm.await.expect("confirmed");
                    delivery.acker.ack(BasicAckOptions::default()).await.expect("acked");
                });
            }
            Some(()) = in_flight.next(), if !in_flight.is_empty() => forwarded += 1,
            else => panic!("the consumer has ended"),
        }
    }
}

/// Takes `count` messages. `probe` is told of each at its arrival.
pub async fn sink(amqp_url: &str, queue: &str, count: usize, mut probe: Option<Writer>) {
    let (_connection, channel) = channel(amqp_url).await;
    let mut deliveries = consume(&channel, queue).await;
    for _ in 0..count {
        let delivery = deliveries.next().await.expect("the consumer goes on").expect("a delivery");
        arrived(probe.as_mut(), &delivery);
        delivery.acker.ack(BasicAckOptions::default()).await.expect("acked");
    }
}

fn arrived(probe: Option<&mut Writer>, delivery: &Delivery) {
    if let Some(probe) = probe {
        let sent_ns = delivery.data.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        probe.starts(sent_ns).expect("the probe is written");
    }
}
