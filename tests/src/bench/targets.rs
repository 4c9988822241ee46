//! The ratios that are asked for, each with the least and with the aim.

use super::rounds::{Duty, Results, figure, ratio};
use super::running::Measured;

/// A figure that is asked for.
pub struct Target {
    /// What it is.
    pub name: &'static str,
    /// Must be reached.
    pub least: f64,
    /// Is aimed at.
    pub aim: f64,
    /// Whether less is better.
    pub less_is_better: bool,
    of: Of,
}

enum Of {
    Ratio(Duty, &'static str, &'static str, fn(&Measured) -> Option<f64>),
    Figure(Duty, &'static str, fn(&Measured) -> Option<f64>),
}

/// Whether a target is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// The aim.
    Aim,
    /// The least, not the aim.
    Least,
    /// Neither.
    No,
}

impl Target {
    /// What was measured; none when it was not.
    #[must_use]
    pub fn value(&self, results: &Results) -> Option<f64> {
        match self.of {
            Of::Ratio(duty, ours, theirs, of) => ratio(results, duty, (ours, theirs), of),
            Of::Figure(duty, id, of) => figure(results, id, duty, of),
        }
    }

    /// Whether `value` reaches it.
    #[must_use]
    pub fn reached(&self, value: f64) -> Reached {
        let reaches = |bound: f64| if self.less_is_better { value <= bound } else { value >= bound };
        match (reaches(self.aim), reaches(self.least)) {
            (true, _) => Reached::Aim,
            (false, true) => Reached::Least,
            (false, false) => Reached::No,
        }
    }
}

const PLAIN: &str = "switchyard";
const EXCLUSIVE: &str = "switchyard-exclusive";
const CHAIN: &str = "chain";

fn more(
    name: &'static str,
    [least, aim]: [f64; 2],
    duty: Duty,
    ours: &'static str,
    theirs: &'static str,
) -> Target {
    Target { name, least, aim, less_is_better: false, of: Of::Ratio(duty, ours, theirs, per_second) }
}

fn less(name: &'static str, [least, aim]: [f64; 2], duty: Duty, of: fn(&Measured) -> Option<f64>) -> Target {
    Target { name, least, aim, less_is_better: true, of: Of::Ratio(duty, PLAIN, CHAIN, of) }
}

/// All of them.
#[must_use]
pub fn all() -> Vec<Target> {
    vec![
        more("throughput against the chain", [0.9, 1.0], Duty::Drain, PLAIN, CHAIN),
        more("throughput of an exclusive kind against the chain", [0.6, 0.9], Duty::Drain, EXCLUSIVE, CHAIN),
        more(
            "exclusive drain against procrastinate with locks",
            [12.0, 18.0],
            Duty::Drain,
            EXCLUSIVE,
            "procrastinate",
        ),
        more(
            "exclusive drain against graphile-worker with queues",
            [8.0, 16.0],
            Duty::Drain,
            EXCLUSIVE,
            "graphile-worker",
        ),
        more("preloaded backlog against Celery without results", [2.5, 4.0], Duty::Preload, PLAIN, "celery"),
        more("preloaded backlog against Dramatiq", [0.9, 1.2], Duty::Preload, PLAIN, "dramatiq"),
        more("preloaded backlog against BullMQ", [0.7, 1.0], Duty::Preload, PLAIN, "bullmq"),
        less("p50 at 50/s against the chain", [1.8, 1.3], Duty::Steady, p50),
        less("p99 at 50/s against the chain", [2.0, 1.3], Duty::Steady, p99),
        less("p99 at half of the peak against the chain", [2.0, 1.3], Duty::HalfPeak, p99),
        less("CPU of dispatcher and agents against forwarder and worker", [2.0, 1.2], Duty::Drain, own_cpu),
        more("two dispatchers against one", [0.95, 1.1], Duty::Drain, "switchyard-two", PLAIN),
        Target {
            name: "PostgreSQL's share of all CPU",
            least: 0.2,
            aim: 0.1,
            less_is_better: true,
            of: Of::Figure(Duty::Drain, PLAIN, database_share),
        },
    ]
}

/// Tasks per second.
pub fn per_second(measured: &Measured) -> Option<f64> {
    Some(measured.per_second)
}

fn p50(measured: &Measured) -> Option<f64> {
    measured.latency.map(|latency| latency.p50_ms)
}

fn p99(measured: &Measured) -> Option<f64> {
    measured.latency.map(|latency| latency.p99_ms)
}

#[expect(clippy::unnecessary_wraps, reason = "one of several figures, some of which may be missing")]
fn own_cpu(measured: &Measured) -> Option<f64> {
    Some(measured.cpu.front + measured.cpu.workers)
}

#[expect(clippy::unnecessary_wraps, reason = "one of several figures, some of which may be missing")]
fn database_share(measured: &Measured) -> Option<f64> {
    Some(measured.cpu.database / measured.cpu.total())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_reached_at_its_bound() {
        let target = more("t", [0.9, 1.0], Duty::Drain, PLAIN, CHAIN);
        assert_eq!(target.reached(1.0), Reached::Aim);
        assert_eq!(target.reached(0.9), Reached::Least);
        assert_eq!(target.reached(0.89), Reached::No);
        let target = less("t", [2.0, 1.3], Duty::Steady, p99);
        assert_eq!(target.reached(1.3), Reached::Aim);
        assert_eq!(target.reached(2.1), Reached::No);
    }

    #[test]
    fn every_aim_is_harder_than_its_least() {
        for target in all() {
            assert_eq!(target.reached(target.aim), Reached::Aim, "{}", target.name);
            assert_eq!(target.reached(target.least), Reached::Least, "{}", target.name);
        }
    }
}
