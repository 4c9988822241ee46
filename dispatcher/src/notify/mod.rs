//! Telling upstream what happened to tasks: the outbox is published in order per task, then deleted.
//!
//! - [`waves`]: which notifications may be on their way at the same time; pure
//! - [`run()`]: lease, publish, delete

pub mod run;
pub mod waves;

pub use run::run;
