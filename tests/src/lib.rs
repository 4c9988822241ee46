//! Harness, simulation, end-to-end scenarios, incidents, benchmarks and measures of liveness of Switchyard.

#[expect(clippy::expect_used, reason = "a measurement that cannot be made must stop")]
pub mod bench;
pub mod chaos;
#[expect(
    clippy::expect_used,
    clippy::panic,
    reason = "part of the tests: a panic is how a target finds something"
)]
pub mod fuzz;
#[expect(clippy::expect_used, clippy::panic, reason = "part of the tests: a panic is how a test fails")]
pub mod harness;
pub mod liveness;
pub mod sim;
