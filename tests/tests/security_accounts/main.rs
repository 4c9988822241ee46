//! The permission matrix: every role against every exchange and queue of a namespace, on the real broker. What is expected is written here by
//! hand, from SECURITY.md, so that a pattern that allows more than was meant is seen.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "all of this is tests; clippy exempts only the test functions themselves"
)]

mod acts;
mod forging;
mod matrix;
mod stage;
