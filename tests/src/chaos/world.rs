//! The stage of one mix: a broker and a database of its own, processes, and a way for each of them to each service.

use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use switchyard_common::contract::ids::{AgentId, PoolId};
use tokio::sync::Mutex;

use super::behaviour::{LEDGER_VARIABLE, NO_CHANGES_CODE};
use super::evidence::Life;
use super::load::POOL;
use super::mixes::{Copies, Mix};
use super::plan::AGENTS;
use super::way::Way;
use crate::harness::mutants::switched;
use crate::harness::scenario::binaries::build_folder;
use crate::harness::scenario::{Process, Scenario, http};
use crate::harness::services::{Part, Services};

/// The handler program, beside the running one.
pub const HANDLER: &str = "chaos-handler";
/// Time between heartbeats.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// Silence after which an agent is lost.
pub const LOST_AFTER: Duration = Duration::from_secs(12);
/// Time from TERM to KILL of a handler, in milliseconds.
const KILL_GRACE_MS: u64 = 1_000;
/// Slots of an agent; as much credit, and as many of them may be exclusive.
pub const SLOTS: u32 = 5;
/// How often a broker looks for deliveries that are too old, in milliseconds, where that matters. A minute by default.
const TICK_MS: u64 = 5_000;

/// A dispatcher or an agent: what it is started with, and its process while it lives.
pub struct Actor {
    /// Its name, and that of its log.
    pub name: String,
    /// Its way to the broker.
    pub broker: Way,
    /// A dispatcher's way to the database.
    pub database: Option<Way>,
    /// How far its clock is off, as libfaketime reads it.
    clock: &'static str,
    /// The port that it answers on.
    port: u16,
    /// The process. Held by whoever breaks it for as long as it is broken.
    pub process: Mutex<Option<Process>>,
    /// When its processes ran: the start, and the end if it was killed.
    ran: std::sync::Mutex<Vec<(SystemTime, Option<SystemTime>)>>,
}

/// Who is being broken or mended.
#[derive(Default)]
pub struct Mending {
    /// The broker, or a node of it.
    pub broker: Mutex<()>,
    /// PostgreSQL.
    pub database: Mutex<()>,
}

/// The stage.
pub struct World {
    /// Dispatchers.
    pub dispatchers: Vec<Actor>,
    /// Agents.
    pub agents: Vec<Actor>,
    /// The publisher's way to the broker.
    pub upstream: Way,
    /// Namespace, database, folder with everything that is kept.
    pub scenario: Scenario,
    /// The broker.
    pub broker: Services,
    /// PostgreSQL.
    pub database: Services,
    /// Held while the broker or the database is broken: to come back takes them longer than the fault lasts.
    pub mending: Mending,
    /// Whether messages are copied.
    pub copies: Copies,
    /// The ledger's file.
    pub ledger: PathBuf,
}

