//! Dispatchers go: one is killed and another takes over its work; all are restarted in turn under load.

use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use serde_json::json;
use switchyard_common::guard::spawn_guarded;
use switchyard_common::task::Status;
use uuid::Uuid;

use super::figure::{Figure, p99};
use super::work::{MEASURED_WITHIN, first, seconds};
use crate::harness::scenario::look::MOVE_WITHIN;
use crate::harness::scenario::{Process, Scenario};
use crate::harness::wait::{Look, until};

/// Slots of each of two agents: enough that a task never waits for one, however slow the machine.
const SLOTS_COUNT: u32 = 16;
/// A killed dispatcher's work is taken over within this.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(2);
/// Assignments that the killed dispatcher answers for, at least.
const UNCONFIRMED_MIN_COUNT: i64 = 1;
/// Tasks of a burst. All are assigned at once, and none ends before the take-over.
const BURST_COUNT: usize = 16;
const BURST_MS: u64 = 5_000;

/// What is delayed less than this is not delayed visibly.
const NOT_VISIBLE: Duration = Duration::from_secs(1);
/// Time between two events of the steady load.
const PUBLISH_EVERY: Duration = Duration::from_millis(50);
/// Events that are published without a restart, for comparison.
const UNDISTURBED_COUNT: usize = 200;

/// One of two dispatchers is killed while it answers for assignments whose arrival it has not recorded: the other must see that it is
/// gone and send them again. Beside it, a task that is submitted at the moment of the kill.
///
/// # Errors
/// When something does not start, or is never taken over.
pub async fn takeover(rounds: usize) -> anyhow::Result<Vec<Figure>> {
    let bound = Some(TAKEN_OVER_WITHIN.as_secs_f64());
    let mut resent = Figure::seconds("assignments of a killed dispatcher are sent by another", bound);
    let mut ended = Figure::seconds("a task submitted when a dispatcher is killed ends", bound);
    for round in 1..=rounds {
        let scenario = Scenario::new(&format!("liveness_takeover_{round}")).await?;
        let mut dispatchers = vec![
            scenario.dispatcher("dispatcher-1").start().await?,
            scenario.dispatcher("dispatcher-2").start().await?,
        ];
        let _agents = [
            scenario.agent("agent-1").slots(SLOTS_COUNT).start().await?,
            scenario.agent("agent-2").slots(SLOTS_COUNT).start().await?,
        ];
        scenario.publish_many(BURST_COUNT, &json!({ "sleep_ms": BURST_MS })).await?;
        let publisher = publisher_of_most(&scenario).await?;
        let at = position(&dispatchers, publisher)?;
        let killed_at = Utc::now();
        dispatchers[at].kill()?;
        scenario.publish_numbers(BURST_COUNT..BURST_COUNT + 1, &json!({})).await?;
        let sql = format!(
            "SELECT min(published_at) FROM attempts WHERE published_by <> '{publisher}' AND publish_no > 1 AND published_at > $1"
        );
        resent.values.push(seconds(killed_at, first(&scenario, &sql, killed_at, MEASURED_WITHIN).await?));
        let task = scenario.until_status(&format!("t-{BURST_COUNT}"), Status::Succeeded).await?;
        let at = task.finished_at.context("a task that succeeded has an end")?;
        ended.values.push(seconds(killed_at, at));
        scenario.until_succeeded(i64::try_from(BURST_COUNT)? + 1).await?;
    }
    Ok(vec![resent, ended])
}

/// The replica that answers for the most unconfirmed assignments, once all of the burst are assigned.
async fn publisher_of_most(scenario: &Scenario) -> anyhow::Result<Uuid> {
    let sql = "SELECT published_by, count(*), sum(count(*)) OVER ()::bigint FROM attempts \
               WHERE ended_at IS NULL AND confirmed_at IS NULL GROUP BY 1 ORDER BY 2 DESC LIMIT 1";
    until("assignments of the burst", MOVE_WITHIN, async || {
        let row = scenario.database.db.connection().await?.query_opt(sql, &[]).await?;
        let most = row.filter(|row| row.get::<_, i64>(1) >= UNCONFIRMED_MIN_COUNT);
        Ok(Look::of(most.map(|row| row.get(0)), || "none are unconfirmed".to_owned()))
    })
    .await
}

