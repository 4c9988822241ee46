//! What tests share.
//!
//! - [`database`]: a database of its own for each test, on the server of `SWITCHYARD_DATABASE_URL`
//! - [`letters`]: messages as they arrive on queues, and after a nack
//! - [`log_capture`]: the log lines of a test, as values
//! - [`sources`]: the project's own sources, for rules of writing
//! - [`seed`]: pools, workspaces, agents and tasks put into it without a broker

pub mod database;
pub mod events;
pub mod letters;
pub mod log_capture;
pub mod seed;
pub mod sources;
