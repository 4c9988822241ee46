//! Where one contender is measured: a virtual host, a database and a folder of its own on the local services, deleted afterwards, so
//! that nobody pays for what another has left behind.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use switchyard_common::guard::spawn_guarded;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use super::probe::Reader;
use super::process::run_to_end;
use crate::harness::scenario::binaries::repository;
use crate::harness::wait::{Look, until};

/// Longest wait for connections of ended processes to be closed.
const LEFT_WITHIN: Duration = Duration::from_secs(30);

/// The local services of this checkout, which are up.
#[derive(Debug, Clone)]
pub struct Services {
    amqp_url: String,
    database_url: String,
    /// The broker's process.
    pub broker: u32,
    /// The database's process.
    pub database: u32,
}

impl Services {
    /// Finds them.
    ///
    /// # Errors
    /// When they are not up, or are not those of `deploy/local/services`: their processes are measured, and virtual hosts made.
    pub fn find() -> anyhow::Result<Self> {
        let variable =
            |name| std::env::var(name).with_context(|| format!("{name} is not set: use `make bench`"));
        let local = std::env::var_os("SWITCHYARD_LOCAL_DIR");
        let folder = local.map_or_else(|| repository().join(".switchyard"), PathBuf::from);
        let folder = std::fs::read_link(folder.join("moved-to")).unwrap_or(folder);
        let pid = |name: &str| -> anyhow::Result<u32> {
            let path = folder.join(format!("{name}.pid"));
            let text = std::fs::read_to_string(&path).with_context(|| {
                format!("{} cannot be read: the bench needs the services of `make up`", path.display())
            })?;
            Ok(text.trim().parse()?)
        };
        Ok(Self {
            amqp_url: variable("SWITCHYARD_AMQP_URL")?,
            database_url: variable("SWITCHYARD_DATABASE_URL")?,
            broker: pid("broker")?,
            database: pid("database")?,
        })
    }

    /// `rabbitmqctl` of this broker.
    ///
    /// # Errors
    /// When it fails.
    pub fn ctl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(repository().join("deploy/local/services"));
        command.env_remove("SWITCHYARD_AMQP_URL").env_remove("SWITCHYARD_DATABASE_URL");
        run_to_end_of(command.arg("ctl").args(arguments))
    }

    /// Connects to the database server.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn connect(&self) -> anyhow::Result<Client> {
        connect(&self.database_url).await
    }
}

fn run_to_end_of(command: &mut Command) -> anyhow::Result<String> {
    run_to_end(std::mem::replace(command, Command::new("true")))
}

/// Connects to a database; the connection ends with the client.
///
/// # Errors
/// When it cannot be reached.
pub async fn connect(url: &str) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    drop(spawn_guarded("bench-database", connection));
    Ok(client)
}

/// One stage.
#[derive(Debug)]
pub struct Stage {
    /// The services that it is on.
    pub services: Services,
    /// Its virtual host.
    pub amqp_url: String,
    /// Its database.
    pub database_url: String,
    /// Its folder, for logs and configuration.
    pub folder: tempfile::TempDir,
    /// Where handlers write when they start.
    pub probe: Reader,
    name: String,
}

impl Stage {
    /// Makes one.
    ///
    /// # Errors
    /// When a service refuses.
    pub async fn open(services: &Services) -> anyhow::Result<Self> {
        Self::open_from(services, "").await
    }

    /// Makes one whose database begins as a copy of this one's, which nobody may be connected to.
    ///
    /// # Errors
    /// When a service refuses.
    pub async fn open_copy(&self) -> anyhow::Result<Self> {
        self.until_left().await?;
        // Copied as files: what a large database holds is not written to the log once more.
        Self::open_from(&self.services, &format!("TEMPLATE {} STRATEGY file_copy", self.name)).await
    }

    async fn open_from(services: &Services, origin: &str) -> anyhow::Result<Self> {
        let name = format!("bench_{}", &Uuid::new_v4().simple().to_string()[..8]);
        services.ctl(&["add_vhost", &name])?;
        let user = user_of(&services.amqp_url).context("the broker's URL names no user")?;
        services.ctl(&["set_permissions", "-p", &name, user, ".*", ".*", ".*"])?;
        let server = services.connect().await?;
        server.batch_execute(&format!("CREATE DATABASE {name} {origin}")).await?;
        // In memory: the probe's own cost must not depend on the disk.
        let folder = tempfile::Builder::new().prefix("switchyard-bench-").tempdir_in("/dev/shm")?;
        Ok(Self {
            amqp_url: beside(&services.amqp_url, &name)?,
            database_url: beside(&services.database_url, &name)?,
            probe: Reader::create(folder.path().join("probe"))?,
            services: services.clone(),
            folder,
            name,
        })
    }

    /// Connections of processes that have ended are closed by the server a moment later.
    async fn until_left(&self) -> anyhow::Result<()> {
        const CONNECTED: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1";
        let server = self.services.connect().await?;
        until("the database is left", LEFT_WITHIN, async || {
            let connected: i64 = server.query_one(CONNECTED, &[&self.name]).await?.get(0);
            Ok(Look::holds(connected == 0, || format!("{connected} connections")))
        })
        .await
    }

    /// The folder's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Takes it down. Whoever uses it must have ended.
    ///
    /// # Errors
    /// When a service refuses.
    pub async fn close(self) -> anyhow::Result<()> {
        self.services.ctl(&["delete_vhost", &self.name])?;
        let server = self.services.connect().await?;
        // Not by force: that is refused while autovacuum is at work there, which a plain drop sends away by itself.
        const CLOSE: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND usename = current_user";
        server.query(CLOSE, &[&self.name]).await?;
        server.batch_execute(&format!("DROP DATABASE {}", self.name)).await?;
        Ok(())
    }

    /// Keeps the folder with its logs, after a failure.
    #[must_use]
    pub fn keep_logs(self) -> PathBuf {
        self.folder.keep()
    }
}

fn user_of(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    Some(rest.split_once(':')?.0)
}

/// The URL with another last part.
fn beside(url: &str, name: &str) -> anyhow::Result<String> {
    let (server, _) = url.rsplit_once('/').context("the URL names nothing on its server")?;
    Ok(format!("{server}/{name}"))
}
