//! Measurements: always a ratio in one run, since machines differ and drift.
//!
//! - [`chain`]: the raw three-hop chain, the most that the broker alone allows

pub mod chain;
