//! The store: every SQL statement of Switchyard, behind typed functions.
//!
//! Writers of task state go through [`apply`] alone: it locks in the order of protocol E1 (workspaces, tasks, attempts), loads,
//! calls the pure transition function, and writes the results with a fence, in one batch each.

pub mod act;
pub mod agents;
pub mod apply;
pub mod artifacts;
pub mod counts;
pub mod db;
pub mod error;
pub mod grants;
pub mod growth;
pub mod intake;
pub mod left_files;
pub mod letters;
pub mod listen;
mod locks;
pub mod logs;
pub mod migrate;
pub mod notes;
pub mod notify;
pub mod operate;
pub mod outbox;
pub mod pass;
pub mod plans;
pub mod presence;
pub mod prune;
mod refusals;
pub mod replicas;
pub mod reports;
pub mod route;
pub(crate) mod rows;
mod save;
mod steps;
pub mod sweep;
pub mod timeline;
mod tls;
pub mod trials;
pub mod view;

pub use apply::{Applied, Applier, Named, apply};
pub use db::{Db, DbConfig, Plans, Transaction};
pub use error::StoreError;
