//! `dispatcher audit`: the invariants of design 10 that SQL can state, as queries. A row is a state that nobody can explain.
//!
//! - [`checks`]: every query, named and explained
//! - [`readable`]: what no query can find, rows that this program cannot read
//! - [`run()`]: all of them in one snapshot

mod agents;
pub mod checks;
mod letters;
mod readable;
mod run;
mod tasks;

pub use checks::{Check, all};
pub use run::{Finding, OFFENDERS_MAX_COUNT, run};
