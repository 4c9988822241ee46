//! The broker: what is declared there, and the client for RabbitMQ.
//!
//! - [`topology`]: exchanges, queues and bindings as plain data; [`declare`] puts them on the broker.
//! - [`Publisher`]: confirmed publishing, on a supervised connection of its own. The outcome of every publish is one of
//!   four ([`PublishOutcome`]), and "returned" is never mistaken for "acked".
//! - [`ConsumeConnection`]: subscriptions, on another connection (a broker that blocks publishers must not stop acks).
//!   A subscription says when it lost its channel and when it consumes again; acks of lost deliveries are harmless.
//! - [`Session`]: one unsupervised connection, for tools and tests.
//! - [`raw`]: bytes of the broker read as a session reads them, without a connection: for the fuzz targets.
//! - [`headers`]: header values, `x-death` and the delivery count, read within bounds.
//!
//! No type of the client library appears in the interface.
//!
//! ```no_run
//! use std::sync::Arc;
//! use switchyard_common::broker::{
//!     BrokerConfig, ConsumeConnection, ConsumerEvent, Outgoing, PublishOutcome, Publisher, Properties, Subscription,
//!     ack_all, declare, topology::Topology,
//! };
//! use switchyard_common::config::Secret;
//!
//! # async fn example(topology: Topology) -> Result<(), Box<dyn std::error::Error>> {
//! let config = BrokerConfig::new(Secret::new("amqp://user:password@localhost/%2f"), "dispatcher-0");
//!
//! // Publishing. Starts at once, connects in the background, waits for the connection when there is none.
//! let publisher = Publisher::start(&config, "publish")?;
//! let properties = Properties::persistent("application/json");
//! let message = Outgoing::new("", "switchyard.agent.pool-a.agent-1", properties, b"{}".to_vec(), true)?;
//! match publisher.publish(message).await {
//!     PublishOutcome::Acked => {}                          // the broker has it
//!     PublishOutcome::Returned { code, text } => {}        // no such queue: nothing was delivered
//!     PublishOutcome::Nacked => {}                         // the queue is full
//!     PublishOutcome::Lost(reason) => {}                   // not sent, or sent and not confirmed
//! }
//!
//! // Consuming. The setup runs on every new connection: exclusive queues vanish with the old one.
//! let topology = Arc::new(topology);
//! let connection = ConsumeConnection::start(&config, "consume", Arc::new(move |session| {
//!     let topology = Arc::clone(&topology);
//!     Box::pin(async move { declare(&session, &topology).await })
//! }))?;
//! let mut events = connection.subscribe(Subscription::new("switchyard.events", 200));
//! let control = events.handle(); // control.hold() while the database is away, control.resume() afterwards
//! while let Some(event) = events.next().await {
//!     match event {
//!         ConsumerEvent::Ready { generation } => {}        // consuming; what was in hand before is void
//!         ConsumerEvent::Lost { fault } => {}              // 406, 405, connection lost ...; it comes back by itself
//!         ConsumerEvent::Delivery(first) => {
//!             let mut batch = vec![first.acker];           // first.message is the message
//!             while let Some(more) = events.try_delivery() {
//!                 batch.push(more.acker);
//!             }
//!             // ... commit, then:
//!             let counts = ack_all(batch).await;           // counts.stale will be delivered again
//!         }
//!     }
//! }
//! # Ok(()) }
//! ```

mod acker;
mod confirms;
mod consume_link;
mod consumer;
mod control;
mod declare;
mod fault;
mod flight;
pub mod headers;
pub mod limits;
mod message;
mod publish_link;
mod publisher;
mod reconnect;
mod refusals;
mod request;
mod session;
mod settings;
mod silence;
mod state;
mod subscription;
pub mod topology;

pub use acker::{AckCounts, AckResult, Acker, ack_all};
pub use consumer::{
    ConsumeConnection, ConsumerEvent, ConsumerStream, Incoming, Setup, Subscription, SubscriptionHandle,
};
pub use declare::{DeclareError, QueueCounts, declare, delete_queue, purge_queue, queue_counts};
pub use fault::{Fault, code};
pub use message::{Message, Outgoing, OutgoingError, Properties};
pub use publisher::{LostReason, PublishOutcome, Publisher};
pub use request::{RequestError, Requester};
pub use session::raw;
pub use session::{OpenError, Session};
pub use settings::{BrokerConfig, BrokerConfigError};
pub use silence::WhenSilent;
pub use state::ConnectionState;
