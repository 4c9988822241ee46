//! The raw three-hop chain: event, assignment, outcome over quorum queues, with confirms, and an ack only after the confirm of what
//! was forwarded. No database, no scheduling: the most that this broker on this machine allows.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use uuid::Uuid;

/// Messages in flight per hop.
const WINDOW_COUNT: u16 = 1_000;
/// Longest run.
const RUN_MAX: Duration = Duration::from_secs(120);

/// Runs `count` messages of `bytes` bytes through the chain and gives messages per second, from the first publish to the last
/// arrival, publishing at the same time.
///
/// # Panics
/// When the broker fails or the run takes too long.
pub async fn run(amqp_url: &str, count: usize, bytes: usize) -> f64 {
    let name = Uuid::new_v4().simple().to_string();
    let queues: Vec<String> = (1..=3).map(|hop| format!("bench.{name}.{hop}")).collect();
    let setup = channel(amqp_url).await;
    for queue in &queues {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        setup.1.queue_declare(queue.as_str().into(), options, arguments).await.expect("a queue");
    }
    let started = Instant::now();
    let work = async {
        tokio::join!(
            publish(amqp_url, &queues[0], count, bytes),
            forward(amqp_url, &queues[0], &queues[1], count),
            forward(amqp_url, &queues[1], &queues[2], count),
            sink(amqp_url, &queues[2], count),
        )
    };
    tokio::time::timeout(RUN_MAX, work).await.expect("the chain is done in time");
    let rate = count as f64 / started.elapsed().as_secs_f64();
    for queue in &queues {
        let deleted = setup.1.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await;
        deleted.expect("the queue is deleted");
    }
    setup.0.close(200, "done".into()).await.expect("closed");
    rate
}

async fn channel(amqp_url: &str) -> (Connection, Channel) {
    let connection =
        Connection::connect(amqp_url, ConnectionProperties::default()).await.expect("the broker is reached");
    let channel = connection.create_channel().await.expect("a channel");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    (connection, channel)
}

async fn send(
    channel: &Channel,
    queue: &str,
    body: &[u8],
) -> impl Future<Output = lapin::Result<lapin::Confirmation>> + use<> {
    let properties = BasicProperties::default().with_delivery_mode(2);
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    channel.basic_publish("".into(), queue.into(), options, body, properties).await.expect("published")
}

async fn publish(amqp_url: &str, queue: &str, count: usize, bytes: usize) {
    let (_connection, channel) = channel(amqp_url).await;
    let body = vec![b'x'; bytes];
    let mut in_flight = FuturesUnordered::new();
    for _ in 0..count {
        if in_flight.len() >= usize::from(WINDOW_COUNT) {
            in_flight.next().await;
        }
        in_flight.push(send(&channel, queue, &body).await);
    }
    while in_flight.next().await.is_some() {}
}

async fn consume(channel: &Channel, queue: &str) -> lapin::Consumer {
    channel.basic_qos(WINDOW_COUNT, BasicQosOptions::default()).await.expect("qos");
    let options = BasicConsumeOptions::default();
    channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await.expect("consuming")
}

async fn forward(amqp_url: &str, from: &str, to: &str, count: usize) {
    let (_connection, channel) = channel(amqp_url).await;
    let mut deliveries = consume(&channel, from).await;
    let mut in_flight = FuturesUnordered::new();
    let mut forwarded = 0;
    while forwarded < count {
        tokio::select! {
            Some(delivery) = deliveries.next() => {
                let delivery: Delivery = delivery.expect("a delivery");
                let confirm = send(&channel, to, &delivery.data).await;
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

async fn sink(amqp_url: &str, queue: &str, count: usize) {
    let (_connection, channel) = channel(amqp_url).await;
    let mut deliveries = consume(&channel, queue).await;
    for _ in 0..count {
        let delivery = deliveries.next().await.expect("the consumer goes on").expect("a delivery");
        delivery.acker.ack(BasicAckOptions::default()).await.expect("acked");
    }
}
