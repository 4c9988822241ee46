//! Runs handlers: one guarded task each, stopped when asked, ended by force when it does not listen.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use switchyard_common::contract::assignment::Assignment;
use switchyard_common::contract::limits::RESULT_MAX_BYTES;
use switchyard_common::contract::report::{Claim, StoppedBy};
use switchyard_common::export::span::{self, Span};
use switchyard_common::failure::{Failure, FailureKind};
use switchyard_common::guard::{PanicCapture, catch_panic, spawn_guarded, with_context};
use switchyard_common::telemetry::TraceParent;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tracing::Instrument as _;

use super::attempt_log::{AttemptLog, QueuedLine};
use crate::handler::{Handler, HandlerOutcome, Handlers, StopReason, StopSignal, Supervision, TaskContext};
use crate::machine::{AttemptId, BootTime, HandlerEnd, Input, Start};

/// A handler that runs.
struct Running {
    stop: StopSignal,
    abort: AbortHandle,
}

/// The handlers that run.
pub(super) struct Runner {
    handlers: Handlers,
    lines: mpsc::Sender<QueuedLine>,
    ended: mpsc::UnboundedSender<Input>,
    running: HashMap<AttemptId, Running>,
    dead_by: watch::Sender<BootTime>,
}

impl Runner {
    pub(super) fn new(
        handlers: Handlers,
        lines: mpsc::Sender<QueuedLine>,
        ended: mpsc::UnboundedSender<Input>,
    ) -> Self {
        Self { handlers, lines, ended, running: HashMap::new(), dead_by: watch::Sender::default() }
    }

    /// Exclusive repeatable handlers must be dead by this moment.
    pub(super) fn keep_alive(&self, dead_by: BootTime) {
        self.dead_by.send_replace(dead_by);
    }

    pub(super) fn start(&mut self, start: Start) {
        let Start { work, inputs, dead_by } = start;
        let attempt = AttemptId::from(work.lease);
        let claim = Claim {
            task_id: work.task_id.clone(),
            attempt: work.attempt,
            session: work.session,
            lease: work.lease,
        };
        let log = AttemptLog::new(Arc::new(claim), self.lines.clone());
        let Some(handler) = self.handlers.get(&work.handler) else {
            // The machine refuses what is not offered, so this is not reached.
            let failure = Failure::new(FailureKind::HandlerFailed, "the agent does not offer the handler");
            let _ = self.ended.send(ended(attempt, HandlerEnd::Failed(failure), &log));
            return;
        };
        let stop = StopSignal::default();
        let keep_alive = dead_by.map(|moment| {
            self.dead_by.send_replace(moment);
            self.dead_by.subscribe()
        });
        let run_timeout = work.run_timeout();
        let trace = work.traceparent.as_deref().and_then(|text| text.parse::<TraceParent>().ok());
        let span = tracing::info_span!(
            "attempt",
            trace_id = trace.map(|trace| trace.trace_id()),
            task_id = work.task_id.as_str(),
            attempt = work.attempt,
            workspace_id = work.workspace_id.as_str(),
            handler = work.handler.as_str()
        );
        let mut exported = exported_span(&work, trace);
        let context =
            TaskContext::new(work, inputs, stop.clone(), keep_alive, log.clone(), exported.context());
        let answers = self.ended.clone();
        let run = async move {
            let end = run_handler(handler, context, run_timeout).await;
            if !matches!(end, HandlerEnd::Succeeded { .. }) {
                exported.failed(end.name());
            }
            drop(exported);
            let _ = answers.send(ended(attempt, end, &log));
        };
        let task = span.in_scope(|| spawn_guarded("handler", run.in_current_span()));
        self.running.insert(attempt, Running { stop, abort: task.abort_handle() });
    }

    pub(super) fn stop(&self, attempt: AttemptId, why: StoppedBy) {
        if let Some(running) = self.running.get(&attempt) {
            running.stop.set(why.into());
        }
    }

    /// Forgets a handler that has ended.
    pub(super) fn forget(&mut self, attempt: AttemptId) {
        self.running.remove(&attempt);
    }

    /// Drops every handler now. Programs are killed by their supervisors.
    pub(super) fn abort_all(&mut self) {
        for (_, running) in self.running.drain() {
            running.abort.abort();
        }
    }
}

