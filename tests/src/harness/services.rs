//! A broker or a database server of its own for a test, so that it can be killed without disturbing any other test: an instance of
//! `deploy/local/services` in a folder of its own, on ports of its own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use switchyard_common::guard::spawn_blocking_guarded;

use super::front::Front;
use super::scenario::binaries::{build_folder, repository};
use super::wait::{Look, until};

/// Longest wait for the broker to write the name of a new queue to disk. It takes some seconds.
const ON_DISK_WITHIN: Duration = Duration::from_secs(60);

/// Which of the two services an instance has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// RabbitMQ.
    Broker,
    /// PostgreSQL.
    Database,
}

impl Part {
    const fn word(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Database => "database",
        }
    }

    const fn variable(self) -> &'static str {
        match self {
            Self::Broker => "SWITCHYARD_AMQP_URL",
            Self::Database => "SWITCHYARD_DATABASE_URL",
        }
    }
}

/// An instance with one service. Stopped, with its data deleted, when the value goes.
#[derive(Debug)]
pub struct Services {
    /// The broker, where it has one. Of a cluster: a way to whichever node lives.
    pub amqp_url: Option<String>,
    /// Each node of the broker, in the order of their numbers.
    pub amqp_urls: Vec<String>,
    /// The database server, where it has one.
    pub database_url: Option<String>,
    pub(super) folder: PathBuf,
    pub(super) part: Part,
    /// Kept: the way to a cluster ends with it.
    pub(super) front: Option<Front>,
}

impl Services {
    /// Starts an instance. `name` is unique among the tests: what an earlier run left under it is stopped and deleted first.
    ///
    /// # Errors
    /// When it does not start; the end of its log is in the message.
    pub async fn start(name: &str, part: Part) -> anyhow::Result<Self> {
        let mut services = Self::fresh(name, part).await?;
        services.run(&["up", part.word()]).await?;
        let url = url_in(&services.run(&["env", part.word()]).await?, part.variable())?;
        match part {
            Part::Broker => {
                services.amqp_urls.push(url.clone());
                services.amqp_url = Some(url);
            }
            Part::Database => services.database_url = Some(url),
        }
        Ok(services)
    }

    /// An instance that has not been started, without what an earlier run left.
    pub(super) async fn fresh(name: &str, part: Part) -> anyhow::Result<Self> {
        let folder = build_folder()?.join("services").join(name);
        let amqp_urls = Vec::new();
        let services = Self { amqp_url: None, amqp_urls, database_url: None, folder, part, front: None };
        services.run(&["reset"]).await?;
        Ok(services)
    }

    /// SIGKILL, at once.
    ///
    /// # Errors
    /// When it does not run, or the script that clears up after it fails.
    pub async fn kill(&self) -> anyhow::Result<()> {
        self.kill_process(self.part.word())?;
        // The script takes its time to start; it finds the process gone, waits for what is left of it, and forgets it.
        self.run(&[&format!("kill-{}", self.part.word())]).await.map(drop)
    }

    /// SIGKILL to a process of the instance, by the name of its folder there.
    pub(super) fn kill_process(&self, name: &str) -> anyhow::Result<()> {
        self.signal_process(name, Signal::SIGKILL)
    }

    /// A signal to a process of the instance, by the name of its folder there.
    pub(super) fn signal_process(&self, name: &str, signal: Signal) -> anyhow::Result<()> {
        let file = self.state().join(format!("{name}.pid"));
        let pid = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        signal::kill(Pid::from_raw(pid.trim().parse()?), signal).context("the service does not run")
    }

