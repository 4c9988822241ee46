//! Real programs (`sh`) under the real supervisor: how runs end, what they leave, and that nothing survives them.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "all of this is tests; clippy exempts only the test functions themselves"
)]

mod agent_lost;
mod ends;
mod fixture;
mod late_start;
mod leftovers;
mod odd_supervisor;
mod stop;
mod surroundings;
mod survivors;
mod witness;
