//! A scheduling pass: lock the pool, load a snapshot, plan (pure), assign in the same transaction, hand over to route.
//!
//! [`once`] is one pass; [`run`] keeps one ticker per pool; [`wake`] is how everything else asks for a pass; [`broker_gate`]
//! holds passes back while the broker is away; [`at_once`] is what intake assigns in its own transaction; [`narrate`] writes the log
//! lines that operators rely on.

pub mod at_once;
mod broker_gate;
pub mod listen;
mod narrate;
pub mod once;
pub mod run;
pub mod wake;

pub use at_once::Assigner;
pub use once::{PassEnd, PassReport, run_once};
pub use wake::Wake;