    /// `rabbitmqctl` at this instance's broker.
    ///
    /// # Errors
    /// When it fails.
    pub async fn ctl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.run(&[&["ctl"], arguments].concat()).await
    }

    /// Copies the logs of the service to a folder, so that they outlive it.
    ///
    /// # Errors
    /// When one that is there cannot be copied.
    pub fn keep_logs(&self, to: &Path) -> anyhow::Result<()> {
        const KEPT: [&str; 4] = [
            "broker/log/broker.log",
            "broker2/log/broker.log",
            "broker3/log/broker.log",
            "database/postgresql.log",
        ];
        let state = self.state();
        for log in KEPT.iter().filter(|log| state.join(log).is_file()) {
            let name = log.replace("/log/", "-").replace('/', "-");
            std::fs::copy(state.join(log), to.join(&name)).with_context(|| name.clone())?;
        }
        Ok(())
    }

    /// Stops it in order.
    ///
    /// # Errors
    /// When the script fails.
    pub async fn stop(&self) -> anyhow::Result<()> {
        self.run(&[&format!("stop-{}", self.part.word())]).await.map(drop)
    }

    /// Starts it again after [`kill`](Self::kill) or [`stop`](Self::stop), with the same port and data, and waits until a client can log in.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_again(&self) -> anyhow::Result<()> {
        self.run(&[&format!("start-{}", self.part.word())]).await.map(drop)
    }

    /// Waits until the broker has the name of a quorum queue on disk. RabbitMQ 3.10 writes names some seconds after the declaration,
    /// and a broker that is killed before forgets what was in the queue: what a test asserts of confirmed messages holds from then on.
    ///
    /// # Errors
    /// When it is not written in time.
    pub async fn until_on_disk(&self, queue: &str) -> anyhow::Result<()> {
        until(format!("the name of queue {queue} on disk"), ON_DISK_WITHIN, async || {
            Ok(Look::holds(self.is_on_disk(queue), || "not there".to_owned()))
        })
        .await
    }

    /// Whether the broker has the name of a quorum queue on disk: one that it has not comes back without its leader after a kill.
    #[must_use]
    pub fn is_on_disk(&self, queue: &str) -> bool {
        let moved = std::fs::read_link(self.folder.join("moved-to"));
        let node = "broker/mnesia/switchyard@localhost/quorum/switchyard@localhost/names.dets";
        let names =
            std::fs::read(moved.unwrap_or_else(|_| self.folder.clone()).join(node)).unwrap_or_default();
        names.windows(queue.len()).any(|window| window == queue.as_bytes())
    }

    /// Where its files are: elsewhere when the users of the services cannot enter the folder.
    fn state(&self) -> PathBuf {
        std::fs::read_link(self.folder.join("moved-to")).unwrap_or_else(|_| self.folder.clone())
    }

    pub(super) async fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.run_with(arguments, &[]).await
    }

    /// As [`run`](Self::run), with more in the environment.
    pub(super) async fn run_with(&self, arguments: &[&str], more: &[(&str, &str)]) -> anyhow::Result<String> {
        let mut command = self.command(arguments);
        command.envs(more.iter().copied());
        let what = format!("deploy/local/services {}", arguments.join(" "));
        let output = spawn_blocking_guarded("services", move || command.output()).await;
        let output = output.finished().with_context(|| what.clone())??;
        ensure!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(repository().join("deploy/local/services"));
        command.args(arguments).env("SWITCHYARD_LOCAL_DIR", &self.folder);
        command.env_remove("SWITCHYARD_AMQP_URL").env_remove("SWITCHYARD_DATABASE_URL");
        command.stdin(std::process::Stdio::null());
        command
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        match self.command(&["reset"]).output() {
            Ok(output) if output.status.success() => {}
            other => {
                tracing::warn!(folder = %self.folder.display(), ?other, "services of a test were left behind")
            }
        }
    }
}

/// The value of a variable among `export` lines.
pub(super) fn url_in(exports: &str, variable: &str) -> anyhow::Result<String> {
    let prefix = format!("export {variable}=");
    let line = exports.lines().find_map(|line| line.strip_prefix(&prefix));
    // The shell escapes the commas between URLs.
    Ok(line.with_context(|| format!("no {variable} among the exports"))?.replace('\\', ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_is_the_one_of_its_variable() {
        let exports = "export SWITCHYARD_AMQP_URL=amqp://u:p@h:1/v\nexport SWITCHYARD_DATABASE_URL=postgres://u:p@h:2/d\n";
        assert_eq!(url_in(exports, Part::Broker.variable()).unwrap(), "amqp://u:p@h:1/v");
        assert_eq!(url_in(exports, Part::Database.variable()).unwrap(), "postgres://u:p@h:2/d");
        assert!(url_in("", Part::Broker.variable()).is_err());
    }
}
