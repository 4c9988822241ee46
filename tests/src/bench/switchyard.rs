//! Switchyard as a contender: the real programs, with the handler that does nothing.

use std::path::PathBuf;
use std::process::Command;

use anyhow::ensure;

use super::contender::{About, Contender, Done, Plan};
use super::publish::{Flow, POOL};
use super::roles::Role;
use super::stage::Stage;
use crate::harness::scenario::binaries::build_folder;

/// The prefix of its names: each stage has a virtual host of its own.
const NAMESPACE: &str = "bench";
/// The kind of exclusive tasks, of one repeatable step.
const EXCLUSIVE_KIND: &str = "change";
const KINDS: &str = "[kinds.change]\nexclusive = true\n\
    [[kinds.change.steps]]\nname = \"plan\"\nhandler = \"plan\"\nrepeatable = true\n";
const HANDLERS: &str = "[handlers.plan]\nbuiltin = \"noop\"\n\n[handlers.apply]\nbuiltin = \"noop\"\n";

/// True while any task is open, by an index of what is open; also before the first one.
const OPEN: &str =
    "SELECT EXISTS (SELECT 1 FROM tasks WHERE finished_at IS NULL) OR NOT EXISTS (SELECT 1 FROM tasks)";
/// The same of tasks whose ids Switchyard has drawn: they begin with a digit, unlike those that were there before.
const OPEN_OF_OWN: &str = "SELECT EXISTS (SELECT 1 FROM tasks WHERE task_id < 'a' AND finished_at IS NULL)";
const SUCCEEDED_OF_OWN: &str = "SELECT count(*) FROM tasks WHERE task_id < 'a' AND status = 'succeeded'";
const SUCCEEDED: &str = "SELECT count(*) FROM tasks WHERE status = 'succeeded'";
const STORED: &str = "SELECT count(*) FROM tasks";
/// The agent's own clock, which is this machine's.
const SAMPLES: &str = "SELECT (t.payload->>'sent_ns')::bigint, (extract(epoch FROM a.handler_started_at) * 1000000000)::bigint \
    FROM tasks t JOIN attempts a USING (task_id) \
    WHERE t.created_at >= to_timestamp($1::bigint / 1000000000.0) AND a.handler_started_at IS NOT NULL";

/// How it is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Dispatcher processes.
    pub dispatchers: u32,
    /// Agent processes.
    pub agents: u32,
    /// Handlers that an agent runs at once.
    pub slots: u32,
    /// Attempts that may wait at an agent beyond its slots.
    pub credit: u32,
    /// Exclusive attempts that an agent runs at once.
    pub max_exclusive: u32,
    /// Whether the tasks are of an exclusive kind.
    pub exclusive: bool,
    /// Whether upstream is told how tasks end.
    pub notifications: bool,
}

impl Setting {
    /// Tasks that run side by side.
    pub const PLAIN: Self = Self {
        dispatchers: 1,
        agents: 2,
        slots: 16,
        credit: 240,
        max_exclusive: 16,
        exclusive: false,
        notifications: true,
    };
    /// Tasks of which one runs per workspace at a time.
    pub const EXCLUSIVE: Self =
        Self { slots: 128, credit: 128, max_exclusive: 128, exclusive: true, ..Self::PLAIN };

    /// The kind of its tasks.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        if self.exclusive { EXCLUSIVE_KIND } else { "plan" }
    }
}

/// Switchyard in one setting.
#[derive(Debug, Clone)]
pub struct Switchyard {
    about: About,
    setting: Setting,
    own_tasks_only: bool,
}

const GUARANTEES: &str = "durable state in PostgreSQL; each event has effect once; fenced attempts; \
    persistent, confirmed, commit before ack; fsync and synchronous_commit on";

/// The rows of the table.
#[must_use]
pub fn all() -> Vec<Switchyard> {
    let plain = About {
        id: "switchyard",
        title: "Switchyard",
        guarantees: GUARANTEES,
        settings: "1 dispatcher; 2 agents of 16 slots, credit 240; window 1,000",
        expected_per_second: [2_500.0, 2_500.0],
    };
    let exclusive = About {
        id: "switchyard-exclusive",
        title: "Switchyard, exclusive kind",
        guarantees: "the same, and one at a time and in order per workspace",
        settings: "1 dispatcher; 2 agents of 128 slots, max_exclusive 128; window 1,000",
        expected_per_second: [1_500.0, 1_500.0],
    };
    let two = About {
        id: "switchyard-two",
        title: "Switchyard, two dispatchers",
        settings: "2 dispatchers; 2 agents of 16 slots, credit 240; window 1,000",
        ..plain.clone()
    };
    let silent = About {
        id: "switchyard-silent",
        title: "Switchyard, notifications off",
        settings: "1 dispatcher that tells upstream nothing; 2 agents of 16 slots, credit 240; window 1,000",
        ..plain.clone()
    };
    vec![
        Switchyard::new(plain, Setting::PLAIN),
        Switchyard::new(exclusive, Setting::EXCLUSIVE),
        Switchyard::new(silent, Setting { notifications: false, ..Setting::PLAIN }),
        Switchyard::new(two, Setting { dispatchers: 2, ..Setting::PLAIN }),
    ]
}

