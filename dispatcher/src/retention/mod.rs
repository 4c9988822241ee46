//! Pruning of what is old, in small batches that never slow the rest (design 7).
//!
//! - [`policy`]: how long what is kept
//! - [`prune`]: one round over everything
//! - [`run()`]: the ticker

pub mod policy;
pub mod prune;
mod run;

pub use run::run;
