//! One runner, one script, one result.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use switchyard_worker_agent::exec::boot_clock::BootTime;
use switchyard_worker_agent::exec::logs::{LogLine, LogSink, LogSinkError, LogStream};
use switchyard_worker_agent::exec::program::run_program;
use switchyard_worker_agent::exec::result::ProgramResult;
use switchyard_worker_agent::exec::spec::ProgramSpec;
use switchyard_worker_agent::exec::task::{Controls, ProgramTask, Runner, StopRequest};
use switchyard_worker_agent::exec::workdir::WorkRoot;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

/// Everything that one test needs; the directories go with it.
pub(crate) struct Fixture {
    _dir: Option<TempDir>,
    out: PathBuf,
    pub(crate) root: WorkRoot,
    pub(crate) spec: ProgramSpec,
    pub(crate) task: ProgramTask,
    pub(crate) agent_env: BTreeMap<OsString, OsString>,
    pub(crate) supervisor: PathBuf,
    pub(crate) logs: Arc<Recorder>,
    pub(crate) dead_by: Option<watch::Receiver<BootTime>>,
    stop: watch::Sender<Option<StopRequest>>,
}

impl Fixture {
    /// A handler that is `sh -c SCRIPT`, with `$OUT` naming a directory that outlives the run.
    pub(crate) fn script(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("out")).unwrap();
        let fixture = Self::script_in(dir.path(), script);
        Self { _dir: Some(dir), ..fixture }
    }

    /// The same in a directory of the caller, which has an `out` in it.
    pub(crate) fn script_in(dir: &Path, script: &str) -> Self {
        let (root, left) = WorkRoot::open(&dir.join("work")).unwrap();
        assert_eq!(left, Vec::<String>::new());
        let out = dir.join("out");
        let mut spec = spec(&["sh", "-c", script]);
        spec.env.insert("OUT".into(), out.to_str().unwrap().into());
        Self {
            _dir: None,
            out,
            root,
            spec,
            task: task(),
            agent_env: BTreeMap::new(),
            supervisor: PathBuf::from(env!("CARGO_BIN_EXE_worker-agent")),
            logs: Arc::new(Recorder::new()),
            dead_by: None,
            stop: watch::Sender::new(None),
        }
    }

    pub(crate) fn out(&self, name: &str) -> PathBuf {
        self.out.join(name)
    }

    pub(crate) fn stop(&self, request: StopRequest) {
        self.stop.send_replace(Some(request));
    }

    pub(crate) async fn run(&self) -> ProgramResult {
        let logs = Arc::clone(&self.logs) as Arc<dyn LogSink>;
        let controls = Controls { stop: self.stop.subscribe(), dead_by: self.dead_by.clone(), logs };
        run_program(&self.runner(), &self.spec, self.task.clone(), controls).await
    }

    fn runner(&self) -> Runner {
        Runner {
            supervisor: self.supervisor.clone(),
            agent_env: Arc::new(self.agent_env.clone()),
            ..Runner::new(&self.root)
        }
    }

    /// Working directories that are there now.
    pub(crate) fn workdirs(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.root.path()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_dir()).collect()
    }
}

pub(crate) fn spec(command: &[&str]) -> ProgramSpec {
    ProgramSpec {
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        env_pass: [].into(),
        env: [].into(),
        mask: [].into(),
        run_timeout: None,
        kill_grace: Duration::from_millis(200),
        exit_codes: [].into(),
        max_artifact_bytes: 1_024,
    }
}

pub(crate) fn task() -> ProgramTask {
    ProgramTask {
        task_id: "task-484".into(),
        workspace_id: "ws-1".into(),
        kind: "plan".into(),
        step: "plan".into(),
        attempt: 3,
        agent_id: "agent-0".into(),
        parameters: json!({"refresh_only": true}),
        payload: json!({"change": "résumé"}),
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
        run_timeout: Duration::from_secs(60),
        inputs: Vec::new(),
    }
}

/// Keeps every line, and lets a test wait for one.
pub(crate) struct Recorder {
    lines: Mutex<Vec<LogLine>>,
    news: mpsc::UnboundedSender<String>,
    heard: tokio::sync::Mutex<mpsc::UnboundedReceiver<String>>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        let (news, heard) = mpsc::unbounded_channel();
        Self { lines: Mutex::default(), news, heard: tokio::sync::Mutex::new(heard) }
    }

    pub(crate) fn lines(&self) -> Vec<LogLine> {
        self.lines.lock().unwrap().clone()
    }

    pub(crate) fn texts(&self, stream: LogStream) -> Vec<String> {
        self.lines().into_iter().filter(|line| line.stream == stream).map(|line| line.text).collect()
    }

    /// The first line not yet waited for that begins with `prefix`; returns the rest of it.
    pub(crate) async fn wait_for(&self, prefix: &str) -> String {
        let mut heard = self.heard.lock().await;
        loop {
            let text = heard.recv().await.expect("the recorder itself holds a sender");
            if let Some(rest) = text.strip_prefix(prefix) {
                return rest.to_owned();
            }
        }
    }
}

#[async_trait]
impl LogSink for Recorder {
    async fn accept(&self, line: LogLine) -> Result<(), LogSinkError> {
        self.news.send(line.text.clone()).unwrap();
        self.lines.lock().unwrap().push(line);
        Ok(())
    }
}
