//! `make chaos`: fault mixes against real processes, each with its verdict. docs/chaos.md says what is broken and how it is judged.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::Parser;
use switchyard_tests::chaos::mixes::{MIXES, Mix, SMOKE, named};
use switchyard_tests::chaos::run::{Asked, run};
use switchyard_tests::chaos::verdict::{Verdict, table};
use tokio::signal::unix::{SignalKind, signal};

/// How long the smoke breaks things, in seconds.
const SMOKE_S: u64 = 45;

/// Breaks everything around Switchyard, from a seed, and checks what it promises.
///
/// Exits with 0 when everything held, with 1 when something did not, with 2 when there is no verdict.
#[derive(Debug, Parser)]
struct Args {
    /// The seed; drawn from the clock when it is not given. The same seed draws the same faults and the same tasks.
    #[arg(long)]
    seed: Option<u64>,
    /// How many minutes each mix breaks things.
    #[arg(long, default_value_t = 3.0)]
    minutes: f64,
    /// Only this mix; may be repeated.
    #[arg(long = "mix")]
    mixes: Vec<String>,
    /// Tasks a second, while the backlog is small.
    #[arg(long, default_value_t = 6)]
    rate: u64,
    /// List the mixes.
    #[arg(long)]
    list: bool,
    /// One short mix on one node, for every change.
    #[arg(long)]
    smoke: bool,
    /// Print the verdicts as JSON.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        MIXES.iter().for_each(|mix| print(&format!("{:26} {} node(s)  {}", mix.name, mix.nodes, mix.about)));
        return ExitCode::SUCCESS;
    }
    // Dropped when it is interrupted, and with it every process and service that it has started.
    let played = tokio::select! {
        played = play(&args) => played,
        signal = interrupted() => Err(signal.map_or_else(Into::into, |name| anyhow::anyhow!("stopped by {name}"))),
    };
    match played {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("no verdict: {error:#}"));
            ExitCode::from(2)
        }
    }
}

async fn interrupted() -> std::io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

/// Whether everything held.
async fn play(args: &Args) -> anyhow::Result<bool> {
    let mixes = chosen(args)?;
    let seed = match args.seed {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    };
    let seconds =
        if args.smoke { Duration::from_secs(SMOKE_S) } else { Duration::from_secs_f64(args.minutes * 60.0) };
    let mut verdicts: Vec<Verdict> = Vec::new();
    let mut without = Vec::new();
    for mix in mixes {
        let asked = Asked { mix, seed, broken_for: seconds, rate: args.rate, say };
        match run(&asked).await {
            Ok(verdict) => {
                say(&table(std::slice::from_ref(&verdict)));
                verdicts.push(verdict);
            }
            // The others can still tell something.
            Err(error) => {
                say(&format!("{}: no verdict: {error:#}", mix.name));
                without.push(mix.name);
            }
        }
    }
    print(&if args.json { serde_json::to_string_pretty(&verdicts)? } else { table(&verdicts) });
    anyhow::ensure!(without.is_empty(), "{} of the mixes: {}", without.len(), without.join(", "));
    Ok(verdicts.iter().all(Verdict::holds))
}

fn chosen(args: &Args) -> anyhow::Result<Vec<Mix>> {
    if args.smoke {
        return Ok(vec![SMOKE]);
    }
    if args.mixes.is_empty() {
        return Ok(MIXES.to_vec());
    }
    let one = |name: &String| named(name).with_context(|| format!("there is no mix {name}: see --list"));
    args.mixes.iter().map(one).collect()
}

#[expect(clippy::print_stdout, reason = "the verdict is this program's output")]
fn print(text: &str) {
    println!("{text}");
}

/// Progress, apart from the verdict.
#[expect(clippy::print_stderr, reason = "for whoever waits")]
fn say(text: &str) {
    eprintln!("{text}");
}
