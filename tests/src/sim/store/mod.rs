//! The store in memory: the tables of the schema, changed only as the production store changes them, and held to the constraints of
//! the schema after every write.
//!
//! Rows are in [`tables`]. [`apply`] locks, loads, decides, writes and promotes through the production transition function, and
//! [`constraints`] refuses what the schema would refuse. [`intake`] stores events, [`pass`] is what a pass reads, [`publishing`]
//! assignments and confirms, [`presence`] agents and sessions, [`operate`] pauses and fences, [`letters`] dead letters, [`due`] what the clock brings up.

pub mod apply;
pub mod constraints;
pub mod due;
pub mod intake;
pub mod letters;
pub mod operate;
pub mod pass;
pub mod presence;
pub mod publishing;
pub mod tables;

pub use due::Due;
pub use letters::Letter;
pub use tables::{AgentRow, AttemptRow, SessionRow, Store, TaskRow, clock, millis_between};
