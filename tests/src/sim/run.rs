//! One seed from its start to rest, or to the first thing that must not be.

use super::checker::REST_MAX_MS;
use super::dice::Dice;
use super::scenario::Scenario;
use super::trace::{Trace, Tracing};
use super::troubles::Troubles;
use super::world::World;

/// What came of a seed.
#[derive(Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What must not be; empty when all held.
    pub violations: Vec<String>,
    /// Hash over the trace, where one was asked for.
    pub hash: u64,
    /// The trace, where it was asked for.
    pub lines: Vec<String>,
    /// Simulated time at the end, in milliseconds.
    pub ended_at: u64,
    /// Handlers that ran.
    pub runs: usize,
    /// Events that happened.
    pub events: u64,
}

/// Simulated time between two looks whether the world is at rest, in milliseconds.
const LOOK_EVERY_MS: u64 = 2_000;

/// Most events of a run: far more than any that comes to rest.
const EVENTS_MAX_COUNT: u64 = 60_000;

/// Runs one seed.
#[must_use]
pub fn run(seed: u64, tracing: Tracing) -> Report {
    let mut dice = Dice::new(seed);
    let mut violations = Vec::new();
    let scenario = match Scenario::draw(&mut dice) {
        Ok(scenario) => scenario,
        Err(error) => {
            violations.push(format!("the scenario cannot be made: {error}"));
            return Report { seed, violations, hash: 0, lines: Vec::new(), ended_at: 0, runs: 0, events: 0 };
        }
    };
    let calm_at = scenario.calm_at;
    let mut world = World::new(scenario, dice, Troubles::of(seed), Trace::new(tracing));
    let (mut look_at, mut events) = (calm_at, 0);
    while world.store.violations.is_empty() && world.step() {
        events += 1;
        if events > EVENTS_MAX_COUNT {
            let why = world.not_at_rest();
            world.store.violated(format!("a storm without end: {why}"));
        }
        if world.now() < look_at {
            continue;
        }
        look_at = world.now() + LOOK_EVERY_MS;
        if world.is_at_rest() {
            world.check_rest();
            break;
        }
        if world.now() > calm_at + REST_MAX_MS {
            let why = world.not_at_rest();
            world.store.violated(why);
        }
    }
    violations.append(&mut world.store.violations);
    let (ended_at, runs) = (world.now(), world.ledger.runs.len());
    let hash = world.trace.hash();
    Report { seed, violations, hash, lines: world.trace.into_lines(), ended_at, runs, events }
}
