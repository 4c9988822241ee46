//! Scheduling as a pure function: a snapshot in, placements and readable reasons out. No I/O, no clock but its argument.
//!
//! [`snapshot`] says what is looked at, [`capacity`] which classes of tasks could be served at all, [`plan`](mod@plan) who gets what,
//! [`explain`] why a task does not run.

pub mod capacity;
pub mod explain;
pub mod plan;
pub mod snapshot;

pub use capacity::{ClassLimit, classes_with_capacity};
pub use explain::{TaskView, WaitingOn, waiting_on};
pub use plan::{Detail, Placement, Plan, plan};
pub use snapshot::{AgentView, Candidate, Class, Pause, PoolView, QUIET_AFTER_FENCE, SkipReason, Snapshot};
