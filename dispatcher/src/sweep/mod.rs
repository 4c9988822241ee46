//! Sweeps: what time brings, and what a lost wake-up or message would leave behind (design 6.2, incidents 6, 8, 67).
//!
//! Each sweep is a `run_once` of [`Sweeper`] over a bounded batch; [`run`] ticks them. Any number of replicas may sweep at once.

mod notes;
pub mod once;
pub mod run;
pub mod stops;

pub use once::Sweeper;
