//! Route: each committed assignment goes to its agent's queue, mandatory and confirmed.
//!
//! [`decide`] says what a publish's outcome means (pure); [`message`] turns an assignment into what travels; [`prepare`] is what is
//! ready to be written, and until when; [`run`] publishes,
//! re-sends, takes over from dead replicas, and records confirms.

pub mod decide;
pub mod message;
mod prepare;
pub mod run;

pub use decide::{Delivery, Next, after_publish, may_send_for, resend_delay};
