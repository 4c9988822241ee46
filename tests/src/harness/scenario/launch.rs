//! How dispatchers and agents are started: their environment and their configuration files.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chrono::{DateTime, Utc};

use super::binaries::Binary;
use super::http;
use super::process::{Process, Spec};
use super::world::Scenario;
use crate::harness::wait::{Look, until};

/// Variables of the test's own environment that programs under test get.
pub const DISPATCHER_ENV_KEPT: [&str; 4] = ["PATH", "HOME", "LANG", "RUST_LOG"];
/// Longest wait for a dispatcher to be ready, or an agent to be heard.
pub const START_WITHIN: Duration = Duration::from_secs(60);

/// The kinds that scenarios have beside the built-in ones. `once` runs the builtin handler `test` and is not tried again.
pub const KINDS: &str = r#"
[kinds.once]
exclusive = false
[[kinds.once.steps]]
name = "run"
handler = "test"
repeatable = true
policy = { max_attempts = 1 }

[kinds.once_exclusive]
exclusive = true
[[kinds.once_exclusive.steps]]
name = "run"
handler = "test"
repeatable = true
policy = { max_attempts = 1 }
"#;

/// The handlers of an agent unless a scenario gives others: the payload says what happens, see the builtin handler `test`.
pub const HANDLERS: &str = r#"
[handlers.plan]
builtin = "test"
[handlers.apply]
builtin = "test"
[handlers.test]
builtin = "test"
[handlers.noop]
builtin = "noop"
"#;

/// A program that is about to be started.
pub struct Launch<'a> {
    scenario: &'a Scenario,
    binary: Binary,
    name: String,
    arguments: Vec<OsString>,
    env: BTreeMap<String, OsString>,
    /// For the agent: who it is.
    agent: Option<(String, String)>,
    config: String,
}

impl<'a> Launch<'a> {
    pub(super) fn dispatcher(scenario: &'a Scenario, name: &str) -> Self {
        Self::new(scenario, Binary::Dispatcher, name, KINDS)
            .env("SWITCHYARD_DATABASE_URL", &scenario.database.url)
            .env("SWITCHYARD_AGENT_LOST_AFTER", format!("{}ms", scenario.pace.lost_after.as_millis()))
    }

    pub(super) fn agent(scenario: &'a Scenario, id: &str) -> Self {
        let work_dir = scenario.folder.join("work").join(id);
        let mut launch = Self::new(scenario, Binary::Agent, id, HANDLERS)
            .env("SWITCHYARD_AGENT_ID", id)
            .env("SWITCHYARD_WORK_DIR", work_dir)
            .env("SWITCHYARD_AGENT_LOST_AFTER", format!("{}ms", scenario.pace.lost_after.as_millis()))
            .env("SWITCHYARD_HEARTBEAT", format!("{}ms", scenario.pace.heartbeat.as_millis()));
        launch.agent = Some(("default".to_owned(), id.to_owned()));
        launch
    }