/// Which of the dispatchers has this replica id, by its log.
fn position(dispatchers: &[Process], replica: Uuid) -> anyhow::Result<usize> {
    let replica = replica.to_string();
    for (at, dispatcher) in dispatchers.iter().enumerate() {
        if !dispatcher.log().with_message("dispatcher serves", &[("replica", &replica)])?.is_empty() {
            return Ok(at);
        }
    }
    anyhow::bail!("no dispatcher says that it is replica {replica}")
}

/// Both dispatchers are restarted in turn while events come steadily: from the publish of each to the start of its handler.
///
/// # Errors
/// When something does not start, or a task is lost.
pub async fn rolling(rounds: usize) -> anyhow::Result<Vec<Figure>> {
    let mut undisturbed = Figure::seconds("from publish to start, p99, undisturbed", None);
    let bound = Some(NOT_VISIBLE.as_secs_f64());
    let mut restarting =
        Figure::seconds("from publish to start, p99, while dispatchers are restarted in turn", bound);
    let mut lost = Figure::none_of("tasks lost by the restarts");
    let scenario = Scenario::new("liveness_rolling").await?;
    let mut dispatchers = vec![
        scenario.dispatcher("dispatcher-1").start().await?,
        scenario.dispatcher("dispatcher-2").start().await?,
    ];
    let _agents = [
        scenario.agent("agent-1").slots(SLOTS_COUNT).start().await?,
        scenario.agent("agent-2").slots(SLOTS_COUNT).start().await?,
    ];
    let mut published = 0;
    for round in 1..=rounds {
        let quiet = publish_steadily(&scenario, published, Some(UNDISTURBED_COUNT), || false).await?;
        published += quiet.len();
        scenario.until_succeeded(i64::try_from(published)?).await?;
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let (during, restarted) =
            tokio::join!(publish_steadily(&scenario, published, None, || *stopped.borrow()), async {
                let restarted = restart_in_turn(&scenario, &mut dispatchers, round).await;
                stop.send_replace(true);
                restarted
            });
        restarted?;
        let during = during?;
        published += during.len();
        scenario.until_succeeded(i64::try_from(published)?).await?;
        undisturbed.values.push(p99(delays(&scenario, &quiet).await?));
        restarting.values.push(p99(delays(&scenario, &during).await?));
        let count = scenario.count("SELECT count(*) FROM tasks WHERE status = 'succeeded'").await?;
        lost.values.push((i64::try_from(published)? - count) as f64);
    }
    Ok(vec![undisturbed, restarting, lost])
}

/// Stops each in order and starts another in its place.
async fn restart_in_turn(
    scenario: &Scenario,
    dispatchers: &mut [Process],
    round: usize,
) -> anyhow::Result<()> {
    for (at, dispatcher) in dispatchers.iter_mut().enumerate() {
        dispatcher.stop().await?;
        *dispatcher = scenario.dispatcher(&format!("dispatcher-{}-{round}", at + 1)).start().await?;
    }
    Ok(())
}

/// Publishes one task after another, until there are so many or it is told to stop, and gives their numbers with the moments.
async fn publish_steadily(
    scenario: &Scenario,
    first: usize,
    count: Option<usize>,
    stopped: impl Fn() -> bool,
) -> anyhow::Result<Vec<(usize, DateTime<Utc>)>> {
    let mut published = Vec::new();
    let mut ticker = tokio::time::interval(PUBLISH_EVERY);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let publisher = scenario.publisher()?;
    while count.is_none_or(|count| published.len() < count) && !stopped() {
        ticker.tick().await;
        let number = first + published.len();
        published.push((number, Utc::now()));
        let message = scenario.plan(number, &json!({}))?;
        let publisher = publisher.clone();
        // Not awaited: the next event comes when it is due, whatever the broker does with this one. What is lost is missed at the end.
        drop(spawn_guarded("liveness-publish", async move { drop(publisher.publish(message).await) }));
    }
    Ok(published)
}

/// Seconds from the publish of each task to the start of its handler.
async fn delays(scenario: &Scenario, published: &[(usize, DateTime<Utc>)]) -> anyhow::Result<Vec<f64>> {
    let sql = "SELECT handler_started_at FROM attempts WHERE task_id = $1 AND outcome = 'succeeded'";
    let connection = scenario.database.db.connection().await?;
    let mut delays = Vec::with_capacity(published.len());
    for (number, at) in published {
        let row = connection.query_one(sql, &[&format!("t-{number}")]).await?;
        delays.push(seconds(*at, row.get(0)));
    }
    Ok(delays)
}