impl World {
    /// Starts everything and waits until it works.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start(mix: &Mix, name: &str) -> anyhow::Result<Self> {
        let (services, database) = (format!("chaos-{}", mix.name), format!("chaos-{}-database", mix.name));
        let broker = async {
            if mix.nodes == 1 {
                Services::start(&services, Part::Broker).await
            } else {
                Services::start_cluster(&services).await
            }
        };
        let (broker, database) = futures::try_join!(broker, Services::start(&database, Part::Database))?;
        let amqp_url = broker.amqp_url.clone().context("a broker has a URL")?;
        let database_url = database.database_url.clone().context("a database has a URL")?;
        let scenario = Scenario::at(name, &amqp_url, &database_url).await?.with_pace(HEARTBEAT, LOST_AFTER);
        let ledger = scenario.folder.join("ledger.jsonl");
        let upstream = Way::new(&broker.amqp_urls).await?;
        let (mut dispatchers, mut agents) = (Vec::new(), Vec::new());
        for number in 0..mix.dispatchers {
            let clock = mix.clocks.get(usize::from(number)).copied().unwrap_or_default();
            let database = Some(Way::new(std::slice::from_ref(&scenario.database.url)).await?);
            let broker = Way::new(&broker.amqp_urls).await?;
            dispatchers.push(Actor::new(format!("dispatcher-{number}"), broker, database, clock)?);
        }
        for number in 0..AGENTS {
            agents.push(Actor::new(format!("agent-{number}"), Way::new(&broker.amqp_urls).await?, None, "")?);
        }
        let (copies, mending) = (mix.copies, Mending::default());
        let world =
            Self { dispatchers, agents, upstream, scenario, broker, database, mending, copies, ledger };
        world.prepare(mix).await?;
        Ok(world)
    }

    async fn prepare(&self, mix: &Mix) -> anyhow::Result<()> {
        // A copy: a build in the middle of a run would take it away.
        let built = build_folder()?.join(HANDLER);
        std::fs::copy(&built, self.scenario.folder.join(HANDLER))
            .with_context(|| built.display().to_string())?;
        if let Some(timeout_ms) = mix.consumer_timeout_ms {
            // Read by each channel when it is opened.
            let settings = format!(
                "application:set_env(rabbit, consumer_timeout, {timeout_ms}), application:set_env(rabbit, channel_tick_interval, {TICK_MS})."
            );
            self.broker.ctl(&["eval", &settings]).await?;
        }
        self.trace().await?;
        for actor in self.dispatchers.iter().chain(&self.agents) {
            *actor.process.lock().await = Some(self.started(actor).await?);
        }
        if mix.nodes == 1 {
            self.until_on_disk().await?;
        }
        Ok(())
    }

    /// The broker shows every message to whoever listens, as the tap does. Each node has to be told, for the channels that are open at it
    /// (`rabbitmqctl trace_on` tells one), and forgets it when it restarts. A node that does not answer is stopped by a signal, and
    /// remembers.
    ///
    /// # Errors
    /// When it cannot be told.
    pub async fn trace(&self) -> anyhow::Result<()> {
        const EACH_NODE: &str = "[rpc:call(Node, rabbit_trace, start, [<<\"switchyard\">>], 5000) || Node <- rabbit_nodes:all_running()].";
        if self.copies == Copies::Everything {
            let told = self.broker.ctl(&["eval", EACH_NODE]).await?;
            ensure!(told.contains("ok"), "no node shows what passes through it: {told}");
        }
        Ok(())
    }

    /// A broker of one node forgets a queue that it is killed too soon after (docs/adr/silent-queues.md): known, and not what is tested.
    async fn until_on_disk(&self) -> anyhow::Result<()> {
        let namespace = &self.scenario.namespace;
        let mut queues: Vec<String> =
            namespace.dispatcher_topology().queues.into_iter().map(|queue| queue.name).collect();
        for agent in &self.agents {
            queues.push(namespace.agent_queue(&PoolId::new(POOL)?, &AgentId::new(&agent.name)?));
        }
        for queue in queues {
            self.broker.until_on_disk(&queue).await?;
        }
        Ok(())
    }

    /// The way of an actor's start: the same whenever it starts again.
    fn launch(&self, actor: &Actor) -> anyhow::Result<crate::harness::scenario::Launch<'_>> {
        let launch = match &actor.database {
            Some(way) => self
                .scenario
                .dispatcher(&actor.name)
                .env("SWITCHYARD_DATABASE_URL", &way.url)
                .env("RUST_LOG", "info"),
            None => self
                .scenario
                .agent(&actor.name)
                .slots(SLOTS)
                .env("SWITCHYARD_MAX_EXCLUSIVE", SLOTS.to_string())
                .env("SWITCHYARD_AGENT_HTTP_LISTEN", format!("127.0.0.1:{}", actor.port))
                .config(self.handlers()?),
        };
        let launch = launch.env("SWITCHYARD_AMQP_URL", &actor.broker.url);
        let launch = match std::env::var_os(switched::VARIABLE) {
            Some(number) => launch.env(switched::VARIABLE, number),
            None => launch,
        };
        Ok(match actor.clock {
            "" => launch,
            // The clocks that only count are left alone: an hour is what a wrong time server makes of a machine.
            offset => launch
                .env("LD_PRELOAD", faketime()?)
                .env("FAKETIME", offset)
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        })
    }

    async fn started(&self, actor: &Actor) -> anyhow::Result<Process> {
        actor.begins();
        self.launch(actor)?.start().await.with_context(|| format!("{} does not start", actor.name))
    }

    /// Starts an actor again, and does not wait for it: whatever it needs may be broken.
    ///
    /// # Errors
    /// When there is no such program.
    pub fn begin(&self, actor: &Actor) -> anyhow::Result<Process> {
        actor.begins();
        self.launch(actor)?.spawn()
    }

    fn handlers(&self) -> anyhow::Result<String> {
        let program = self.scenario.folder.join(HANDLER);
        // A supervisor gets the environment of its handler alone.
        let removed = std::env::var(switched::VARIABLE)
            .map_or_else(|_| String::new(), |number| format!(", {} = \"{number}\"", switched::VARIABLE));
        let one = |name: &str| {
            format!(
                "[handlers.{name}]\ncommand = [\"{}\"]\nenv = {{ {LEDGER_VARIABLE} = \"{}\"{removed} }}\n\
                 exit_codes = {{ 0 = \"succeeded\", {NO_CHANGES_CODE} = \"no_changes\" }}\nkill_grace_ms = {KILL_GRACE_MS}\n",
                program.display(),
                self.ledger.display()
            )
        };
        Ok(one("plan") + &one("apply"))
    }

    /// Undoes whatever is still broken.
    ///
    /// # Errors
    /// When something cannot be started again.
    pub async fn heal(&self) -> anyhow::Result<()> {
        for actor in self.dispatchers.iter().chain(&self.agents) {
            actor.broker.heal();
            actor.database.iter().for_each(Way::heal);
            let mut process = actor.process.lock().await;
            let lives = process.as_mut().is_some_and(|process| matches!(process.ended(), Ok(None)));
            match process.as_ref().filter(|_| lives) {
                Some(process) => process.signal(Signal::SIGCONT)?,
                None => *process = Some(self.begin(actor)?),
            }
        }
        self.trace().await
    }

    /// Processes that ended although nobody killed them.
    pub async fn ended_by_themselves(&self) -> Vec<String> {
        let mut found = Vec::new();
        for actor in self.dispatchers.iter().chain(&self.agents) {
            if let Some(process) = actor.process.lock().await.as_mut()
                && let Ok(Some(status)) = process.ended()
            {
                found.push(format!("{} ended by itself: {status}", actor.name));
            }
        }
        found
    }
}

