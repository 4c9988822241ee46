//! What probes and Prometheus read of an agent, on an address that is opened only when one is configured.
//!
//! - [`vitals`]: what the driver says of itself after every turn, and what follows from it
//! - [`server`]: `/livez`, `/readyz`, `/metrics`

pub mod server;
pub mod vitals;

pub use server::Health;
pub use vitals::Vitals;
