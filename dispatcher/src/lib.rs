//! The dispatcher: consumes task events, decides what may run where, routes each task to one agent's queue, settles what comes back.
//!
//! Follow a task through the folders in this order: `intake` -> `schedule` (pure) -> `pass` -> `route` -> `settle` ->
//! `dead_letters`; `presence` watches the agents, `sweep` the clock; [`store`] holds every SQL statement.

pub mod accounts;
pub mod api;
pub mod audit;
pub mod cli;
pub mod config;
pub mod context;
pub mod control;
pub mod dead_letters;
pub mod intake;
pub mod notify;
pub mod pass;
pub mod presence;
pub mod readiness;
pub mod retention;
pub mod route;
pub mod schedule;
pub mod serve;
pub mod settle;
pub mod store;
pub mod sweep;
