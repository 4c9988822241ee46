//! An agent is told to end in the middle of fifty runs: what is charged, and which log lines are missing.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use super::figure::Figure;
use crate::harness::scenario::Scenario;
use crate::harness::scenario::look::MOVE_WITHIN;
use crate::harness::wait::{Look, until};

/// Runs at the same time.
const RUNS_COUNT: u32 = 50;
/// Lines that each of them writes.
const LINES_COUNT: u32 = 20;
/// Time that each takes: less than the agent's grace, more than it takes to have all of them running.
const RUN_MS: u64 = 5_000;
/// The agent's grace.
const DRAIN_FOR: Duration = Duration::from_secs(30);

/// Tasks that were charged or lost, and lines that are missing.
///
/// # Errors
/// When the runs do not begin or end.
pub async fn measure(rounds: usize) -> anyhow::Result<Vec<Figure>> {
    let mut charged =
        Figure::none_of(format!("tasks charged by SIGTERM of an agent during {RUNS_COUNT} runs"));
    let mut missing = Figure::none_of(format!("log lines lost of {}", RUNS_COUNT * LINES_COUNT));
    let scenario = Scenario::new("liveness_drain").await?;
    let _dispatcher = scenario.dispatcher("dispatcher-1").start().await?;
    for round in 0..rounds {
        round_of(&scenario, round).await?;
        let count = "SELECT count(*) FROM tasks WHERE charge > 0 OR losses > 0 OR status <> 'succeeded'";
        charged.values.push(scenario.count(count).await? as f64);
        // Each line once: an attempt that was put back is followed by one that writes all of them again.
        let lines =
            scenario.count("SELECT count(DISTINCT (task_id, line)) FROM logs WHERE line LIKE 'line % of %'");
        let expected = i64::try_from(round + 1)? * i64::from(RUNS_COUNT * LINES_COUNT);
        missing.values.push((expected - lines.await?) as f64);
    }
    Ok(vec![charged, missing])
}

async fn round_of(scenario: &Scenario, round: usize) -> anyhow::Result<()> {
    let id = format!("agent-{round}");
    let drain_for = format!("{}s", DRAIN_FOR.as_secs());
    let launch = scenario.agent(&id).slots(RUNS_COUNT).env("SWITCHYARD_DRAIN_FOR", drain_for);
    let mut agent = launch.start().await?;
    let runs = usize::try_from(RUNS_COUNT)?;
    let payload = json!({ "sleep_ms": RUN_MS, "log_lines": LINES_COUNT });
    scenario.publish_numbers(round * runs..(round + 1) * runs, &payload).await?;
    until("all to run", MOVE_WITHIN, async || {
        let running = scenario.count("SELECT count(*) FROM tasks WHERE status = 'running'").await?;
        Ok(Look::holds(running >= i64::from(RUNS_COUNT), || format!("{running} run")))
    })
    .await?;
    agent.signal(Signal::SIGTERM)?;
    agent.until_ended(DRAIN_FOR + MOVE_WITHIN).await?;
    scenario.until_succeeded(i64::try_from((round + 1) * runs)?).await
}
