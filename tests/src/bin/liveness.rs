//! `make liveness`: how long work is still when agents, dispatchers, the broker or the database fail, each measured several times. Exits
//! with 1 when the worst of a figure exceeds its bound. Needs the programs beside it, and the services of `SWITCHYARD_AMQP_URL` and
//! `SWITCHYARD_DATABASE_URL`; those that are killed are started for it.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use switchyard_tests::liveness::figure::{Figure, table};
use switchyard_tests::liveness::{Group, Rounds};

const USAGE: &str = "usage: liveness [--rounds N] [--long-rounds N] [--json] [GROUP..]
  --rounds N        measure each figure so often, default 10
  --long-rounds N   those that take minutes, default 1
  --json            print all values as JSON instead of a table
  GROUP             loss, return, takeover, rolling, drain, outage; all of them unless named";

/// What the command line says.
struct Arguments {
    rounds: Rounds,
    json: bool,
    groups: Vec<Group>,
}

// One thread: programs are killed by the kernel when the thread that started them ends.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = read(std::env::args().skip(1))?;
    let mut figures: Vec<Figure> = Vec::new();
    for group in &arguments.groups {
        let measured = group.measure(arguments.rounds).await;
        figures.extend(measured.with_context(|| format!("while measuring {}", group.word()))?);
    }
    let all_hold = figures.iter().all(Figure::holds);
    say(&if arguments.json { serde_json::to_string_pretty(&figures)? } else { table(&figures) });
    Ok(if all_hold { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read(mut given: impl Iterator<Item = String>) -> anyhow::Result<Arguments> {
    let mut arguments = Arguments { rounds: Rounds { short: 10, long: 1 }, json: false, groups: Vec::new() };
    while let Some(word) = given.next() {
        let mut number = || given.next().and_then(|text| text.parse().ok()).filter(|count| *count > 0);
        match word.as_str() {
            "--rounds" => arguments.rounds.short = number().context(USAGE)?,
            "--long-rounds" => arguments.rounds.long = number().context(USAGE)?,
            "--json" => arguments.json = true,
            name => match Group::ALL.into_iter().find(|group| group.word() == name) {
                Some(group) => arguments.groups.push(group),
                None => bail!(USAGE),
            },
        }
    }
    if arguments.groups.is_empty() {
        arguments.groups = Group::ALL.to_vec();
    }
    Ok(arguments)
}

#[expect(clippy::print_stdout, reason = "a program for people")]
fn say(text: &str) {
    println!("{text}");
}
