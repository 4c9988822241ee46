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

/// The error with its causes; most say what caused them already, and nothing is said twice.
fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[expect(
    clippy::print_stderr,
    reason = "the last word of a program that ends, for whoever typed the command"
)]
fn report(error: &anyhow::Error) {
    eprintln!("dispatcher: {}", told(error));
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let cause = std::io::Error::other("no route");
        assert_eq!(told(&anyhow::Error::from(cause).context("away")), "away: no route");
        let cause = std::io::Error::other("no route");
        let twice: anyhow::Result<()> = Err(cause).context("the broker failed: no route");
        assert_eq!(twice.map_err(|error| told(&error)), Err("the broker failed: no route".to_owned()));
    }
}
