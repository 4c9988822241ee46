//! The agent as a state machine without I/O: every rule of the protocol that concerns an agent, in one place that a simulation can
//! drive (protocol B4 to B7, C2, C3, C5, C6, F1, G).
//!
//! ```text
//! Input ──> Machine::handle(now, input) ──> Vec<Effect>
//!
//! one attempt:   Waiting ──> Running ──> Leaving ──> Reporting ──> tombstone
//!                   │  └──> Asking ──┘   (its parts)  (its outcome)   (acked or nacked)
//!                   └── refused: not_started ────────────┘
//! ```
//!
//! - [`core`](self::core): the machine, its inputs, its bookkeeping of reports
//! - `deliver`: what arrives on the agent's own queue; `orders`: what arrives on the control queue
//! - `start`: slots, the two-phase start; `finish`: artifacts, outcome, then ack or nack
//! - `presence`: hello, heartbeats, silence; `session`: ends of sessions, draining
//! - `timers`: what is due; `hand`, `parts`, `tombstone`: what is remembered
//!
//! The machine knows no clock, no randomness and no connection: time comes with each input, ids from an [`IdSource`].

mod attempt_id;
mod core;
mod deliver;
mod finish;
mod hand;
pub mod limits;
mod message;
mod note;
mod orders;
mod parts;
mod presence;
mod session;
mod settings;
mod start;
mod time;
mod timers;
mod tombstone;

#[cfg(test)]
mod tests;

pub use self::core::Machine;
pub use attempt_id::AttemptId;
pub use message::{Body, Effect, HandlerEnd, IdSource, Input, Publish, ReportId, Start, Tag};
pub use note::{Level, Note, SessionEnd, What};
pub use settings::{Settings, SettingsError};
pub use time::{BootTime, Now};
