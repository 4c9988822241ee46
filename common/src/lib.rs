//! What the dispatcher and the agents share.
//!
//! - [`broker`]: everything about RabbitMQ that both sides need
//! - [`contract`]: every message on the wire, the ids and limits in them, the broker topology as data
//! - [`task`]: the state of a task and of its attempts, and the one transition function
//! - [`failure`]: why an attempt or an event failed, bounded and ready to store
//! - [`config`]: typed configuration and secrets
//! - [`guard`]: spawning of tasks and threads, capture of panics, supervision
//! - [`shutdown`], [`retry`]: how things stop, and how they try again
//! - [`telemetry`]: logs, metrics, trace context
//! - [`export`]: spans to OpenTelemetry and panics to Sentry, where configured
//! - [`text`]: bounds on text from outside

pub mod broker;
pub mod config;
pub mod contract;
pub mod export;
pub mod failure;
pub mod guard;
pub mod retry;
pub mod shutdown;
pub mod task;
pub mod telemetry;
pub mod text;
pub mod tls;
