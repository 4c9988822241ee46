//! More work than can be done: memory stays bounded, one pool does not slow another, and all of it is done in the end without help.
//! Bounds are wide, because what is tried is that something does not grow with the backlog.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::json;
use switchyard_common::contract::event::EventType;
use switchyard_tests::harness::scenario::{Process, Scenario, Upstream};

/// Most resident memory of a dispatcher or an agent, in KiB, as README promises it.
const RESIDENT_MAX_KIB: u64 = 256 * 1024;
/// Tasks that wait in one pool.
const WAITING_COUNT: i64 = 100_000;
/// Tasks of the other pool that are timed.
const TIMED_COUNT: usize = 10;
/// How much longer a task of the other pool may take: this many times what it took before, and [`SLOWER_BY_MAX`].
const SLOWER_MAX: u32 = 10;
const SLOWER_BY_MAX: Duration = Duration::from_secs(2);
/// Events that are published as fast as the broker confirms them.
const FLOOD_COUNT: usize = 1_000;
/// Slots of the agent that works it off: enough that a round trip on a loaded machine does not bound it.
const SLOTS_COUNT: u32 = 32;
/// Longest wait for the end of the flood, on a loaded machine.
const ENDS_WITHIN: Duration = Duration::from_secs(180);
/// Copies of the task `t-0`, which waits: through events they would take a minute.
const COPIES: &str = "INSERT INTO tasks OVERRIDING USER VALUE \
    SELECT copy.* FROM tasks t CROSS JOIN generate_series(1, $1::bigint) number \
    CROSS JOIN LATERAL jsonb_populate_record(t, jsonb_build_object('task_id', 'copy-' || number, 'event_id', 'copy-' || number)) copy \
    WHERE t.task_id = 't-0'";

#[tokio::test]
async fn a_pool_with_a_hundred_thousand_waiting_tasks_does_not_slow_another() -> anyhow::Result<()> {
    let scenario = Scenario::new("overload_pools").await?;
    let dispatcher = scenario.dispatcher("dispatcher-1").start().await?;
    let _quick = scenario.agent("agent-1").pool("quick").start().await?;
    let mut upstream = scenario.upstream().await?;
    let before = slowest_of_quick(&scenario, &mut upstream, "before").await?;
    // Nobody serves it yet, so that it can be copied while it waits.
    upstream.submit("t-0", "w-0", "plan", json!({ "sleep_ms": 100 })).await?;
    let copied = scenario.database.db.connection().await?.execute(COPIES, &[&WAITING_COUNT]).await?;
    ensure!(copied == u64::try_from(WAITING_COUNT)?, "{copied} copies");
    let _crowded = scenario.agent("agent-2").start().await?;
    scenario.until_succeeded(i64::try_from(TIMED_COUNT)? + 1).await?;
    let beside = slowest_of_quick(&scenario, &mut upstream, "beside").await?;
    ensure!(
        beside <= before * SLOWER_MAX + SLOWER_BY_MAX,
        "{beside:?} beside {WAITING_COUNT} waiting tasks, {before:?} before"
    );
    let oldest = "switchyard_oldest_waiting_seconds{pool=\"default\"}";
    dispatcher.until_metric(oldest, |seconds| seconds > 0.0).await?;
    keeps_its_memory(&dispatcher)
}

/// The longest time from the publish of a task to its end, one after another.
async fn slowest_of_quick(
    scenario: &Scenario,
    upstream: &mut Upstream,
    name: &str,
) -> anyhow::Result<Duration> {
    let mut slowest = Duration::ZERO;
    for number in 0..TIMED_COUNT {
        let task = format!("{name}-{number}");
        let data = json!({ "task_id": task, "workspace_id": "quick", "kind": "plan", "payload": {}, "pool": "quick" });
        let published = Instant::now();
        upstream.accepted(EventType::TaskSubmitted, data).await?;
        scenario.until_status(&task, switchyard_common::task::Status::Succeeded).await?;
        slowest = slowest.max(published.elapsed());
    }
    Ok(slowest)
}

#[tokio::test]
async fn a_flood_of_events_waits_at_the_broker_and_is_worked_off_without_help() -> anyhow::Result<()> {
    let scenario = Scenario::new("overload_flood").await?;
    let dispatcher = scenario.dispatcher("dispatcher-1").start().await?;
    let agent = scenario.agent("agent-1").slots(SLOTS_COUNT).start().await?;
    scenario.publish_many(FLOOD_COUNT, &json!({ "padding": "x".repeat(4_096) })).await?;
    scenario.until_succeeded_within(i64::try_from(FLOOD_COUNT)?, ENDS_WITHIN).await?;
    keeps_its_memory(&dispatcher)?;
    keeps_its_memory(&agent)?;
    scenario.no_letters().await?;
    scenario.all_accounted_for(i64::try_from(FLOOD_COUNT)?).await
}

/// The most memory that a program has ever had resident is within the bound.
fn keeps_its_memory(program: &Process) -> anyhow::Result<()> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.pid()))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak: u64 =
        peak.and_then(|text| text.trim().strip_suffix(" kB")).context("no VmHWM")?.trim().parse()?;
    ensure!(peak <= RESIDENT_MAX_KIB, "{} had {peak} KiB resident", program.name());
    Ok(())
}
