//! What can be typed.

use clap::{Parser, Subcommand};

/// Switchyard's dispatcher: routes each task to one agent's queue, and explains every failure.
#[derive(Debug, Parser)]
#[command(name = "dispatcher", version, about, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the dispatcher until SIGTERM. Any number of replicas may serve one broker and database.
    Serve,
    /// Bring the database's schema up to date. Does nothing where it is.
    Migrate,
}
