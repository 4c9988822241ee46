//! The agent: takes one attempt after the other from its own queue, runs a handler, and says how it ended.
//!
//! - [`machine`]: every rule of the protocol that concerns an agent, without I/O
//! - [`exec`]: handlers that are programs, each under its own supervisor process

pub mod exec;
pub mod machine;