impl Actor {
    fn new(name: String, broker: Way, database: Option<Way>, clock: &'static str) -> anyhow::Result<Self> {
        Ok(Self {
            name,
            broker,
            database,
            clock,
            port: http::free_port()?,
            process: Mutex::new(None),
            ran: std::sync::Mutex::default(),
        })
    }

    /// One process at a time: whatever ran before has ended by now.
    fn begins(&self) {
        self.has_ended();
        self.ran.lock().unwrap_or_else(PoisonError::into_inner).push((SystemTime::now(), None));
    }

    /// Notes that its process has ended.
    pub fn has_ended(&self) {
        if let Some((_, end)) = self.ran.lock().unwrap_or_else(PoisonError::into_inner).last_mut() {
            end.get_or_insert_with(SystemTime::now);
        }
    }

    /// When its processes ran.
    #[must_use]
    pub fn lives(&self) -> Vec<Life> {
        let ran = self.ran.lock().unwrap_or_else(PoisonError::into_inner);
        let life = |(from, to): &(SystemTime, Option<SystemTime>)| Life {
            agent: self.name.clone(),
            from_ms: since_epoch_ms(*from),
            to_ms: to.map(since_epoch_ms),
        };
        ran.iter().map(life).collect()
    }

    /// One value among an agent's metrics.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let body = http::get(self.port, "/metrics").await?.body;
        let line = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.with_context(|| format!("{} has no metric {name}", self.name))?
            .trim()
            .parse()
            .context("a number")
    }
}

fn since_epoch_ms(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// The library that shifts a program's clock, installed when it is missing.
fn faketime() -> anyhow::Result<PathBuf> {
    let found = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"]
        .map(|folder| PathBuf::from(folder).join("faketime/libfaketime.so.1"));
    found
        .into_iter()
        .find(|path| path.is_file())
        .context("libfaketime is not installed: deploy/local/services need faketime faketime")
}
