//! The command line: one file per group of commands.

mod args;
mod migrate;
mod serve;

pub use args::Cli;

use std::process::ExitCode;

use args::Command;

/// Runs the command that the arguments name.
///
/// # Errors
/// Whatever kept it from doing its work; main prints it and exits non-zero.
pub async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Serve => serve::run().await,
        Command::Migrate => migrate::run().await,
    }
}
