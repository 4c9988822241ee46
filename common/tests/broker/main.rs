//! The broker client against a real RabbitMQ.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod consuming;
mod contract;
mod declaring;
mod publishing;
mod support;
