//! Presence: which agents live, which session of each is current, and when silence is a loss (protocol A2, C).
//!
//! - [`judge`]: may this replica declare losses now? Pure.

pub mod judge;
