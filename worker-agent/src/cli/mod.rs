//! The `worker-agent` binary: `run` (default) and `check`. `supervise` is for the agent itself, see [`crate::exec::supervisor`].

mod args;
mod config;
mod handlers;
mod run;

pub use args::Cli;
pub use config::ProcessConfig;
pub use run::{EXIT_CONFIG, EXIT_LEFT, run};
