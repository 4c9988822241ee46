//! The consumers of reports and the presence of agents on a real broker.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod parts;
mod presence;
mod put_back;
mod reports;
mod retire;
mod stage;
