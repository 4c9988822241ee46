//! One mix from its start to its verdict.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

use super::book::Book;
use super::check::check;
use super::evidence::{Evidence, Excused};
use super::load::{Load, plain};
use super::mixes::{Copies, Mix};
use super::people::Approvers;
use super::plan::{AGENTS, Strike, draw};
use super::tap::Tap;
use super::verdict::Verdict;
use super::world::{SLOTS, World};
use crate::sim::dice::Dice;

/// Tasks that are not over when no more are submitted: as many as the agents do in some seconds.
const BACKLOG_MAX: i64 = 60;
/// How often people look, and the backlog is counted.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest time from the end of the faults until nothing is left to do, in which no task ends: longer than the longest task. A slow machine
/// is no failure.
const STALLED_AFTER: Duration = Duration::from_secs(300);
/// An uncertain task whose agent has not told its end by then is an operator's.
const OPERATOR_AFTER: Duration = Duration::from_secs(25);
/// Longest wait until all probes have succeeded.
const QUIET_WITHIN: Duration = Duration::from_secs(90);
/// Longest wait until queues are empty and letters are logged: a broker that could not route a dead letter keeps it in the queue that it came
/// from, and tries again after three minutes.
const DRAINED_WITHIN: Duration = Duration::from_secs(240);
/// How long a probe runs, in milliseconds: all slots of all agents at a time.
const PROBE_MS: u64 = 500;
/// How long the tasks run that outlive a consumer timeout, in milliseconds.
const LONG_TASK_MS: u64 = 240_000;

/// What a run is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// The mix.
    pub mix: Mix,
    /// The seed.
    pub seed: u64,
    /// How long things are broken.
    pub broken_for: Duration,
    /// Tasks a second.
    pub rate: u64,
    /// Writes what happens to whoever waits.
    pub say: fn(&str),
}

/// Runs it. What it leaves is in the folder that the verdict names.
///
/// # Errors
/// When the harness itself fails: there is no verdict then.
pub async fn run(asked: &Asked) -> anyhow::Result<Verdict> {
    let mix = &asked.mix;
    let broken_for = asked.broken_for.max(Duration::from_secs(mix.least_s));
    let for_ms = u64::try_from(broken_for.as_millis())?;
    let strikes = draw(mix, asked.seed, for_ms);
    (asked.say)(&format!(
        "{}: starting, seed {}, {} strikes in {} s",
        mix.name,
        asked.seed,
        strikes.len(),
        for_ms / 1_000
    ));
    let world = World::start(mix, &format!("chaos/{}-{}", mix.name, asked.seed)).await?;
    let outcome = judge(asked, &world, strikes, broken_for).await;
    let folder = &world.scenario.folder;
    // Without a verdict too: what there is may say why there is none.
    keep(&world, folder).await?;
    let verdict = outcome?;
    verdict.keep(folder)?;
    Ok(verdict)
}

async fn judge(
    asked: &Asked,
    world: &World,
    strikes: Vec<Strike>,
    broken_for: Duration,
) -> anyhow::Result<Verdict> {
    let mix = &asked.mix;
    // Streams of their own, apart from the plan's.
    let mut dice = Dice::new(asked.seed ^ 0xc4a0_5000);
    let book = Arc::new(Book::default());
    let namespace = world.scenario.namespace.clone();
    let load = Load::start(&world.upstream.url, namespace, Arc::clone(&book), mix.cancels)?;
    let mut approvers = Approvers::new(Arc::clone(&load), dice.fork());
    let tap_way = super::way::Way::new(&world.broker.amqp_urls).await?;
    let (namespace, tap_file) = (world.scenario.namespace.clone(), world.scenario.folder.join("tap.jsonl"));
    let tap = (mix.copies == Copies::Everything)
        .then(|| Tap::start(&tap_way.url, namespace, dice.fork(), &tap_file))
        .transpose()?;
    if mix.consumer_timeout_ms.is_some() {
        long_tasks(&load);
    }
    let (struck, ()) = tokio::join!(
        strike_all(asked, world, strikes),
        work(asked, world, &load, &mut approvers, &mut dice, broken_for),
    );
    let copies = tap.map_or(Ok(0), Tap::stop);
    let mut surprises = world.ended_by_themselves().await;
    surprises.extend(copies.as_ref().err().map(ToString::to_string));
    surprises.extend(struck.iter().filter_map(|(_, told)| told.strip_prefix("FAILED: ").map(str::to_owned)));
    world.heal().await?;
    (asked.say)(&format!("{}: everything is mended, waiting for rest", mix.name));
    let mended = Instant::now();
    let resolved = rest(world, &book, &mut approvers).await?;
    surprises.extend(probe(asked, world, &load).await?);
    load.stop();
    let Left { queues, kept, in_hand } = quiet(world).await?;
    let rest_s = mended.elapsed().as_secs();
    surprises.extend(world.ended_by_themselves().await);
    surprises.extend(panics(world)?);
    let evidence = Evidence {
        book: book.copy(),
        resolved,
        audit: audit(world)?,
        queues,
        in_hand,
        surprises,
        excused: excused(mix),
        ..world.gather().await?
    };
    let (counts, findings) = check(&evidence);
    Ok(Verdict {
        mix: mix.name.to_owned(),
        seed: asked.seed,
        nodes: mix.nodes,
        broken_for_s: broken_for.as_secs(),
        rest_s,
        counts,
        findings,
        strikes: struck,
        copies: copies.unwrap_or_default(),
        kept,
        folder: world.scenario.folder.display().to_string(),
    })
}

