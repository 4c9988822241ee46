//! The scenario itself.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use lapin::options::ExchangeDeleteOptions;
use switchyard_common::broker::{BrokerConfig, Session, delete_queue};
use switchyard_common::config::Secret;
use switchyard_common::contract::ids::{AgentId, PoolId};
use switchyard_common::contract::topology::Namespace;
use switchyard_common::guard::spawn_thread_guarded;
use uuid::Uuid;

use super::binaries::build_folder;
use super::launch::Launch;
use super::upstream::Upstream;
use crate::harness::database::TestDatabase;
use crate::harness::services::Services;

/// The variable that names the broker.
pub const AMQP_URL_VARIABLE: &str = "SWITCHYARD_AMQP_URL";

/// The times that dispatchers and agents of a scenario share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// Silence after which an agent is lost.
    pub lost_after: Duration,
}

impl Default for Pace {
    /// Losses as rare as in production, signs of life a little more often.
    fn default() -> Self {
        Self { heartbeat: Duration::from_secs(1), lost_after: Duration::from_secs(20) }
    }
}

/// A namespace, a database and a folder. What it made goes when it is dropped; the folder with the logs stays until the next run.
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// The prefix of every name at the broker.
    pub namespace: Namespace,
    /// Its database.
    pub database: TestDatabase,
    /// Logs, configuration files, working directories.
    pub folder: PathBuf,
    /// Times that its programs share.
    pub pace: Pace,
    /// Its broker.
    pub amqp_url: String,
    agents: Mutex<BTreeSet<(String, String)>>,
}

impl Scenario {
    /// Makes a scenario on the broker of `SWITCHYARD_AMQP_URL` and the database server of `SWITCHYARD_DATABASE_URL`. `name` is unique
    /// among the tests: it is the folder's.
    ///
    /// # Errors
    /// When the broker is not named, or the folder cannot be made.
    ///
    /// # Panics
    /// When the database server is not named or cannot be reached.
    pub async fn new(name: &str) -> anyhow::Result<Self> {
        Self::with(name, shared_broker()?, TestDatabase::new().await)
    }

    /// As [`new`](Self::new), with those services of its own that `services` has.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    ///
    /// # Panics
    /// When the database server is not named or cannot be reached.
    pub async fn on(name: &str, services: &Services) -> anyhow::Result<Self> {
        let amqp_url = services.amqp_url.clone().map_or_else(shared_broker, Ok)?;
        let database = match &services.database_url {
            Some(server) => TestDatabase::on(server.clone()).await,
            None => TestDatabase::new().await,
        };
        Self::with(name, amqp_url, database)
    }

    /// As [`new`](Self::new), on a broker and a database server of the caller's choice.
    ///
    /// # Errors
    /// When the folder cannot be made.
    ///
    /// # Panics
    /// When the database server cannot be reached.
    pub async fn at(name: &str, amqp_url: &str, database_url: &str) -> anyhow::Result<Self> {
        Self::with(name, amqp_url.to_owned(), TestDatabase::on(database_url.to_owned()).await)
    }

    fn with(name: &str, amqp_url: String, database: TestDatabase) -> anyhow::Result<Self> {
        let folder = fresh_folder(&build_folder()?.join("scenarios").join(name))?;
        say_where_logs_are(&folder);
        Ok(Self {
            name: name.to_owned(),
            namespace: Namespace::new(format!("e2e-{}", Uuid::new_v4().simple()))?,
            database,
            folder,
            pace: Pace::default(),
            amqp_url,
            agents: Mutex::default(),
        })
    }

    /// Finds lost agents after `lost_after`. An agent needs two heartbeats, its longest kill grace and a quarter of it, at
    /// most two seconds, within it.
    #[must_use]
    pub fn with_pace(mut self, heartbeat: Duration, lost_after: Duration) -> Self {
        self.pace = Pace { heartbeat, lost_after };
        self
    }

