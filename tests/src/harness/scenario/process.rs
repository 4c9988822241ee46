//! A running program: its log, signals to it, its end. Killed when the value goes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::http;
use super::log_file::LogFile;
use crate::harness::wait::{Look, until};

/// Longest wait for a program to end after a signal: its own drain time, and some.
pub const END_WITHIN: Duration = Duration::from_secs(60);

/// What to run.
#[derive(Debug, Clone)]
pub struct Spec {
    /// A name for people, and for the log file.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Its whole environment.
    pub env: BTreeMap<String, OsString>,
    /// The file that gets what it prints.
    pub log: PathBuf,
    /// The port that it was told to listen on.
    pub http_port: Option<u16>,
}

/// A running program.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: LogFile,
    http_port: Option<u16>,
}

impl Process {
    /// Starts it. What it prints is appended to its log.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(spec: &Spec) -> anyhow::Result<Self> {
        let log = File::options().create(true).append(true).open(&spec.log);
        let log = log.with_context(|| format!("cannot write {}", spec.log.display()))?;
        // Killed by the kernel when the thread that started it ends: not even a killed test leaves a process behind.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&spec.program).args(&spec.arguments);
        command.env_clear().envs(&spec.env);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // Ctrl-C on the terminal is for whoever runs the scenario, who ends its processes.
        command.process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {}", spec.program.display()))?;
        let log = LogFile::new(spec.log.clone());
        Ok(Self { name: spec.name.clone(), child, log, http_port: spec.http_port })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        // Process ids are positive and far below the limit of the type.
        Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX))
    }

    /// Asks its HTTP API for a path.
    ///
    /// # Errors
    /// When it has none, or nobody listens.
    pub async fn get(&self, path: &str) -> anyhow::Result<http::Answer> {
        http::get(self.http_port.with_context(|| format!("{} has no HTTP API", self.name))?, path).await
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> &LogFile {
        &self.log
    }

    /// Sends a signal: `SIGSTOP`, `SIGCONT`, `SIGTERM` ...
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill(self.pid(), signal).with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// SIGKILL, and waits for the end.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> anyhow::Result<ExitStatus> {
        // An error means that it has ended already; waiting tells how.
        let _ = self.child.kill();
        Ok(self.child.wait()?)
    }

    /// How it ended; none while it runs.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it runs on.
    pub async fn until_ended(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        until(format!("the end of {}", self.name), within, async || {
            Ok(Look::of(self.child.try_wait()?, || self.log.tail()))
        })
        .await
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// When it does not end within [`END_WITHIN`].
    pub async fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        if self.ended()?.is_none() {
            self.signal(Signal::SIGTERM)?;
        }
        self.until_ended(END_WITHIN).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            tracing::warn!(name = self.name, %error, "a process could not be waited for");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn start(folder: &std::path::Path, script: &str) -> Process {
        let spec = Spec {
            name: "sh".into(),
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            env: BTreeMap::from([("PATH".into(), "/usr/bin:/bin".into())]),
            log: folder.join("log"),
            http_port: None,
        };
        Process::start(&spec).unwrap()
    }

    #[tokio::test]
    async fn a_program_writes_its_log_is_stopped_by_its_id_and_tells_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut program =
            start(folder.path(), "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done");
        let ready = program.log().until("ready", END_WITHIN, |line| line.message() == "ready");
        ready.await.unwrap();
        assert_eq!(program.ended().unwrap(), None);
        assert_eq!(program.stop().await.unwrap().code(), Some(7));
        let mut other = start(folder.path(), "kill -STOP $$");
        assert_eq!(other.kill().unwrap().signal(), Some(9));
    }

    #[tokio::test]
    async fn a_dropped_program_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let program = start(folder.path(), "exec sleep 1000");
        let pid = program.pid();
        drop(program);
        assert!(kill(pid, None).is_err());
    }
}
