//! The agent on a real RabbitMQ, as a library and as a program.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests fail like tests, and look for one kind of report among all"
)]

mod agent;
mod binary;
mod cuts;
mod support;