impl Switchyard {
    const fn new(about: About, setting: Setting) -> Self {
        Self { about, setting, own_tasks_only: false }
    }

    /// Not waiting for tasks that were in the table before.
    #[must_use]
    pub fn watching_own_tasks(self) -> Self {
        Self { own_tasks_only: true, ..self }
    }

    /// In a setting of its own, for a curve.
    #[must_use]
    pub fn with(self, setting: Setting) -> Self {
        Self { setting, ..self }
    }
}

fn dispatcher(stage: &Stage, listen: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(binary("dispatcher")?);
    command.env("SWITCHYARD_AMQP_URL", &stage.amqp_url).env("SWITCHYARD_DATABASE_URL", &stage.database_url);
    command.env("SWITCHYARD_NAMESPACE", NAMESPACE).env("SWITCHYARD_HTTP_LISTEN", listen);
    command.env("SWITCHYARD_CONFIG", stage.path().join("dispatcher.toml")).env("RUST_LOG", "warn");
    Ok(command)
}

fn agent(stage: &Stage, number: u32, setting: Setting) -> anyhow::Result<Command> {
    let mut command = Command::new(binary("worker-agent")?);
    command.env_remove("SWITCHYARD_DATABASE_URL").env("SWITCHYARD_AMQP_URL", &stage.amqp_url);
    command.env("SWITCHYARD_NAMESPACE", NAMESPACE).env("RUST_LOG", "warn");
    command.env("SWITCHYARD_POOL", POOL).env("SWITCHYARD_AGENT_ID", format!("worker-{number}"));
    command.env("SWITCHYARD_SLOTS", setting.slots.to_string());
    command.env("SWITCHYARD_CREDIT", setting.credit.to_string());
    command.env("SWITCHYARD_MAX_EXCLUSIVE", setting.max_exclusive.to_string());
    command.env("SWITCHYARD_WORK_DIR", stage.path().join(format!("work-{number}")));
    command.args(["run", "--config"]).arg(stage.path().join("handlers.toml"));
    Ok(command)
}

/// Where the first dispatcher of a stage serves its metrics.
///
/// # Errors
/// When there is no free port.
pub fn metrics_address(stage: &Stage) -> anyhow::Result<String> {
    let file = stage.path().join("http");
    if let Ok(address) = std::fs::read_to_string(&file) {
        return Ok(address);
    }
    let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    std::fs::write(&file, &address)?;
    Ok(address)
}

fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let path = build_folder()?.join(name);
    ensure!(path.exists(), "{} is missing: build it with the same profile", path.display());
    Ok(path)
}

impl Contender for Switchyard {
    fn about(&self) -> &About {
        &self.about
    }

    fn plan(&self, stage: &Stage) -> anyhow::Result<Plan> {
        std::fs::write(stage.path().join("dispatcher.toml"), KINDS)?;
        std::fs::write(stage.path().join("handlers.toml"), HANDLERS)?;
        let metrics = metrics_address(stage)?;
        let mut migrate = dispatcher(stage, &metrics)?;
        migrate.arg("migrate");
        let serve = |number: u32| -> anyhow::Result<(String, Command)> {
            let mut command = dispatcher(stage, if number == 0 { &metrics } else { "127.0.0.1:0" })?;
            command.env("SWITCHYARD_NOTIFICATIONS", self.setting.notifications.to_string()).arg("serve");
            Ok((format!("dispatcher-{number}"), command))
        };
        let worker = |number| Ok((format!("agent-{number}"), agent(stage, number, self.setting)?));
        let (open, succeeded) =
            if self.own_tasks_only { (OPEN_OF_OWN, SUCCEEDED_OF_OWN) } else { (OPEN, SUCCEEDED) };
        let done = Done::Queries { open, succeeded, samples: SAMPLES };
        Ok(Plan {
            setup: vec![migrate],
            front: (0..self.setting.dispatchers).map(serve).collect::<anyhow::Result<_>>()?,
            workers: (0..self.setting.agents).map(worker).collect::<anyhow::Result<_>>()?,
            behind: Vec::new(),
            ready: Some(metrics),
            front_is_broker: false,
            done,
            stored: Some(STORED),
        })
    }

    fn publisher(&self, stage: &Stage, flow: Flow) -> anyhow::Result<Command> {
        let kind = self.setting.kind().to_owned();
        let role = Role::PublishToSwitchyard { namespace: NAMESPACE.to_owned(), kind, flow: flow.into() };
        role.command(&stage.amqp_url)
    }
}
