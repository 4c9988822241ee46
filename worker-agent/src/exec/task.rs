//! What a program is run for, and what may be asked of a run while it lasts.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use super::boot_clock::BootTime;
use super::logs::LogSink;
use super::workdir::WorkRoot;

/// One attempt, in plain values. It becomes the task file.
#[derive(Debug, Clone)]
pub struct ProgramTask {
    /// The task's id: 1 to 128 printable characters, any of them.
    pub task_id: String,
    /// The workspace that the task acts on.
    pub workspace_id: String,
    /// The task's kind.
    pub kind: String,
    /// The step's name.
    pub step: String,
    /// The attempt's number.
    pub attempt: u32,
    /// The agent that runs it.
    pub agent_id: String,
    /// Fixed parameters of the step.
    pub parameters: Value,
    /// What upstream sent.
    pub payload: Value,
    /// W3C trace context, for the program to pass on.
    pub traceparent: Option<String>,
    /// Longest run that the assignment allows.
    pub run_timeout: Duration,
    /// The approved artifacts. They are verified again before the program starts.
    pub inputs: Vec<InputArtifact>,
}

/// One approved artifact, and what the manifest says of it.
#[derive(Debug, Clone)]
pub struct InputArtifact {
    /// Plain file name.
    pub name: String,
    /// SHA-256 by the manifest.
    pub sha256: [u8; 32],
    /// The content that arrived.
    pub bytes: Vec<u8>,
}

/// Where and with what programs are run; one per agent process. Its [`WorkRoot`] must live as long: it holds the lock.
#[derive(Debug, Clone)]
pub struct Runner {
    /// The executable that has the `supervise` subcommand.
    pub supervisor: PathBuf,
    /// The directory that holds one working directory per attempt: absolute, of an open [`WorkRoot`].
    pub work_root: PathBuf,
    /// The agent's environment, from which `env_pass` chooses.
    pub agent_env: Arc<BTreeMap<OsString, OsString>>,
}

impl Runner {
    /// A runner that re-executes the running program and passes on the environment of this process.
    ///
    /// `/proc/self/exe` names the image that runs now, so an upgrade of the file on disk never mixes two versions of the
    /// messages between agent and supervisor.
    #[must_use]
    pub fn new(work_root: &WorkRoot) -> Self {
        Self {
            supervisor: PathBuf::from("/proc/self/exe"),
            work_root: work_root.path().to_owned(),
            agent_env: Arc::new(std::env::vars_os().collect()),
        }
    }
}

/// Why the agent asks for the end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopRequest {
    /// The task was cancelled, or its attempt revoked.
    Cancel,
    /// The agent drains and the grace period is over.
    Interrupt,
    /// The agent has not been heard for too long and stops what only one agent may run (protocol C3).
    Silence,
}

/// The agent's hold on a run. All of it may be changed while the program runs.
#[derive(Clone)]
pub struct Controls {
    /// The first request that is set ends the run: TERM, then KILL after the grace. Dropping the sender asks for nothing.
    pub stop: watch::Receiver<Option<StopRequest>>,
    /// For exclusive repeatable steps: the program is dead by this moment, whatever happens to the agent (protocol C3).
    /// The agent moves it on as its heartbeats are confirmed: send time of the last confirmed one, plus the lost timeout,
    /// less a margin. TERM comes one kill grace earlier. None: the program runs on in silence.
    pub dead_by: Option<watch::Receiver<BootTime>>,
    /// Where log lines go.
    pub logs: Arc<dyn LogSink>,
}
