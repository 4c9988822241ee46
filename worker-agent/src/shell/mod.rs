//! The thin driver: connects the machine to the broker, the clock and the handlers. It decides nothing.
//!
//! ```text
//! agent queue ──┐                                    ┌──> outbox ──> reports exchange ──┐
//! control queue ├─> link ──> driver ──> machine ──> effects ──> settler ──> ack, nack   │
//! handlers ─────┘              ^                     └──> runner ──> handlers ──┐       │
//!                              └──────────── ended, confirmed, lost ────────────┴───────┘
//! ```
//!
//! - `driver`: the one loop; `effects` are carried out without awaiting anything, so heartbeats are never held up
//! - `link`: the consume connection; `lock`: who holds the agent's id while it is refused; `outbox`: the publish connection; `served`: whether a
//!   dispatcher serves the namespace at all; `settler`: acks and nacks
//! - `runner`: handlers in guarded tasks; `attempt_log`, `log_shipper`: their log lines
//! - `traces`: carries the trace of an attempt on into what is reported of it
//! - `clock`, `ids`: what the machine must not have itself

mod attempt_log;
mod clock;
mod driver;
mod ids;
mod limits;
mod link;
mod lock;
mod log_shipper;
mod notes;
mod outbox;
mod reports;
mod runner;
mod served;
mod settler;
mod traces;

pub(crate) use attempt_log::AttemptLog;
pub(crate) use clock::{boot_now, for_supervisor};
pub(crate) use driver::Driver;
pub use driver::Finished;
