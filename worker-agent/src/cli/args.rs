//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Runs handlers for the tasks that a Switchyard dispatcher assigns to this agent.
///
/// Settings come from the environment and from the TOML file of --config: SWITCHYARD_AMQP_URL (or ..._FILE), SWITCHYARD_NAMESPACE,
/// SWITCHYARD_POOL, SWITCHYARD_AGENT_ID (default POD_NAME, then the host's name), SWITCHYARD_SLOTS, SWITCHYARD_CREDIT,
/// SWITCHYARD_MAX_EXCLUSIVE, SWITCHYARD_HEARTBEAT, SWITCHYARD_AGENT_LOST_AFTER, SWITCHYARD_START_WINDOW, SWITCHYARD_DRAIN_FOR,
/// SWITCHYARD_WORK_DIR; logs by SWITCHYARD_LOG (json, human) and RUST_LOG.
#[derive(Debug, Parser)]
#[command(name = "worker-agent", version, about)]
pub struct Cli {
    /// TOML file with the handlers.
    #[arg(long, value_name = "FILE", env = "SWITCHYARD_HANDLERS", global = true)]
    pub config: Option<PathBuf>,
    /// What to do; without one: run.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Take work until SIGTERM or SIGINT; then finish what runs. A second signal ends at once.
    Run,
    /// Check the configuration, and that the program of each handler can be started here; say what it comes to.
    Check,
}
