//! `make load`: no-op tasks over many workspaces through one dispatcher and two agents, beside the raw three-hop chain of the same run.
//!
//! Needs the release binaries beside it, and the services of `SWITCHYARD_AMQP_URL` and `SWITCHYARD_DATABASE_URL`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::Parser;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::json;
use switchyard_common::broker::{BrokerConfig, Outgoing, Properties, Publisher};
use switchyard_common::config::Secret;
use switchyard_common::contract::cloudevent::{CloudEvent, STRUCTURED_CONTENT_TYPE};
use switchyard_common::contract::event::EventType;
use switchyard_common::contract::topology::Namespace;
use switchyard_tests::bench::chain;
use tokio_postgres::NoTls;
use uuid::Uuid;

const WORKSPACES: usize = 500;
const AGENTS: u8 = 2;
const PAYLOAD_BYTES: usize = 300;
const PUBLISH_WINDOW: usize = 1_000;
const READY_MAX: Duration = Duration::from_secs(30);
const RUN_MAX: Duration = Duration::from_secs(300);
/// How often the database is asked whether all is done: short beside the run, and seldom enough to cost nothing.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Runs no-op tasks through one dispatcher and two agents, and as many messages through the raw three-hop chain before and after.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many tasks.
    #[arg(default_value_t = 20_000)]
    tasks: usize,
    /// Their kind.
    #[arg(default_value = "plan")]
    kind: String,
    /// Slots of each agent.
    #[arg(long, default_value_t = 16)]
    slots: u32,
    /// Assignments that may wait at each agent beyond its slots.
    #[arg(long, default_value_t = 48)]
    credit: u32,
}

/// A process that ends with this value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let asked = Arguments::parse();
    let Arguments { tasks, ref kind, slots, credit } = asked;
    let amqp_url = std::env::var("SWITCHYARD_AMQP_URL")
        .context("SWITCHYARD_AMQP_URL is not set: run `make up` first")?;
    say(&format!("raw three-hop chain, {tasks} messages"));
    let before = chain::run(&amqp_url, tasks, PAYLOAD_BYTES).await;
    let rate = switchyard(&amqp_url, &asked).await?;
    say(&format!("raw three-hop chain again, {tasks} messages"));
    let after = chain::run(&amqp_url, tasks, PAYLOAD_BYTES).await;
    let raw = f64::midpoint(before, after);
    say("");
    say(&format!("raw three-hop chain   {before:>8.0} messages/s before, {after:>8.0} after"));
    say(&format!(
        "Switchyard            {rate:>8.0} tasks/s ({tasks} no-op {kind} tasks, {WORKSPACES} workspaces, {AGENTS} agents of {slots} slots + {credit} credit)"
    ));
    say(&format!("ratio                 {:>8.2}", rate / raw));
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::print_stdout, reason = "a program for people")]
fn say(text: &str) {
    println!("{text}");
}

async fn switchyard(amqp_url: &str, asked: &Arguments) -> anyhow::Result<f64> {
    let Arguments { tasks, ref kind, slots, credit } = *asked;
    let namespace = format!("load-{}", &Uuid::new_v4().simple().to_string()[..8]);
    let database_url = make_database(&namespace).await?;
    let folder = tempfile::tempdir()?;
    let dispatcher = binary("dispatcher")?;
    let environment = |command: &mut Command| {
        command.env("SWITCHYARD_AMQP_URL", amqp_url).env("SWITCHYARD_DATABASE_URL", &database_url);
        command.env("SWITCHYARD_NAMESPACE", &namespace).env("SWITCHYARD_HTTP_LISTEN", "127.0.0.1:0");
        command.env("RUST_LOG", "warn").stdin(Stdio::null());
    };
    let mut migrate = Command::new(&dispatcher);
    environment(&mut migrate);
    ensure!(migrate.arg("migrate").status()?.success(), "the migration failed");
    let mut serve = Command::new(&dispatcher);
    environment(&mut serve);
    let serving = Process(serve.arg("serve").stderr(log(folder.path(), "dispatcher")?).spawn()?);
    let handlers = folder.path().join("handlers.toml");
    std::fs::write(
        &handlers,
        "[handlers.plan]\nbuiltin = \"noop\"\n\n[handlers.apply]\nbuiltin = \"noop\"\n",
    )?;
    let mut agents = Vec::new();
    for number in 0..AGENTS {
        let mut agent = Command::new(binary("worker-agent")?);
        environment(&mut agent);
        agent.env_remove("SWITCHYARD_DATABASE_URL").env_remove("SWITCHYARD_HTTP_LISTEN");
        agent.env("SWITCHYARD_POOL", "load").env("SWITCHYARD_AGENT_ID", format!("worker-{number}"));
        agent
            .env("SWITCHYARD_SLOTS", slots.to_string())
            .env("SWITCHYARD_CREDIT", credit.to_string())
            .env("SWITCHYARD_MAX_EXCLUSIVE", slots.to_string());
        agent.env("SWITCHYARD_WORK_DIR", folder.path().join(format!("work-{number}")));
        agent
            .args(["run", "--config"])
            .arg(&handlers)
            .stderr(log(folder.path(), &format!("agent-{number}"))?);
        agents.push(Process(agent.spawn()?));
    }
    let (client, connection) = tokio_postgres::connect(&database_url, NoTls).await?;
    let driver = switchyard_common::guard::spawn_guarded("load-database", connection);
    wait_for_agents(&client).await?;
    say(&format!("Switchyard, {tasks} tasks"));
    let rate = measure(amqp_url, &namespace, &client, tasks, kind).await;
    if rate.is_err() {
        say(&format!("logs are in {}", folder.keep().display()));
    } else {
        let mut audit = Command::new(&dispatcher);
        environment(&mut audit);
        ensure!(audit.arg("audit").status()?.success(), "the audit found something");
    }
    drop((agents, serving));
    driver.abort();
    rate
}

fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let mine = std::env::current_exe()?;
    let path = mine.parent().context("a folder")?.join(name);
    ensure!(path.exists(), "{} is missing: build it with the same profile", path.display());
    Ok(path)
}

fn log(folder: &Path, name: &str) -> anyhow::Result<std::fs::File> {
    Ok(std::fs::File::create(folder.join(format!("{name}.log")))?)
}

async fn make_database(namespace: &str) -> anyhow::Result<String> {
    let url = std::env::var("SWITCHYARD_DATABASE_URL")
        .context("SWITCHYARD_DATABASE_URL is not set: run `make up` first")?;
    let name = namespace.replace('-', "_");
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    let driver = switchyard_common::guard::spawn_guarded("load-setup", connection);
    client.batch_execute(&format!("CREATE DATABASE {name}")).await?;
    driver.abort();
    let (server, _) = url.rsplit_once('/').context("the database URL names a database")?;
    Ok(format!("{server}/{name}"))
}

async fn wait_for_agents(client: &tokio_postgres::Client) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_MAX;
    loop {
        let live: i64 = client.query_one("SELECT count(*) FROM agents WHERE live", &[]).await?.get(0);
        if live == i64::from(AGENTS) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{live} of {AGENTS} agents are live after {READY_MAX:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Tasks per second from the first publish to the last end.
async fn measure(
    amqp_url: &str,
    namespace: &str,
    client: &tokio_postgres::Client,
    tasks: usize,
    kind: &str,
) -> anyhow::Result<f64> {
    let names = Namespace::new(namespace)?;
    let mut config = BrokerConfig::new(Secret::new(amqp_url), "load");
    config.publish_window = PUBLISH_WINDOW;
    let publisher = Publisher::start(&config, "load")?;
    let started = Instant::now();
    let mut in_flight = FuturesUnordered::new();
    for number in 0..tasks {
        if in_flight.len() >= PUBLISH_WINDOW {
            in_flight.next().await;
        }
        let message = event(&names, number, kind)?;
        let publisher = publisher.clone();
        in_flight.push(async move { publisher.publish(message).await.is_acked() });
    }
    while let Some(acked) = in_flight.next().await {
        ensure!(acked, "an event was not confirmed");
    }
    let published = started.elapsed();
    loop {
        let (ended, failed) = ended(client).await?;
        ensure!(failed == 0, "{failed} tasks did not succeed");
        if ended == i64::try_from(tasks)? {
            break;
        }
        if started.elapsed() > RUN_MAX {
            bail!("{ended} of {tasks} tasks have ended after {RUN_MAX:?}");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let elapsed = started.elapsed();
    say(&format!(
        "  published in {:.1} s, all succeeded after {:.1} s",
        published.as_secs_f64(),
        elapsed.as_secs_f64()
    ));
    publisher.close(Duration::from_secs(5)).await;
    Ok(tasks as f64 / elapsed.as_secs_f64())
}

/// How many tasks have ended and how many of them not well; 0 while any is open. Looking must cost nothing that is measured: only an
/// index of what is open is read until then.
async fn ended(client: &tokio_postgres::Client) -> anyhow::Result<(i64, i64)> {
    const OPEN: &str =
        "SELECT EXISTS (SELECT 1 FROM tasks WHERE finished_at IS NULL) OR NOT EXISTS (SELECT 1 FROM tasks)";
    const ENDED: &str = "SELECT count(*), count(*) FILTER (WHERE status <> 'succeeded') FROM tasks";
    if client.query_one(OPEN, &[]).await?.get(0) {
        return Ok((0, 0));
    }
    let row = client.query_one(ENDED, &[]).await?;
    Ok((row.get(0), row.get(1)))
}

fn event(names: &Namespace, number: usize, kind: &str) -> anyhow::Result<Outgoing> {
    let padding = "x".repeat(PAYLOAD_BYTES / 3);
    let data = json!({
        "workspace_id": format!("ws-{}", number % WORKSPACES), "pool": "load", "kind": kind, "payload": { "padding": padding },
        "auto_approve": (kind == "plan_and_apply").then_some(true),
    });
    let event_type = EventType::TaskSubmitted.as_str();
    let event = CloudEvent::new(format!("load-{number}"), "/load", event_type, data);
    let properties = Properties::persistent(STRUCTURED_CONTENT_TYPE);
    Ok(Outgoing::new(&names.events_exchange(), event_type, properties, serde_json::to_vec(&event)?, true)?)
}