fn excused(mix: &Mix) -> Excused {
    Excused {
        losses: mix.has(|fault| fault.may_lose_attempts()),
        silence: mix.silence(),
        handler_deaths: mix.has(|fault| fault.may_fail_handlers()),
    }
}

/// One for the plan and one for an apply: both longer than the broker lets a delivery be unacknowledged.
fn long_tasks(load: &Arc<Load>) {
    load.submit(plain("long-plan".into(), "long-1".into(), "plan", LONG_TASK_MS));
    let mut apply = plain("long-apply".into(), "long-2".into(), "plan_and_apply", LONG_TASK_MS);
    apply.plan.first_ms = 0;
    load.submit(apply);
}

/// Every strike at its time, side by side.
async fn strike_all(asked: &Asked, world: &World, strikes: Vec<Strike>) -> Vec<(Strike, String)> {
    let begun = tokio::time::Instant::now();
    let one = async |strike: Strike| {
        tokio::time::sleep_until(begun + Duration::from_millis(strike.at_ms)).await;
        let told = world
            .strike(&strike)
            .await
            .unwrap_or_else(|error| format!("FAILED: {:?}: {error:#}", strike.fault));
        (asked.say)(&format!(
            "{}: at {:>5.1} s for {:>4.1} s: {told}",
            asked.mix.name,
            seconds(strike.at_ms),
            seconds(strike.lasts_ms)
        ));
        (strike, told)
    };
    let mut running: FuturesUnordered<_> = strikes.into_iter().map(one).collect();
    let mut done = Vec::new();
    while let Some(struck) = running.next().await {
        done.push(struck);
    }
    done.sort_by_key(|(strike, _)| strike.at_ms);
    done
}

fn seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

/// Submits at the asked rate while the backlog is small, and decides what waits.
async fn work(
    asked: &Asked,
    world: &World,
    load: &Arc<Load>,
    approvers: &mut Approvers,
    dice: &mut Dice,
    broken_for: Duration,
) {
    let begun = Instant::now();
    let mut period = tokio::time::interval(Duration::from_millis(1_000 / asked.rate.max(1)));
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut number, mut looked, mut backlog) = (0, Instant::now(), 0);
    while begun.elapsed() < broken_for {
        period.tick().await;
        if backlog < BACKLOG_MAX {
            load.submit_drawn(number, dice);
            number += 1;
        }
        if looked.elapsed() >= LOOK_EVERY {
            looked = Instant::now();
            approvers.decide(world).await;
            // A database that is away says nothing of the backlog: the load goes on.
            backlog = open_tasks(world).await.unwrap_or(0);
        }
    }
}

async fn open_tasks(world: &World) -> anyhow::Result<i64> {
    world.scenario.count("SELECT count(*) FROM tasks WHERE finished_at IS NULL").await
}

