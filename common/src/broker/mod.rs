//! The broker: what is declared there.
//!
//! - [`topology`]: exchanges, queues and bindings as plain data

pub mod topology;
