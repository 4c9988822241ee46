//! What the dispatcher and the agents share.
//!
//! - [`broker`]: everything about RabbitMQ that both sides need
//! - [`contract`]: every message on the wire, the ids and limits in them, the broker topology as data
//! - [`task`]: the state of a task and of its attempts, and the one transition function
//! - [`failure`]: why an attempt or an event failed, bounded and ready to store

pub mod broker;
pub mod contract;
pub mod failure;
pub mod task;