/// Waits until every event is confirmed and every task has ended, resolving what only an operator can. Gives what was resolved.
async fn rest(
    world: &World,
    book: &Book,
    approvers: &mut Approvers,
) -> anyhow::Result<Vec<(String, String)>> {
    let mended = Instant::now();
    let (mut resolved, mut moved, mut left) = (Vec::new(), Instant::now(), None);
    while moved.elapsed() < STALLED_AFTER {
        approvers.decide(world).await;
        if mended.elapsed() > OPERATOR_AFTER {
            for task in world.texts("SELECT task_id FROM tasks WHERE status = 'uncertain'").await? {
                let waited_for = world.resolve(&task).await?;
                resolved.push((task, waited_for));
            }
        }
        let now_left = (book.open(), open_tasks(world).await?);
        if now_left == (0, 0) {
            break;
        }
        if left.replace(now_left) != Some(now_left) {
            moved = Instant::now();
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(resolved)
}

/// As many plans as there are slots, once more: they run only if no slot has leaked for good.
async fn probe(asked: &Asked, world: &World, load: &Arc<Load>) -> anyhow::Result<Vec<String>> {
    let slots = u64::from(SLOTS) * u64::from(AGENTS);
    (asked.say)(&format!("{}: at rest; {slots} probes", asked.mix.name));
    for number in 0..slots {
        load.submit(plain(format!("probe-{number}"), format!("w-{number}"), "plan", PROBE_MS));
    }
    let done = "SELECT count(*) FROM tasks WHERE task_id LIKE 'probe-%' AND status = 'succeeded'";
    let begun = Instant::now();
    while begun.elapsed() < QUIET_WITHIN {
        if u64::try_from(world.scenario.count(done).await?)? == slots {
            return Ok(Vec::new());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(vec![format!("not every probe has succeeded within {} s of rest", QUIET_WITHIN.as_secs())])
}

type Named = Vec<(String, u64)>;

/// What is there once nothing should be. All are zero if all is well.
struct Left {
    /// Ready and unacknowledged messages, by queue.
    queues: Named,
    /// Dead letters that the broker has not heard to be where they belong, by the queue that it keeps them in. Nobody can be given them.
    kept: Named,
    /// Whether an agent has anything in hand.
    in_hand: Named,
}

impl Left {
    fn is_nothing(&self) -> bool {
        [&self.queues, &self.kept, &self.in_hand].into_iter().flatten().all(|(_, count)| *count == 0)
    }
}

/// What is left in queues and in agents' hands once nothing should be.
async fn quiet(world: &World) -> anyhow::Result<Left> {
    let begun = Instant::now();
    loop {
        let (queues, kept) = queues(world).await?;
        let left = Left { queues, kept, in_hand: in_hand(world).await? };
        let letters = "SELECT count(*) FROM dead_letters WHERE logged_at IS NULL";
        let open_letters = u64::try_from(world.scenario.count(letters).await?)?;
        if left.is_nothing() && open_letters == 0 {
            return Ok(left);
        }
        if begun.elapsed() > DRAINED_WITHIN {
            keep_broker(world).await?;
            return Ok(left);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Who has what in hand by the broker's own word: what is left in a queue may be ready, or with a consumer.
async fn keep_broker(world: &World) -> anyhow::Result<()> {
    const ASKED: [&[&str]; 3] = [
        &[
            "list_queues",
            "-p",
            "switchyard",
            "name",
            "messages",
            "messages_ready",
            "messages_unacknowledged",
            "messages_dlx",
            "leader",
            "consumers",
        ],
        &[
            "list_channels",
            "pid",
            "connection",
            "number",
            "consumer_count",
            "messages_unacknowledged",
            "acks_uncommitted",
        ],
        &["list_consumers", "-p", "switchyard", "queue_name", "channel_pid", "consumer_tag", "active"],
    ];
    let mut told = String::new();
    for asked in ASKED {
        told += &format!("{}\n{}\n", asked.join(" "), world.broker.ctl(asked).await?);
    }
    Ok(std::fs::write(world.scenario.folder.join("broker-left.txt"), told)?)
}

/// Of every queue of the namespace: ready and unacknowledged messages, and those that are counted beyond them.
async fn queues(world: &World) -> anyhow::Result<(Named, Named)> {
    const COUNTS: [&str; 8] = [
        "-q",
        "list_queues",
        "-p",
        "switchyard",
        "name",
        "messages",
        "messages_ready",
        "messages_unacknowledged",
    ];
    let listed = world.broker.ctl(&COUNTS).await?;
    let prefix = format!("{}.", world.scenario.namespace);
    let (mut left, mut kept) = (Named::new(), Named::new());
    for line in listed.lines() {
        let mut columns = line.split('\t');
        let Some(name) = columns.next().and_then(|name| name.strip_prefix(&prefix)) else { continue };
        // Signs of life come all the time.
        if name.starts_with("presence.") {
            continue;
        }
        // A queue without a leader has no counts.
        let mut count = || columns.next().and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or(0);
        let (all, in_reach) = (count(), count() + count());
        left.push((name.to_owned(), in_reach));
        kept.push((name.to_owned(), all.saturating_sub(in_reach)));
    }
    Ok((left, kept))
}

async fn in_hand(world: &World) -> anyhow::Result<Named> {
    let mut found = Vec::new();
    for agent in &world.agents {
        // An agent that does not answer has nothing that it could finish: it is looked at again.
        let count = agent
            .metric("switchyard_agent_in_hand")
            .await
            .map_or(u64::MAX, |count| if count > 0.0 { 1 } else { 0 });
        found.push((agent.name.clone(), count));
    }
    Ok(found)
}

fn audit(world: &World) -> anyhow::Result<Vec<String>> {
    let output = world.scenario.dispatcher("audit").run(&["audit"])?;
    if output.status.success() {
        return Ok(Vec::new());
    }
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ok(vec![said.trim().to_owned()])
}

/// Panics in the logs of the programs: none is part of any mix.
fn panics(world: &World) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for actor in world.dispatchers.iter().chain(&world.agents) {
        let path = world.scenario.folder.join(format!("{}.log", actor.name));
        let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
        let told = text.lines().filter(|line| line.contains("panicked at"));
        found.extend(told.map(|line| format!("{} panicked: {line}", actor.name)));
    }
    Ok(found)
}

/// Everything that it takes to understand the run: rows, logs of the services. The programs' logs and the ledger are there already.
async fn keep(world: &World, folder: &Path) -> anyhow::Result<()> {
    for name in
        ["tasks", "attempts", "dead_letters", "events", "agents", "agent_sessions", "task_notes", "replicas"]
    {
        let Ok(rows) = world.table(name).await else { continue };
        let lines: Vec<String> = rows.iter().map(ToString::to_string).collect();
        std::fs::write(folder.join(format!("{name}.jsonl")), lines.join("\n")).context("a table")?;
    }
    world.broker.keep_logs(folder)?;
    world.database.keep_logs(folder)
}
