//! The state of a task and of its attempts: one closed enum, one transition function, no I/O (design 4, protocol B and H).
//!
//! Clock and randomness come in as arguments ([`Context`]). The dispatcher loads a [`Subject`] under lock, calls [`transition`]
//! and writes what comes out; the simulation does the same against a store in memory. So whatever is decided about a task is
//! decided here, once.

mod invariant;
mod kind;
mod model;
mod place;
mod retry_delay;
mod status;
mod transition;

pub use invariant::{Violation, check, check_subject};
pub use kind::{Kind, KindError, Kinds, Step};
pub use model::{
    Approval, Assignee, Attempt, AttemptEnd, AttemptOutcome, CancelRequest, LatestArtifact, Revoke,
    RevokeReason, StepPolicy, Subject, Task,
};
pub use place::{Place, occupies_workspace, releases_workspace};
pub use retry_delay::retry_delay;
pub use status::Status;
pub use transition::{
    AssignTo, Context, Decision, Effect, Input, LossReason, Refusal, Reporter, ResolveTo, Verdict, prove,
    transition,
};
