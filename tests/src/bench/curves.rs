//! Scale curves: how throughput, the time of a pass and the cost of a task change when something grows.
//!
//! A point is measured as a contender is, on a stage of its own; the points of a curve are interleaved over rounds.

use std::time::Duration;

use anyhow::Context as _;

use super::fill::{Fill, fill};
use super::procfs::resident_megabytes;
use super::publish::Flow;
use super::rounds::{PAYLOAD_BYTES, Pace, WORKSPACES, ended};
use super::running::Running;
use super::scrape::Passes;
use super::stage::{Services, Stage, connect};
use super::stats::median;
use super::switchyard::{Setting, Switchyard, all, metrics_address};

/// Cost of a task at the last point of a curve against the first, at most.
pub const COST_RATIO_MAX: f64 = 1.2;

/// One point of a curve.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    /// What has grown to how much.
    pub name: &'static str,
    setting: Setting,
    fill: Fill,
    workspaces: usize,
    bytes: usize,
    /// Tasks per second to be expected.
    expected_per_second: f64,
}

/// A curve.
#[derive(Debug, Clone)]
pub struct Curve {
    /// Short, for `--only` and file names.
    pub id: &'static str,
    /// What grows.
    pub title: &'static str,
    /// From little to much.
    pub points: Vec<Point>,
}

/// A point over all rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// Medians of the point alone.
    pub medians: Measured,
    /// Throughput against the first point of the same round, median.
    pub throughput_ratio: f64,
    /// CPU of a task against the first point of the same round, median.
    pub cost_ratio: f64,
}

/// What one point gave.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Measured {
    /// Tasks per second.
    pub per_second: f64,
    /// CPU seconds per 1,000 tasks, everything together.
    pub cpu_per_1000: f64,
    /// Mean time of a scheduling pass.
    pub pass_ms: Option<f64>,
    /// Resident memory of the first dispatcher, at its peak.
    pub dispatcher_mb: f64,
    /// Resident memory of an agent before there was any work.
    pub idle_agent_mb: f64,
}

const BASE: Point = Point {
    name: "",
    setting: Setting::PLAIN,
    fill: Fill { waiting: 0, blocked: 0, finished: 0 },
    workspaces: WORKSPACES,
    bytes: PAYLOAD_BYTES,
    expected_per_second: 1_500.0,
};
const SIZES: [(&str, u32); 3] = [("1 thousand", 1_000), ("100 thousand", 100_000), ("1 million", 1_000_000)];

fn filled(id: &'static str, title: &'static str, of: fn(u32) -> Fill) -> Curve {
    let empty = Point { name: "none", ..BASE };
    let point = |(name, count)| Point { name, fill: of(count), ..BASE };
    Curve { id, title, points: std::iter::once(empty).chain(SIZES.map(point)).collect() }
}

/// All curves.
#[must_use]
pub fn curves() -> Vec<Curve> {
    let none = Fill::default();
    let agents = |name, agents, slots, credit| Point {
        name,
        setting: Setting { agents, slots, credit, max_exclusive: slots, ..Setting::PLAIN },
        ..BASE
    };
    let workspaces = |name, workspaces| Point { name, workspaces, ..BASE };
    let dispatchers =
        |name, dispatchers| Point { name, setting: Setting { dispatchers, ..Setting::PLAIN }, ..BASE };
    let payload = |name, bytes, expected_per_second| Point { name, bytes, expected_per_second, ..BASE };
    let both = Fill { finished: 1_000_000, waiting: 100_000, ..none };
    vec![
        filled("waiting", "tasks waiting for a handler that no agent has", |waiting| Fill {
            waiting,
            ..Fill::default()
        }),
        filled("blocked", "tasks blocked in the table", |blocked| Fill { blocked, ..Fill::default() }),
        filled("finished", "tasks finished in the table", |finished| Fill { finished, ..Fill::default() }),
        Curve {
            id: "full",
            title: "1 million finished, and 100 thousand waiting for a handler that no agent has",
            points: vec![Point { name: "empty", ..BASE }, Point { name: "full", fill: both, ..BASE }],
        },
        // The same room in all, so that only their number differs.
        Curve {
            id: "agents",
            title: "agents, a process each",
            points: vec![agents("2", 2, 16, 240), agents("20", 20, 4, 22), agents("200", 200, 1, 2)],
        },
        Curve {
            id: "workspaces",
            title: "workspaces",
            points: vec![workspaces("1", 1), workspaces("100", 100), workspaces("10,000", 10_000)],
        },
        Curve {
            id: "dispatchers",
            title: "dispatchers",
            points: vec![dispatchers("1", 1), dispatchers("2", 2)],
        },
        Curve {
            id: "payload",
            title: "bytes of a payload",
            points: vec![
                payload("300 B", 300, BASE.expected_per_second),
                payload("10 kB", 10_000, 1_000.0),
                payload("1 MB", 1_000_000, 15.0),
            ],
        },
    ]
}

