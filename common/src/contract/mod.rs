//! The messages that travel between upstream services, the dispatcher and the agents.
//!
//! One type per message, one serde form per type. Follow a task through the files in this order:
//! [`event`] (upstream asks) -> [`answer`] (accepted or rejected) -> [`assignment`] (dispatcher to agent) ->
//! [`control`] and [`report`] (the two of them talk) -> [`notification`] (upstream is told).
//! [`topology`] says over which exchanges and queues they travel, [`routing`] how a report names its sender.

pub mod access;
pub mod answer;
pub mod artifact;
pub mod assignment;
pub mod cloudevent;
pub mod control;
pub mod event;
pub mod ids;
pub mod limits;
pub mod notification;
pub mod parse;
pub mod report;
pub mod routing;
pub mod schema;
pub mod topology;
