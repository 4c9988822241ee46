//! HTTP, on loopback unless configured otherwise.
//!
//! - [`server`]: `/livez`, `/readyz`, `/metrics`
//! - `/api/v1`: [`access`] says who may read it; `artifacts`: what steps have left
//! - [`gauges`]: what is counted in the database, at a slow interval

pub mod access;
mod artifacts;
pub mod gauges;
pub mod server;
pub mod tokens;

pub use server::{Api, run};