    /// A dispatcher that is about to be started. The name is that of its log.
    #[must_use]
    pub fn dispatcher(&self, name: &str) -> Launch<'_> {
        Launch::dispatcher(self, name)
    }

    /// An agent of the pool `default` that is about to be started.
    #[must_use]
    pub fn agent(&self, id: &str) -> Launch<'_> {
        Launch::agent(self, id)
    }

    /// Runs a command of an operator to its end, and gives what it prints; a command that fails is an error with what it said.
    ///
    /// # Errors
    /// When it cannot be run, or fails.
    pub fn operator(&self, arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
        let output = self.dispatcher("operator").run(arguments)?;
        let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        anyhow::ensure!(output.status.success(), "dispatcher {}: {told}{said}", arguments.join(" "));
        Ok(output.stdout)
    }

    /// A publisher of events.
    ///
    /// # Errors
    /// When the broker cannot be reached.
    pub async fn upstream(&self) -> anyhow::Result<Upstream> {
        Upstream::open(self.namespace.clone(), self.session("upstream").await?).await
    }

    /// A connection to the broker.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn session(&self, role: &str) -> anyhow::Result<Session> {
        Ok(Session::open(&broker(&self.amqp_url), role).await?)
    }

    /// Writes a file into the scenario's folder, and gives its path.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, content: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    pub(super) fn remember_agent(&self, pool: &str, id: &str) {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        agents.insert((pool.to_owned(), id.to_owned()));
    }

    /// Everything that was declared, by name.
    fn declared(&self) -> (Vec<String>, Vec<String>) {
        let topology = self.namespace.dispatcher_topology();
        let mut queues: Vec<String> = topology.queues.into_iter().map(|queue| queue.name).collect();
        let agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        for (pool, id) in agents.iter() {
            if let (Ok(pool), Ok(id)) = (PoolId::new(pool), AgentId::new(id)) {
                queues.push(self.namespace.agent_queue(&pool, &id));
            }
        }
        (queues, topology.exchanges.into_iter().map(|exchange| exchange.name).collect())
    }
}

impl Drop for Scenario {
    fn drop(&mut self) {
        let (queues, exchanges) = self.declared();
        let url = self.amqp_url.clone();
        // A thread of its own, because the test's runtime may be the one that unwinds.
        let removed = spawn_thread_guarded("remove-scenario", move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(remove(&url, queues, exchanges))
        });
        match removed.map(std::thread::JoinHandle::join) {
            Ok(Ok(Ok(Ok(())))) => {}
            other => {
                tracing::warn!(namespace = %self.namespace, ?other, "queues of a scenario were left behind")
            }
        }
    }
}

async fn remove(url: &str, queues: Vec<String>, exchanges: Vec<String>) -> anyhow::Result<()> {
    let session = Session::open(&broker(url), "remove-scenario").await?;
    for queue in queues {
        delete_queue(&session, &queue).await?;
    }
    let channel = session.channel().await?;
    for exchange in exchanges {
        let deleting = channel.exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default());
        session.request(deleting).await?;
    }
    session.close().await;
    Ok(())
}

fn shared_broker() -> anyhow::Result<String> {
    std::env::var(AMQP_URL_VARIABLE).with_context(|| {
        format!(
            "{AMQP_URL_VARIABLE} is not set: run `deploy/local/services up` and `eval \"$(deploy/local/services env)\"`"
        )
    })
}

fn broker(url: &str) -> BrokerConfig {
    BrokerConfig::new(Secret::new(url), "switchyard-tests")
}

/// An empty folder: what an earlier run left there would be taken for this one's.
fn fresh_folder(path: &Path) -> anyhow::Result<PathBuf> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot clear {}", path.display()));
        }
        Ok(()) | Err(_) => {}
    }
    fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path.canonicalize()?)
}

#[expect(
    clippy::print_stderr,
    reason = "shown by the test runner when the test fails; the output of programs is their own"
)]
fn say_where_logs_are(folder: &Path) {
    eprintln!("logs: {}", folder.display());
}
