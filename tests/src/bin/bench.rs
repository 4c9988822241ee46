//! `make bench`: Switchyard, the raw three-hop chain and the peers side by side, in interleaved rounds on this machine; a table and plots
//! in `docs/bench`.
//!
//! Needs the release programs beside it, the services of `make up`, and the peers that `tests/peers/install` installs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use clap::{Parser, Subcommand};
use serde_json::json;
use switchyard_tests::bench::chain_contender::Chain;
use switchyard_tests::bench::contender::Contender;
use switchyard_tests::bench::peers;
use switchyard_tests::bench::roles::Role;
use switchyard_tests::bench::rounds::{self, Duty, Pace, Results, figure, ratio};
use switchyard_tests::bench::running::Measured;
use switchyard_tests::bench::stage::Services;
use switchyard_tests::bench::svg::{self, Bar};
use switchyard_tests::bench::targets::per_second;
use switchyard_tests::bench::{curve_page, curves, machine, switchyard, table};

/// Throughput against the chain below which something is broken, whatever the machine: an order of magnitude under what is usual.
const SMOKE_RATIO_MIN: f64 = 0.03;
/// Seconds of a measurement of the smoke.
const SMOKE_SECONDS: f64 = 0.5;

/// Measures Switchyard beside the raw chain and its peers.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Verb>,
    /// Interleaved rounds.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// About how long one measurement takes, in seconds; each contender has three of them and a longer one per round.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Only these contenders; may be given several times. Ratios need `chain`.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Only the throughput while publishing.
    #[arg(long)]
    drain_only: bool,
    /// The chain and Switchyard for some seconds, in whichever build: fails only when Switchyard is slower by an order of magnitude.
    #[arg(long)]
    smoke: bool,
    /// The scale curves in place of the contenders; `--only` names curves.
    #[arg(long)]
    curves: bool,
    /// Prints every measurement as JSON.
    #[arg(long)]
    json: bool,
    /// Writes the table, the plots and the measurements into this folder.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// What this program starts by itself: one process of a measurement.
    #[command(hide = true)]
    Role {
        #[command(subcommand)]
        role: Role,
    },
    /// The names of all contenders and curves.
    Names,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Verb::Role { role }) => role.play().await?,
        Some(Verb::Names) => {
            contenders().iter().for_each(|contender| say(contender.about().id));
            curves::curves().iter().for_each(|curve| say(curve.id));
        }
        None if arguments.curves => return draw_curves(arguments).await,
        None => return measure(arguments).await,
    }
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::print_stdout, reason = "a program for people")]
fn say(text: &str) {
    println!("{text}");
}

fn contenders() -> Vec<Box<dyn Contender>> {
    let mut all: Vec<Box<dyn Contender>> = vec![Box::new(Chain::new())];
    all.extend(switchyard::all().into_iter().map(|one| Box::new(one) as Box<dyn Contender>));
    all.extend(peers::all().into_iter().map(|one| Box::new(one) as Box<dyn Contender>));
    all
}

/// Those that are asked for.
fn chosen(arguments: &Arguments) -> anyhow::Result<Vec<Box<dyn Contender>>> {
    let smoke = ["chain".to_owned(), "switchyard".to_owned()];
    let only: &[String] = if arguments.smoke { &smoke } else { &arguments.only };
    let all = contenders();
    let known = |name: &String| all.iter().any(|contender| contender.about().id == name);
    if let Some(unknown) = only.iter().find(|name| !known(name)) {
        let names: Vec<&str> = all.iter().map(|contender| contender.about().id).collect();
        anyhow::bail!("there is no contender {unknown}: {}", names.join(", "));
    }
    let wanted =
        |contender: &dyn Contender| only.is_empty() || only.iter().any(|name| contender.about().id == name);
    Ok(all.into_iter().filter(|contender| wanted(&**contender)).collect())
}

