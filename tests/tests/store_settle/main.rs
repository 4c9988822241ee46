//! Settle, presence and the sweeps on a real PostgreSQL, without a broker: reports go in as bytes, orders come out of a channel.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod acts;
mod agents;
mod artifacts;
mod logs;
mod outcomes;
mod poison;
mod starts;
mod sweeps;
mod world;
