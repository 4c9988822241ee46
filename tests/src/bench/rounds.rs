//! Rounds: each measures every contender in turn, so that the drift of the machine hits all alike. Figures are medians over rounds,
//! ratios are taken within a round.

use std::collections::BTreeMap;

use anyhow::Context as _;

use super::contender::Contender;
use super::publish::Flow;
use super::running::{Measured, Running};
use super::stage::{Services, Stage};
use super::stats::median;

/// Workspaces that tasks are spread over.
pub const WORKSPACES: usize = 500;
/// Bytes of a message, about.
pub const PAYLOAD_BYTES: usize = 300;
/// The rate at which everybody's latency is measured.
pub const STEADY_PER_SECOND: f64 = 50.0;
/// Fewest tasks of a measurement.
const COUNT_MIN: usize = 200;
/// Least time at a steady rate, in measurements' lengths: a tail needs samples.
const STEADY_LENGTHS: f64 = 2.5;

/// What is measured of each contender in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Duty {
    /// Publishing at the same time, as fast as it goes.
    Drain,
    /// At [`STEADY_PER_SECOND`].
    Steady,
    /// At half of what it drained in this round.
    HalfPeak,
    /// Everything is published before the workers start.
    Preload,
}

impl Duty {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Drain, Self::Steady, Self::HalfPeak, Self::Preload];

    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Steady => "50/s",
            Self::HalfPeak => "half of the peak",
            Self::Preload => "preload",
        }
    }
}

/// How long everything takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Rounds.
    pub rounds: u32,
    /// About how long one measurement takes.
    pub seconds: f64,
    /// Whether only the drain is measured.
    pub drain_only: bool,
}

/// Everything that was measured: by contender and duty, one value per round.
pub type Results = BTreeMap<(&'static str, Duty), Vec<Measured>>;

/// Runs all rounds. `say` is told of every step.
///
/// # Errors
/// When a contender fails; where its logs are is in the message.
pub async fn run(
    contenders: &[&dyn Contender],
    services: &Services,
    pace: Pace,
    say: impl Fn(&str),
) -> anyhow::Result<Results> {
    let mut results = Results::new();
    for round in 0..pace.rounds {
        // Each round begins with another one.
        let first = usize::try_from(round)? % contenders.len().max(1);
        for contender in contenders[first..].iter().chain(&contenders[..first]) {
            let id = contender.about().id;
            let label = format!("round {} of {}, {}", round + 1, pace.rounds, contender.about().title);
            let tell = |duty: Duty, measured: &Measured| say(&format!("{label}: {}", line(duty, measured)));
            for (duty, measured) in one(*contender, services, pace, tell).await.context(label.clone())? {
                results.entry((id, duty)).or_default().push(measured);
            }
        }
    }
    Ok(results)
}

fn line(duty: Duty, measured: &Measured) -> String {
    let latency = measured.latency.map_or(String::new(), |latency| {
        format!(
            ", p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms",
            latency.p50_ms, latency.p99_ms, latency.p999_ms
        )
    });
    format!("{} {:.0}/s of {} tasks{latency}", duty.name(), measured.per_second, measured.count)
}

/// One contender in one round.
async fn one(
    contender: &dyn Contender,
    services: &Services,
    pace: Pace,
    tell: impl Fn(Duty, &Measured),
) -> anyhow::Result<Vec<(Duty, Measured)>> {
    let mut measured = Vec::new();
    let mut took = |duty, one: Measured| {
        tell(duty, &one);
        measured.push((duty, one));
    };
    let [drain, preload] = contender.about().expected_per_second;
    let stage = Stage::open(services).await?;
    let together = async {
        let mut running = Running::start(contender, &stage).await?;
        running.start_workers()?;
        running.warm_up(at_once(1)).await?;
        let peak = running.measure(at_once(count(drain, pace.seconds))).await?;
        took(Duty::Drain, peak);
        if !pace.drain_only {
            let steady = STEADY_PER_SECOND;
            took(Duty::Steady, running.measure(at(steady, pace.seconds * STEADY_LENGTHS)).await?);
            let half = peak.per_second / 2.0;
            took(Duty::HalfPeak, running.measure(at(half, pace.seconds)).await?);
        }
        anyhow::Ok(())
    };
    ended(together.await, stage).await?;
    if !pace.drain_only {
        let stage = Stage::open(services).await?;
        let preloaded = async {
            let mut running = Running::start(contender, &stage).await?;
            let flow = at_once(count(preload, pace.seconds / 2.0));
            took(Duty::Preload, running.measure_preloaded(flow).await?);
            anyhow::Ok(())
        };
        ended(preloaded.await, stage).await?;
    }
    Ok(measured)
}

/// Takes the stage down, or keeps its logs after a failure.
pub(super) async fn ended(result: anyhow::Result<()>, stage: Stage) -> anyhow::Result<()> {
    match result {
        Ok(()) => stage.close().await,
        Err(error) => Err(error.context(format!("logs are in {}", stage.keep_logs().display()))),
    }
}

const fn at_once(count: usize) -> Flow {
    Flow { count, per_second: None, bytes: PAYLOAD_BYTES, workspaces: WORKSPACES }
}

fn at(per_second: f64, seconds: f64) -> Flow {
    Flow { per_second: Some(per_second), ..at_once(count(per_second, seconds)) }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of tasks")]
fn count(per_second: f64, seconds: f64) -> usize {
    ((per_second * seconds) as usize).max(COUNT_MIN)
}

/// The median of a figure over the rounds.
#[must_use]
pub fn figure(results: &Results, id: &str, duty: Duty, of: impl Fn(&Measured) -> Option<f64>) -> Option<f64> {
    let (_, rounds) = results.iter().find(|((other, of_duty), _)| *other == id && *of_duty == duty)?;
    median(rounds.iter().filter_map(of))
}

/// The median over the rounds of the ratio of two figures of the same round.
#[must_use]
pub fn ratio(
    results: &Results,
    duty: Duty,
    (id, other): (&str, &str),
    of: impl Fn(&Measured) -> Option<f64>,
) -> Option<f64> {
    let rounds = |id: &str| {
        let found = results.iter().find(|((other, of_duty), _)| *other == id && *of_duty == duty);
        found.map(|(_, rounds)| rounds)
    };
    let (ours, theirs) = (rounds(id)?, rounds(other)?);
    median(ours.iter().zip(theirs).filter_map(|(ours, theirs)| Some(of(ours)? / of(theirs)?)))
}
