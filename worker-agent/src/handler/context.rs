//! What a handler is run with.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use switchyard_common::contract::artifact::{ArtifactError, check_name};
use switchyard_common::contract::assignment::Assignment;
use switchyard_common::contract::limits::ARTIFACTS_TOTAL_MAX_BYTES;
use switchyard_common::telemetry::TraceParent;
use tokio::sync::watch;

use super::stop::{StopReason, StopSignal};
use crate::machine::BootTime;
use crate::shell::AttemptLog;

/// One attempt, for its handler. Clones are the same attempt.
#[derive(Clone)]
pub struct TaskContext {
    inner: Arc<Inner>,
}

struct Inner {
    work: Arc<Assignment>,
    inputs: Arc<BTreeMap<String, Vec<u8>>>,
    stop: StopSignal,
    dead_by: Option<watch::Receiver<BootTime>>,
    log: AttemptLog,
    trace: Option<TraceParent>,
    left: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl TaskContext {
    pub(crate) fn new(
        work: Arc<Assignment>,
        inputs: Arc<BTreeMap<String, Vec<u8>>>,
        stop: StopSignal,
        dead_by: Option<watch::Receiver<BootTime>>,
        log: AttemptLog,
        trace: Option<TraceParent>,
    ) -> Self {
        let left = Mutex::default();
        Self { inner: Arc::new(Inner { work, inputs, stop, dead_by, log, trace, left }) }
    }

    /// The assignment: task, workspace, kind, step, attempt, payload, parameters, approval. Its lease is a secret.
    #[must_use]
    pub fn work(&self) -> &Assignment {
        &self.inner.work
    }

    /// The W3C trace context of this attempt, to be passed on to whatever the handler calls.
    #[must_use]
    pub fn traceparent(&self) -> Option<TraceParent> {
        self.inner.trace
    }

    /// The input artifacts by name, verified: for an approved step the very bytes that were approved.
    #[must_use]
    pub fn inputs(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.inner.inputs
    }

    /// Completes when the attempt is to stop, and says why.
    pub async fn stopped(&self) -> StopReason {
        self.inner.stop.stopped().await
    }

    /// Why the attempt is to stop; none while it may go on.
    #[must_use]
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.inner.stop.reason()
    }

    /// Writes a line into the task's log. Never waits: when lines are written faster than the broker takes them some are dropped,
    /// and a line in the log says how many.
    pub fn log(&self, line: impl AsRef<str>) {
        self.inner.log.write(line.as_ref());
    }

    /// Says how far the work is, as a line in the task's log.
    pub fn progress(&self, done: u64, total: u64, what: impl AsRef<str>) {
        self.log(format!("[{done}/{total}] {}", what.as_ref()));
    }

    /// Leaves an artifact. It is sent when the handler succeeds; a second one of the same name replaces the first.
    ///
    /// # Errors
    /// When the name is not a plain file name, or the total is over its limit.
    pub fn artifact(&self, name: &str, bytes: Vec<u8>) -> Result<(), ArtifactError> {
        check_name(name)?;
        let mut left = self.inner.left.lock().unwrap_or_else(PoisonError::into_inner);
        let others: usize =
            left.iter().filter(|(other, _)| *other != name).map(|(_, bytes)| bytes.len()).sum();
        let total = others.saturating_add(bytes.len());
        if total > ARTIFACTS_TOTAL_MAX_BYTES {
            let max = ARTIFACTS_TOTAL_MAX_BYTES as u64;
            return Err(ArtifactError::Total { bytes: total as u64, max });
        }
        left.insert(name.to_owned(), bytes);
        Ok(())
    }

    pub(crate) fn stop_signal(&self) -> &StopSignal {
        &self.inner.stop
    }

    pub(crate) fn keep_alive(&self) -> Option<watch::Receiver<BootTime>> {
        self.inner.dead_by.clone()
    }

    pub(crate) fn attempt_log(&self) -> &AttemptLog {
        &self.inner.log
    }

    pub(crate) fn take_artifacts(&self) -> BTreeMap<String, Vec<u8>> {
        std::mem::take(&mut *self.inner.left.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
