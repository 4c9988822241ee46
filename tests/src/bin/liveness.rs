//! `make liveness`: how long work is still when agents, dispatchers, the broker or the database fail, each measured several times. Exits
//! with 1 when the worst of a figure exceeds its bound. Needs the programs beside it, and the services of `SWITCHYARD_AMQP_URL` and
//! `SWITCHYARD_DATABASE_URL`; those that are killed are started for it.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use switchyard_tests::liveness::Group;
use switchyard_tests::liveness::figure::{Figure, table};

/// How long work is still when agents, dispatchers, broker or database fail: median and worst, each beside its bound.
///
/// Needs the programs beside it and the services of `make up`. Exits with 1 when a worst exceeds its bound.
#[derive(Debug, Parser)]
struct Arguments {
    /// How often each figure is measured.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Prints all values as JSON in place of a table.
    #[arg(long)]
    json: bool,
    /// loss, return, takeover, rolling, drain, outage; all of them unless named.
    #[arg(value_name = "GROUP", value_parser = group)]
    groups: Vec<Group>,
}

fn group(word: &str) -> Result<Group, String> {
    let words = || Group::ALL.map(Group::word).join(", ");
    Group::ALL.into_iter().find(|group| group.word() == word).ok_or_else(|| format!("there are: {}", words()))
}

// One thread: programs are killed by the kernel when the thread that started them ends.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let groups = if arguments.groups.is_empty() { Group::ALL.to_vec() } else { arguments.groups };
    let mut figures: Vec<Figure> = Vec::new();
    for (done, group) in groups.iter().enumerate() {
        tell(&format!("{} ({} of {} groups)", group.word(), done + 1, groups.len()));
        let measured = group.measure(arguments.rounds as usize).await;
        figures.extend(measured.with_context(|| format!("while measuring {}", group.word()))?);
    }
    let all_hold = figures.iter().all(Figure::holds);
    say(&if arguments.json { serde_json::to_string_pretty(&figures)? } else { table(&figures) });
    Ok(if all_hold { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Progress, apart from the result.
#[expect(clippy::print_stderr, reason = "a program for people")]
fn tell(text: &str) {
    eprintln!("measuring: {text}");
}

#[expect(clippy::print_stdout, reason = "a program for people")]
fn say(text: &str) {
    println!("{text}");
}