async fn measure(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let chosen = chosen(&arguments)?;
    let chosen: Vec<&dyn Contender> = chosen.iter().map(|contender| &**contender).collect();
    let pace = if arguments.smoke {
        Pace { rounds: 1, seconds: SMOKE_SECONDS, drain_only: true }
    } else {
        Pace { rounds: arguments.rounds, seconds: arguments.seconds, drain_only: arguments.drain_only }
    };
    let services = Services::find()?;
    let began = Instant::now();
    let tell = |text: &str| say(&format!("[{:>5.0} s] {text}", began.elapsed().as_secs_f64()));
    let results = rounds::run(&chosen, &services, pace, tell).await?;
    if arguments.smoke {
        return smoke(&results);
    }
    let facts = machine::facts(&services).await;
    let page = table::page(&chosen, &results, pace, &facts);
    if arguments.json {
        say(&serde_json::to_string_pretty(&as_json(&results))?);
    } else {
        say(&format!("\n{page}"));
    }
    if let Some(folder) = &arguments.out {
        write(folder, &page, &chosen, &results)?;
        say(&format!("written to {}", folder.display()));
    }
    Ok(ExitCode::SUCCESS)
}

async fn draw_curves(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let services = Services::find()?;
    let pace = Pace { rounds: arguments.rounds, seconds: arguments.seconds, drain_only: true };
    let began = Instant::now();
    let tell = |text: &str| say(&format!("[{:>5.0} s] {text}", began.elapsed().as_secs_f64()));
    let wanted: Vec<curves::Curve> = curves::curves()
        .into_iter()
        .filter(|curve| arguments.only.is_empty() || arguments.only.iter().any(|name| name == curve.id))
        .collect();
    ensure!(!wanted.is_empty(), "there is no such curve: see `bench names`");
    let facts = machine::facts(&services).await;
    for curve in &wanted {
        let drawn = curves::run(curve, &services, pace, tell).await?;
        let page = curve_page::page(curve, &drawn, pace, &facts);
        say(&format!("\n{page}"));
        // Each as soon as it is there: a curve may be measured again without the others.
        if let Some(folder) = &arguments.out {
            std::fs::create_dir_all(folder)?;
            std::fs::write(folder.join(format!("curve-{}.md", curve.id)), page)?;
            std::fs::write(folder.join(format!("curve-{}.svg", curve.id)), curve_page::plot(curve, &drawn))?;
            say(&format!("{} written to {}", curve.id, folder.display()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn smoke(results: &Results) -> anyhow::Result<ExitCode> {
    let ratio =
        ratio(results, Duty::Drain, ("switchyard", "chain"), per_second).context("nothing measured")?;
    say(&format!(
        "Switchyard reaches {ratio:.2} of the raw chain's throughput; {SMOKE_RATIO_MIN} is the least"
    ));
    ensure!(ratio >= SMOKE_RATIO_MIN, "slower by an order of magnitude than it should be");
    Ok(ExitCode::SUCCESS)
}

fn as_json(results: &Results) -> serde_json::Value {
    let one = |((id, duty), rounds): (&(&str, Duty), &Vec<Measured>)| json!({ "contender": id, "duty": duty, "rounds": rounds });
    results.iter().map(one).collect()
}

fn write(folder: &Path, page: &str, contenders: &[&dyn Contender], results: &Results) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("results.md"), page)?;
    std::fs::write(folder.join("results.json"), serde_json::to_string_pretty(&as_json(results))? + "\n")?;
    let bars = |of: &dyn Fn(&str) -> Vec<Option<f64>>| -> Vec<Bar> {
        let bar = |contender: &&dyn Contender| {
            let about = contender.about();
            Bar { name: about.title.to_owned(), values: of(about.id) }
        };
        contenders.iter().map(bar).collect()
    };
    let throughput =
        bars(&|id| [Duty::Drain, Duty::Preload].map(|duty| figure(results, id, duty, per_second)).to_vec());
    let series = ["drain", "preload"];
    std::fs::write(folder.join("throughput.svg"), svg::bars("tasks per second", &series, &throughput))?;
    let latency = bars(&|id| {
        let of = |duty, of: fn(&Measured) -> Option<f64>| figure(results, id, duty, of);
        vec![
            of(Duty::Steady, |m| m.latency.map(|l| l.p50_ms)),
            of(Duty::Steady, |m| m.latency.map(|l| l.p99_ms)),
            of(Duty::HalfPeak, |m| m.latency.map(|l| l.p99_ms)),
        ]
    });
    let series = ["p50 at 50/s", "p99 at 50/s", "p99 at half of the peak"];
    let title = "milliseconds from publish to handler start";
    std::fs::write(folder.join("latency.svg"), svg::bars(title, &series, &latency))?;
    Ok(())
}
