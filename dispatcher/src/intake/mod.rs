//! Intake: events in, stored commands and answers out.
//!
//! [`command`] is what an event asks for once it is admitted.

pub mod command;
