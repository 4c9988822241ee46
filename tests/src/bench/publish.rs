//! Our own publisher, for the chain and for Switchyard: persistent, mandatory, confirmed, a window of messages on their way, as fast as
//! that allows or at a steady rate.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::json;
use switchyard_common::contract::cloudevent::{CloudEvent, STRUCTURED_CONTENT_TYPE};
use switchyard_common::contract::event::EventType;
use switchyard_common::contract::topology::{DEFAULT_EXCHANGE, Namespace};
use tokio::time::Instant;

use super::probe::now_ns;

/// Messages on their way at most, per hop.
pub const WINDOW_COUNT: u16 = 1_000;
const PERSISTENT: u8 = 2;

/// How much is published, and how fast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Flow {
    /// Messages.
    pub count: usize,
    /// Messages per second; none = as fast as the window allows.
    pub per_second: Option<f64>,
    /// Bytes of a message, about.
    pub bytes: usize,
    /// Workspaces that the tasks are spread over.
    pub workspaces: usize,
}

/// Connects, with confirms.
pub async fn channel(amqp_url: &str) -> (Connection, Channel) {
    let connection =
        Connection::connect(amqp_url, ConnectionProperties::default()).await.expect("the broker is reached");
    let channel = connection.create_channel().await.expect("a channel");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    (connection, channel)
}

/// Publishes one message and gives the wait for its confirm.
pub async fn send(
    channel: &Channel,
    exchange: &str,
    key: &str,
    properties: BasicProperties,
    body: &[u8],
) -> impl Future<Output = lapin::Result<lapin::Confirmation>> + use<> {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let properties = properties.with_delivery_mode(PERSISTENT);
    channel.basic_publish(exchange.into(), key.into(), options, body, properties).await.expect("published")
}

/// Publishes messages of the chain into `queue`: the time of the publish, then padding.
pub async fn to_chain(amqp_url: &str, queue: &str, flow: Flow) {
    let body = |_| {
        let mut body = now_ns().to_le_bytes().to_vec();
        body.resize(flow.bytes.max(body.len()), b'x');
        body
    };
    run(amqp_url, DEFAULT_EXCHANGE, queue, &BasicProperties::default(), flow, body).await;
}

/// Publishes submitted tasks of `kind` for Switchyard's pool [`POOL`].
pub async fn to_switchyard(amqp_url: &str, namespace: &Namespace, kind: &str, flow: Flow) {
    let run_id = uuid::Uuid::new_v4().simple().to_string();
    let bare = event(&run_id, kind, 0, 0, flow.workspaces, "").len();
    let padding = "x".repeat(flow.bytes.saturating_sub(bare));
    let body = |number| event(&run_id, kind, number, now_ns(), flow.workspaces, &padding);
    let properties = BasicProperties::default().with_content_type(STRUCTURED_CONTENT_TYPE.into());
    let key = EventType::TaskSubmitted.as_str();
    run(amqp_url, &namespace.events_exchange(), key, &properties, flow, body).await;
}

/// The pool of every task.
pub const POOL: &str = "bench";

fn event(run: &str, kind: &str, number: usize, sent_ns: u64, workspaces: usize, padding: &str) -> Vec<u8> {
    let data = json!({
        "workspace_id": format!("ws-{}", number % workspaces), "pool": POOL, "kind": kind,
        "payload": { "sent_ns": sent_ns, "padding": padding },
        "auto_approve": (kind == "plan_and_apply").then_some(true),
    });
    let event = CloudEvent::new(format!("{run}-{number}"), "/bench", EventType::TaskSubmitted.as_str(), data);
    serde_json::to_vec(&event).expect("an event is JSON")
}

async fn run(
    amqp_url: &str,
    exchange: &str,
    key: &str,
    properties: &BasicProperties,
    flow: Flow,
    mut body: impl FnMut(usize) -> Vec<u8>,
) {
    let (_connection, channel) = channel(amqp_url).await;
    let began = Instant::now();
    let mut in_flight = FuturesUnordered::new();
    for number in 0..flow.count {
        if in_flight.len() >= usize::from(WINDOW_COUNT) {
            taken(in_flight.next().await);
        }
        if let Some(per_second) = flow.per_second {
            tokio::time::sleep_until(began + Duration::from_secs_f64(number as f64 / per_second)).await;
        }
        in_flight.push(send(&channel, exchange, key, properties.clone(), &body(number)).await);
    }
    while let Some(confirm) = in_flight.next().await {
        taken(Some(confirm));
    }
}

/// The broker has it in a queue: a returned message is acked as well, so the kind of the ack is looked at.
fn taken(confirm: Option<lapin::Result<lapin::Confirmation>>) {
    let confirm = confirm.expect("something is on its way").expect("the broker answers");
    assert!(matches!(confirm, lapin::Confirmation::Ack(None)), "a message was not taken: {confirm:?}");
}
