//! Intake: events in, stored commands and answers out.
//!
//! [`admit`](mod@admit) decides what can be decided without a database (pure); [`command`] is what an event asks for then; [`run`] consumes,
//! stores in batches, acks after the commit; [`answer`] tells the publisher. `alone` handles what comes back again and again, [`deliveries`] says what that is (pure), `trials` keeps count. [`new_task`](mod@new_task) is the birth of a task (pure).

pub mod admit;
mod alone;
pub mod answer;
pub mod command;
pub mod deliveries;
pub mod new_task;
pub mod run;
mod trials;
