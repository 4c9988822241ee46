//! The command line: one file per group of commands.

mod agents;
mod args;
mod audit;
mod broker;
mod connect;
mod dead_letters;
mod migrate;
mod output;
mod pause;
mod pools;
mod publish;
mod serve;
mod tasks;

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
        Command::Broker(broker) => broker::run(broker).await,
        Command::Migrate => migrate::run().await,
        Command::Publish(publish) => publish::run(*publish).await,
        Command::Tasks(tasks) => tasks::run(tasks).await,
        Command::Agents(agents) => agents::run(agents).await,
        Command::Workspaces(workspaces) => agents::run_workspaces(workspaces).await,
        Command::DeadLetters(letters) => dead_letters::run(letters).await,
        Command::Pools(pools) => pools::run(pools).await,
        Command::Pause(pause) => pause::run(pause, false).await,
        Command::Resume(resume) => pause::run(resume, true).await,
        Command::Audit(audit) => audit::run(audit).await,
        Command::Fence(fence) => pause::fence(fence).await,
    }
}
