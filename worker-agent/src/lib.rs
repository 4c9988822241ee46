//! The worker agent.

pub mod exec;