/// The span that is exported of an attempt, under the trace of its task.
fn exported_span(work: &Assignment, parent: Option<TraceParent>) -> Span {
    let attributes = [
        ("switchyard.task_id", work.task_id.to_string()),
        ("switchyard.workspace_id", work.workspace_id.to_string()),
        ("switchyard.step", work.step.to_string()),
        ("switchyard.attempt", work.attempt.to_string()),
        ("switchyard.agent", work.agent.to_string()),
    ];
    Span::begin(span::ATTEMPT, parent, SystemTime::now(), &attributes)
}

fn ended(attempt: AttemptId, end: HandlerEnd, log: &AttemptLog) -> Input {
    Input::HandlerEnded { attempt, end, log_lines: log.lines() }
}

/// Runs a handler to its end, whatever that is.
async fn run_handler(handler: Arc<dyn Handler>, context: TaskContext, run_timeout: Duration) -> HandlerEnd {
    let work = context.work();
    let fields = [
        ("task_id", work.task_id.to_string()),
        ("attempt", work.attempt.to_string()),
        ("workspace_id", work.workspace_id.to_string()),
    ];
    let running = catch_panic(with_context(fields, handler.run(context.clone())));
    match handler.supervision() {
        Supervision::ByItself { .. } => end_of(running.await, &context),
        Supervision::ByAgent { kill_grace } => by_agent(running, &context, run_timeout, kill_grace).await,
    }
}

/// Ends a handler that does not end when it is asked to, or in time.
async fn by_agent(
    running: impl Future<Output = Result<HandlerOutcome, Box<PanicCapture>>>,
    context: &TaskContext,
    run_timeout: Duration,
    kill_grace: Duration,
) -> HandlerEnd {
    let mut running = std::pin::pin!(running);
    let timed_out = tokio::select! {
        biased;
        ended = &mut running => return end_of(ended, context),
        _ = context.stopped() => false,
        () = tokio::time::sleep(run_timeout) => true,
    };
    if timed_out {
        // The handler sees a stop; what it says afterwards no longer matters.
        context.stop_signal().set(StopReason::TimeOver);
        let _ = tokio::time::timeout(kill_grace, &mut running).await;
        let message =
            format!("the handler ran longer than its run timeout of {} ms", run_timeout.as_millis());
        return HandlerEnd::TimedOut(Failure::new(FailureKind::RunTimeout, message));
    }
    match tokio::time::timeout(kill_grace, &mut running).await {
        Ok(ended) => end_of(ended, context),
        Err(_) => HandlerEnd::Stopped,
    }
}

fn end_of(ended: Result<HandlerOutcome, Box<PanicCapture>>, context: &TaskContext) -> HandlerEnd {
    match ended {
        Ok(HandlerOutcome::Succeeded(success)) => {
            let mut artifacts = context.take_artifacts();
            artifacts.extend(success.artifacts);
            let (changes, result) = (success.changes, success.result);
            let bytes = result.as_ref().map_or(0, |result| result.to_string().len());
            if bytes > RESULT_MAX_BYTES {
                let message =
                    format!("the result has {bytes} bytes of JSON: at most {RESULT_MAX_BYTES} are allowed");
                return HandlerEnd::Failed(Failure::new(FailureKind::HandlerFailed, message));
            }
            HandlerEnd::Succeeded { changes, artifacts, result }
        }
        Ok(HandlerOutcome::Failed(failure)) => HandlerEnd::Failed(failure),
        Ok(HandlerOutcome::Panicked(failure)) => HandlerEnd::Panicked(failure),
        Ok(HandlerOutcome::TimedOut(failure)) => HandlerEnd::TimedOut(failure),
        Ok(HandlerOutcome::Stopped) => HandlerEnd::Stopped,
        Ok(HandlerOutcome::KeepAliveStopped) => HandlerEnd::KeepAliveStopped,
        Err(capture) => HandlerEnd::Panicked(panicked(*capture)),
    }
}

fn panicked(capture: PanicCapture) -> Failure {
    tracing::error!(
        location = capture.location.as_deref().unwrap_or("unknown"),
        backtrace = capture.backtrace,
        panic = capture.message,
        "a handler panicked"
    );
    Failure {
        location: capture.location,
        backtrace: Some(capture.backtrace).filter(|backtrace| !backtrace.is_empty()),
        ..Failure::new(FailureKind::HandlerPanicked, capture.message)
    }
}