    fn new(scenario: &'a Scenario, binary: Binary, name: &str, config: &str) -> Self {
        let kept =
            DISPATCHER_ENV_KEPT.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var_os(name)?)));
        let launch = Self {
            scenario,
            binary,
            name: name.to_owned(),
            arguments: Vec::new(),
            env: kept.collect(),
            agent: None,
            config: config.to_owned(),
        };
        launch
            .env("SWITCHYARD_LOG", "json")
            .env("SWITCHYARD_AMQP_URL", &scenario.amqp_url)
            .env("SWITCHYARD_NAMESPACE", scenario.namespace.as_str())
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    /// Takes a variable out.
    #[must_use]
    pub fn without_env(mut self, name: &str) -> Self {
        self.env.remove(name);
        self
    }

    /// The TOML of this program, in place of [`KINDS`] or [`HANDLERS`]. Relative commands are relative to the scenario's folder.
    #[must_use]
    pub fn config(mut self, toml: impl Into<String>) -> Self {
        self.config = toml.into();
        self
    }

    /// The pool of an agent; `default` unless set.
    #[must_use]
    pub fn pool(mut self, pool: &str) -> Self {
        if let Some((known, _)) = &mut self.agent {
            pool.clone_into(known);
        }
        self
    }

    /// The slots of an agent, and as much credit.
    #[must_use]
    pub fn slots(self, slots: u32) -> Self {
        self.env("SWITCHYARD_SLOTS", slots.to_string())
    }

    /// Starts the program and waits until it works: a dispatcher is ready, an agent has been heard by a dispatcher.
    ///
    /// # Errors
    /// When it does not come to that; the end of its log is in the message.
    pub async fn start(self) -> anyhow::Result<Process> {
        let (scenario, agent) = (self.scenario, self.agent.clone());
        let since = scenario.now().await?;
        let mut process = self.spawn()?;
        match agent {
            Some((pool, id)) => until_heard(scenario, &mut process, &pool, &id, since).await?,
            None => until_ready(&mut process).await?,
        }
        Ok(process)
    }

    /// Starts the program and waits for nothing.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(self) -> anyhow::Result<Process> {
        let (scenario, agent) = (self.scenario, self.agent.clone());
        let spec = match agent {
            Some((pool, id)) => {
                scenario.remember_agent(&pool, &id);
                let file = scenario.write(&format!("{id}.toml"), &self.config)?;
                let launch = self.env("SWITCHYARD_POOL", pool);
                Launch { arguments: vec!["--config".into(), file.into()], ..launch }.spec()?
            }
            None => self.serving()?,
        };
        Process::start(&spec)
    }

    /// Runs the dispatcher's command line to its end, with the dispatcher's configuration.
    ///
    /// # Errors
    /// When it cannot be run. A command that fails is no error: see its status.
    pub fn run(self, arguments: &[&str]) -> anyhow::Result<Output> {
        ensure!(self.agent.is_none(), "the worker-agent has no commands to run to their end");
        let arguments = arguments.iter().map(OsString::from).collect();
        let spec = Launch { arguments, ..self.with_config_file()? }.spec()?;
        let mut command = std::process::Command::new(&spec.program);
        command.args(&spec.arguments).env_clear().envs(&spec.env).stdin(std::process::Stdio::null());
        command.output().with_context(|| format!("cannot run {}", spec.program.display()))
    }

    /// A port of its own, so that any number of dispatchers run side by side.
    fn serving(self) -> anyhow::Result<Spec> {
        let port = http::free_port()?;
        let launch = self.with_config_file()?.env("SWITCHYARD_HTTP_LISTEN", format!("127.0.0.1:{port}"));
        let spec = Launch { arguments: vec!["serve".into()], ..launch }.spec()?;
        Ok(Spec { http_port: Some(port), ..spec })
    }

    fn with_config_file(self) -> anyhow::Result<Self> {
        let file = self.scenario.write(&format!("{}.toml", self.name), &self.config)?;
        Ok(self.env("SWITCHYARD_CONFIG", file))
    }

    fn spec(self) -> anyhow::Result<Spec> {
        Ok(Spec {
            log: self.scenario.folder.join(format!("{}.log", self.name)),
            program: self.binary.path()?,
            name: self.name,
            arguments: self.arguments,
            env: self.env,
            http_port: None,
        })
    }
}

/// A dispatcher is ready when it says so itself.
async fn until_ready(process: &mut Process) -> anyhow::Result<()> {
    until(format!("{} to be ready", process.name()), START_WITHIN, async || {
        still_there(process)?;
        Ok(match process.get("/readyz").await {
            Ok(answer) if answer.status == 200 => Look::There(()),
            Ok(answer) => Look::NotYet(answer.body),
            Err(_) => Look::NotYet(process.log().tail()),
        })
    })
    .await
}

/// An agent works when a dispatcher has heard it since its start.
async fn until_heard(
    scenario: &Scenario,
    process: &mut Process,
    pool: &str,
    id: &str,
    since: DateTime<Utc>,
) -> anyhow::Result<()> {
    until(format!("agent {pool}/{id} to be heard"), START_WITHIN, async || {
        still_there(process)?;
        let agents = scenario.agents().await?;
        let heard = agents
            .iter()
            .any(|agent| agent.pool == pool && agent.agent == id && agent.live && agent.last_seen >= since);
        Ok(Look::holds(heard, || process.log().tail()))
    })
    .await
}

/// A program that ends while it is waited for will not become ready.
fn still_there(process: &mut Process) -> anyhow::Result<()> {
    let ended = process.ended()?;
    ensure!(ended.is_none(), "{} ended ({ended:?}); {}", process.name(), process.log().tail());
    Ok(())
}
