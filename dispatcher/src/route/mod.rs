//! Route: each committed assignment goes to its agent's queue, mandatory and confirmed.
//!
//! [`run`] hands over batches, re-sends, takes over from dead replicas, and records confirms; [`batch`] publishes one, in the
//! [`slices`] and within the [`budget`] that memory allows; [`message`] turns an assignment into what travels; [`prepare`] is what is ready to be written, and
//! until when; [`decide`] says what a publish's outcome means (pure).

mod batch;
pub mod budget;
pub mod decide;
pub mod message;
mod prepare;
pub mod run;
mod slices;

pub use decide::{Delivery, Next, after_publish, may_send_for, resend_delay};
