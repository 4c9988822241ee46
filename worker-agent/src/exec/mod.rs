//! Runs a handler that is a program: from the TOML that names it to a typed result.
//!
//! ```text
//! config ──► spec ─┐
//!                  ├─► program::run_program ──► result::ProgramResult
//! task ────────────┘        │
//!    workdir      one directory per attempt: task file, verified inputs, artifact directory
//!    environment  cleared, then the allow-list, the fixed values and the contract's own names
//!    connection   the agent's end of the supervisor: starts it, asks it, hears it
//!    supervisor   the process between the agent and the program (protocol C4)
//!    logs         lines ─► mask ─► bounded queue ─► LogSink, with gapless sequence numbers
//!    artifacts    what the program left, checked and bounded
//!    find         where the program of a handler is, asked before anything runs it
//!    orphans      what has to be killed when a supervisor was itself killed
//! ```
//!
//! Types here are plain: nothing knows the broker or the contract's messages, so that all of it can be tested with `sh`.

pub mod artifacts;
mod blocking;
pub mod boot_clock;
pub mod config;
mod connection;
pub mod environment;
pub mod find;
mod judge;
pub mod limits;
pub mod lines;
pub mod logs;
pub mod mask;
pub mod orphans;
mod proc_table;
pub mod program;
pub mod result;
pub mod spec;
pub mod supervisor;
pub mod task;
pub mod workdir;