/// Measures the points of a curve: medians over rounds.
///
/// # Errors
/// When a point fails; where its logs are is in the message.
pub async fn run(
    curve: &Curve,
    services: &Services,
    pace: Pace,
    say: impl Fn(&str),
) -> anyhow::Result<Vec<Drawn>> {
    let mut origins = Origins::default();
    let measured = measured(curve, services, pace, &mut origins, &say).await;
    origins.close().await?;
    Ok(draw(&measured?))
}

/// What each point gave, in the order of the rounds. Each round begins with another point.
async fn measured(
    curve: &Curve,
    services: &Services,
    pace: Pace,
    origins: &mut Origins,
    say: &impl Fn(&str),
) -> anyhow::Result<Vec<Vec<Measured>>> {
    origins.make(curve, services, say).await?;
    let count = curve.points.len();
    let mut rounds: Vec<Vec<Measured>> = vec![Vec::new(); count];
    for round in 0..pace.rounds {
        let first = usize::try_from(round)? % count.max(1);
        for place in (first..count).chain(0..first) {
            let point = &curve.points[place];
            let label = format!("round {} of {}, {}: {}", round + 1, pace.rounds, curve.title, point.name);
            let stage = origins.stage(place, services).await?;
            let one = one(point, stage, pace.seconds).await.context(label.clone())?;
            let pass_ms = one.pass_ms.map_or("-".to_owned(), |ms| format!("{ms:.1}"));
            say(&format!(
                "{label}: {:.0}/s, {:.2} CPU s per 1,000, pass {pass_ms} ms, dispatcher {:.0} MB, idle agent {:.0} MB",
                one.per_second, one.cpu_per_1000, one.dispatcher_mb, one.idle_agent_mb
            ));
            rounds[place].push(one);
        }
    }
    Ok(rounds)
}

/// Where the databases of a curve come from, one for each of its points: filled once, and copied for each round. None where no point is
/// filled.
#[derive(Default)]
struct Origins(Vec<Stage>);

impl Origins {
    async fn make(&mut self, curve: &Curve, services: &Services, say: &impl Fn(&str)) -> anyhow::Result<()> {
        if curve.points.iter().all(|point| point.fill == Fill::default()) {
            return Ok(());
        }
        for point in &curve.points {
            say(&format!("filling, {}: {}", curve.title, point.name));
            let stage = Stage::open(services).await?;
            let filled = filled_by(point, &stage).await;
            self.0.push(stage);
            filled.with_context(|| format!("filling, {}: {}", curve.title, point.name))?;
        }
        Ok(())
    }

    /// A stage for a point, given by its place.
    async fn stage(&self, place: usize, services: &Services) -> anyhow::Result<Stage> {
        match self.0.get(place) {
            Some(origin) => origin.open_copy().await,
            None => Stage::open(services).await,
        }
    }

    async fn close(self) -> anyhow::Result<()> {
        for stage in self.0 {
            stage.close().await?;
        }
        Ok(())
    }
}

/// Lets Switchyard make a task, and copies it.
async fn filled_by(point: &Point, stage: &Stage) -> anyhow::Result<()> {
    let contender = contender(point);
    let mut running = Running::start(&contender, stage).await?;
    running.start_workers()?;
    running.warm_up(flow(point, 1)).await?;
    drop(running);
    fill(&connect(&stage.database_url).await?, point.fill).await
}

