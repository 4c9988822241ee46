//! What the commands do.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use switchyard_common::export;
use switchyard_common::shutdown::Shutdown;

use super::args::{Cli, Command};
use super::config::ProcessConfig;
use crate::exec::task::Runner;
use crate::exec::workdir::WorkRoot;

/// Exit code for a configuration that cannot work.
pub const EXIT_CONFIG: u8 = 2;
/// Exit code when the drain was cut short and attempts were left in hand.
pub const EXIT_LEFT: u8 = 3;

/// Does what the command line says.
///
/// # Errors
/// When the process cannot do its work at all; the exit code for that is [`EXIT_CONFIG`].
pub async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let config = ProcessConfig::from_process(cli.config.as_deref())?;
    match cli.command.unwrap_or(Command::Run) {
        Command::Check => {
            check(&config)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Run => run_agent(config).await,
    }
}

#[expect(clippy::print_stdout, reason = "the answer of a command, for whoever typed it")]
fn check(config: &ProcessConfig) -> anyhow::Result<()> {
    let agent = &config.agent;
    let wrong = config.handlers.not_found(&std::env::vars_os().collect());
    if !wrong.is_empty() {
        bail!("handlers that cannot be started here:\n  {}", wrong.join("\n  "));
    }
    println!("the configuration is fine");
    println!("  agent     {}, {} slots + {} credit", agent.agent, agent.slots, agent.credit);
    println!("  broker    {}, namespace {}", agent.broker.masked_url(), agent.namespace);
    println!("  work dir  {}", config.work_dir.display());
    println!("  handlers  {}", config.handlers.describe());
    Ok(())
}

async fn run_agent(config: ProcessConfig) -> anyhow::Result<ExitCode> {
    let shutdown = Shutdown::new(config.drain_for);
    shutdown.listen_for_signals().context("cannot listen for signals")?;
    // Held to the end: it is the lock on the working directories.
    let root = if config.handlers.has_programs() { Some(open_root(&config)?) } else { None };
    let runner = root.as_ref().map(|root| Arc::new(Runner::new(root)));
    let handlers = config.handlers.make(runner.as_ref())?;
    let exports = export::start("switchyard-worker-agent")?;
    let finished = crate::agent::run(config.agent, handlers, shutdown).await;
    exports.finish().await;
    let finished = finished?;
    Ok(if finished.left_count == 0 { ExitCode::SUCCESS } else { ExitCode::from(EXIT_LEFT) })
}

fn open_root(config: &ProcessConfig) -> anyhow::Result<WorkRoot> {
    let (root, left) = WorkRoot::open(&config.work_dir)?;
    for what in left {
        tracing::warn!(what, "something of an earlier agent process could not be cleared");
    }
    Ok(root)
}
