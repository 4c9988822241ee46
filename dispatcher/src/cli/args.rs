//! What can be typed.

use clap::{Parser, Subcommand};

use super::agents::{Agents, Workspaces};
use super::audit::Audit;
use super::broker::Broker;
use super::dead_letters::DeadLetters;
use super::pause::{Fence, PauseArgs};
use super::pools::Pools;
use super::publish::Publish;
use super::tasks::Tasks;

/// Switchyard's dispatcher: routes each task to one agent's queue, and explains every failure.
#[derive(Debug, Parser)]
#[command(name = "dispatcher", version, about, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the dispatcher until SIGTERM. Any number of replicas may serve one broker and database.
    Serve,
    /// Bring the database's schema up to date. Does nothing where it is.
    Migrate,
    /// Prepare the broker: an account per role.
    #[command(subcommand)]
    Broker(Broker),
    /// Publish an event and wait until it is accepted or rejected.
    Publish(Box<Publish>),
    /// Look at tasks, and act on them.
    #[command(subcommand)]
    Tasks(Tasks),
    /// Look at agents.
    #[command(subcommand)]
    Agents(Agents),
    /// Look at workspaces.
    #[command(subcommand)]
    Workspaces(Workspaces),
    /// Look at dead letters, and resolve them.
    #[command(subcommand)]
    DeadLetters(DeadLetters),
    /// Look at pools, and take away or give back what their agents may do.
    #[command(subcommand)]
    Pools(Pools),
    /// Assign nothing to a pool, an agent or a workspace until it is resumed. What runs goes on.
    Pause(PauseArgs),
    /// End the pause of a pool, an agent or a workspace: what waits in it may be assigned again.
    Resume(PauseArgs),
    /// Check every invariant; print what breaks one, and exit non-zero.
    Audit(Audit),
    /// After a restore from an older copy: refuse every older session and attempt.
    Fence(Fence),
}