/// Medians of each point, whose rounds are given in order, and its ratios to the first: within a round, since machines drift.
fn draw(rounds: &[Vec<Measured>]) -> Vec<Drawn> {
    let Some(first) = rounds.first() else { return Vec::new() };
    let against_first = |point: &[Measured], of: fn(&Measured) -> f64| {
        median(point.iter().zip(first).map(|(one, first)| of(one) / of(first)))
    };
    let drawn = |point: &Vec<Measured>| {
        Some(Drawn {
            medians: middle(point)?,
            throughput_ratio: against_first(point, |m| m.per_second)?,
            cost_ratio: against_first(point, |m| m.cpu_per_1000)?,
        })
    };
    rounds.iter().filter_map(drawn).collect()
}

fn middle(rounds: &[Measured]) -> Option<Measured> {
    let of = |of: fn(&Measured) -> f64| median(rounds.iter().map(of));
    Some(Measured {
        per_second: of(|m| m.per_second)?,
        cpu_per_1000: of(|m| m.cpu_per_1000)?,
        pass_ms: median(rounds.iter().filter_map(|m| m.pass_ms)),
        dispatcher_mb: of(|m| m.dispatcher_mb)?,
        idle_agent_mb: of(|m| m.idle_agent_mb)?,
    })
}

async fn one(point: &Point, stage: Stage, seconds: f64) -> anyhow::Result<Measured> {
    let contender = contender(point);
    let mut measured = None;
    let work = async {
        measured = Some(on(&contender, point, &stage, seconds).await?);
        anyhow::Ok(())
    };
    ended(work.await, stage).await?;
    measured.context("nothing was measured")
}

fn contender(point: &Point) -> Switchyard {
    all().swap_remove(0).with(point.setting).watching_own_tasks()
}

const fn flow(point: &Point, count: usize) -> Flow {
    Flow { count, per_second: None, bytes: point.bytes, workspaces: point.workspaces }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of tasks")]
async fn on(contender: &Switchyard, point: &Point, stage: &Stage, seconds: f64) -> anyhow::Result<Measured> {
    let database = connect(&stage.database_url).await?;
    let mut running = Running::start(contender, stage).await?;
    running.start_workers()?;
    until_live(&mut running, &database, point.setting.agents).await?;
    let idle_agent_mb = running.worker_pids().first().and_then(|pid| resident_megabytes(*pid));
    running.warm_up(flow(point, 1)).await?;
    let address = metrics_address(stage)?;
    let before = Passes::read(&address);
    let count = (point.expected_per_second * seconds) as usize;
    let one = running.measure(flow(point, count)).await?;
    Ok(Measured {
        per_second: one.per_second,
        cpu_per_1000: one.cpu.total(),
        pass_ms: Passes::read(&address).and_then(|after| after.mean_ms_since(before.unwrap_or_default())),
        dispatcher_mb: one.peak_mb[0] / f64::from(point.setting.dispatchers),
        idle_agent_mb: idle_agent_mb.unwrap_or_default(),
    })
}

/// Longest wait for agents to be live.
const LIVE_MAX: Duration = Duration::from_secs(120);

async fn until_live(
    running: &mut Running<'_>,
    database: &tokio_postgres::Client,
    agents: u32,
) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + LIVE_MAX;
    loop {
        let live: i64 = database.query_one("SELECT count(*) FROM agents WHERE live", &[]).await?.get(0);
        if live == i64::from(agents) {
            return Ok(());
        }
        running.all_must_run()?;
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "{live} of {agents} agents are live");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::{Measured, draw};

    #[test]
    fn ratios_are_taken_within_a_round_because_machines_drift() {
        let round = |per_second, cpu_per_1000| Measured {
            per_second,
            cpu_per_1000,
            pass_ms: None,
            dispatcher_mb: 30.0,
            idle_agent_mb: 12.0,
        };
        // The machine was four times slower in the second round: the second point has half of the first in each.
        let first = vec![round(1_000.0, 1.0), round(250.0, 4.0), round(800.0, 1.0)];
        let second = vec![round(500.0, 2.0), round(125.0, 8.0), round(400.0, 2.0)];
        let drawn = draw(&[first, second]);
        assert_eq!([drawn[0].throughput_ratio, drawn[0].cost_ratio], [1.0, 1.0]);
        assert_eq!([drawn[1].throughput_ratio, drawn[1].cost_ratio], [0.5, 2.0]);
        assert_eq!([drawn[0].medians.per_second, drawn[1].medians.per_second], [800.0, 400.0]);
    }
}
