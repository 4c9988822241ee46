//! What tests share.
//!
//! - [`accounts`]: an account per role at the broker
//! - [`certificates`]: CAs and certificates made in the test
//! - [`cluster`]: a broker of three nodes for a test, each to be killed and started again
//! - [`cut`]: a way to a service that can be cut
//! - [`database`]: a database of its own for each test, on the server of `SWITCHYARD_DATABASE_URL`
//! - [`front`]: one way to whichever node of a cluster lives
//! - [`letters`]: messages as they arrive on queues, and after a nack
//! - [`log_capture`]: the log lines of a test, as values
//! - [`scenario`]: Switchyard as it is run, with real processes on the real broker
//! - [`secured`]: a broker and a database with TLS and a management API, once per test binary
//! - [`seed`]: pools, workspaces, agents and tasks put into it without a broker
//! - [`mutants`]: the listed patches that remove a guard each
//! - [`services`]: a broker or a database server of its own for a test, to be killed and started again
//! - [`sources`]: the project's own sources, for rules of writing
//! - [`wait`]: waiting for a condition, with a deadline

pub mod accounts;
pub mod certificates;
pub mod cluster;
pub mod cut;
pub mod database;
pub mod events;
pub mod front;
pub mod letters;
pub mod log_capture;
pub mod mutants;
pub mod scenario;
pub mod secured;
pub mod seed;
pub mod services;
pub mod sources;
mod template;
pub mod wait;
