//! The dispatcher program.

use std::process::ExitCode;

use clap::Parser;
use switchyard_dispatcher::cli;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = cli::Cli::parse();
    switchyard_common::guard::install_panic_hook();
    if let Err(error) = switchyard_common::telemetry::init() {
        report(&error.into());
        return ExitCode::from(2);
    }
    match cli::run(arguments).await {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the last word of a program that ends, for whoever typed the command"
)]
fn report(error: &anyhow::Error) {
    eprintln!("dispatcher: {error:#}");
}
