//! HTTP, on loopback unless configured otherwise.
//!
//! - [`server`]: `/livez`, `/readyz`, `/metrics`
//! - [`gauges`]: what is counted in the database, at a slow interval

pub mod gauges;
pub mod server;

pub use server::{Api, run};
