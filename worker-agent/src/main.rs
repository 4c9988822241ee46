//! worker-agent: see [`switchyard_worker_agent::cli`].

use std::process::ExitCode;

use clap::Parser as _;
use switchyard_worker_agent::cli;

fn main() -> ExitCode {
    // Before anything else: a supervisor has one thread and no runtime.
    if let Some(code) = switchyard_worker_agent::exec::supervisor::main_if_asked() {
        return code;
    }
    let arguments = cli::Cli::parse();
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            ExitCode::from(cli::EXIT_CONFIG)
        }
    }
}

fn run(arguments: cli::Cli) -> anyhow::Result<ExitCode> {
    switchyard_common::telemetry::init()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let code = runtime.block_on(cli::run(arguments));
    // A handler that blocks its thread must not keep a process alive that has said its last word.
    runtime.shutdown_background();
    code
}

#[expect(
    clippy::print_stderr,
    reason = "the last word of a program that ends, for whoever typed the command"
)]
fn report(error: &anyhow::Error) {
    eprintln!("worker-agent: {error:#}");
}
