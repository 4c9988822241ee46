//! A program as a handler: the contract's words on one side, [`exec`](crate::exec)'s plain values on the other.

use std::sync::Arc;

use async_trait::async_trait;
use switchyard_common::failure::{Failure, FailureKind};
use tokio::sync::watch;

use crate::exec::boot_clock;
use crate::exec::program::run_program;
use crate::exec::result::{ProgramEnd, ProgramResult};
use crate::exec::spec::ProgramSpec;
use crate::exec::task::{Controls, InputArtifact, ProgramTask, Runner, StopRequest};
use crate::handler::{Handler, HandlerOutcome, StopReason, Success, Supervision, TaskContext};
use crate::machine::BootTime;
use crate::shell::for_supervisor;

/// A handler that is a program.
#[derive(Debug, Clone)]
pub struct Program {
    runner: Arc<Runner>,
    spec: ProgramSpec,
}

impl Program {
    /// The program of `spec`, run by `runner`.
    #[must_use]
    pub const fn new(runner: Arc<Runner>, spec: ProgramSpec) -> Self {
        Self { runner, spec }
    }
}

#[async_trait]
impl Handler for Program {
    async fn run(&self, context: TaskContext) -> HandlerOutcome {
        let (stop, stop_receiver) = watch::channel(None);
        let keep_alive = context.keep_alive();
        let dead_by = keep_alive.as_ref().map(|moment| watch::Sender::new(for_supervisor(*moment.borrow())));
        let controls = Controls {
            stop: stop_receiver,
            dead_by: dead_by.as_ref().map(watch::Sender::subscribe),
            logs: Arc::new(context.attempt_log().clone()),
        };
        let task = task_of(&context);
        let passing_on = async {
            tokio::join!(pass_stop(&context, &stop), pass_keep_alive(keep_alive, dead_by.as_ref()));
            std::future::pending().await
        };
        let result = tokio::select! {
            biased;
            result = run_program(&self.runner, &self.spec, task, controls) => result,
            never = passing_on => never,
        };
        outcome(&context, result)
    }

    fn supervision(&self) -> Supervision {
        Supervision::ByItself { kill_grace: self.spec.kill_grace }
    }
}

fn task_of(context: &TaskContext) -> ProgramTask {
    let work = context.work();
    let inputs = work.inputs.0.iter().filter_map(|entry| {
        let bytes = context.inputs().get(&entry.name)?.clone();
        Some(InputArtifact { name: entry.name.clone(), sha256: *entry.sha256.as_bytes(), bytes })
    });
    ProgramTask {
        task_id: work.task_id.to_string(),
        workspace_id: work.workspace_id.to_string(),
        kind: work.kind.to_string(),
        step: work.step.to_string(),
        attempt: work.attempt,
        agent_id: work.agent.to_string(),
        parameters: work.parameters.clone(),
        payload: work.payload.clone(),
        traceparent: context.traceparent().map(|trace| trace.to_string()),
        run_timeout: work.run_timeout(),
        inputs: inputs.collect(),
    }
}

async fn pass_stop(context: &TaskContext, stop: &watch::Sender<Option<StopRequest>>) {
    let request = match context.stopped().await {
        StopReason::Unwanted => StopRequest::Cancel,
        StopReason::Drain => StopRequest::Interrupt,
        StopReason::Silence => StopRequest::Silence,
        // The program's own supervisor keeps the run timeout.
        StopReason::TimeOver => return,
    };
    stop.send_replace(Some(request));
}

async fn pass_keep_alive(
    keep_alive: Option<watch::Receiver<BootTime>>,
    dead_by: Option<&watch::Sender<boot_clock::BootTime>>,
) {
    let (Some(mut keep_alive), Some(dead_by)) = (keep_alive, dead_by) else { return };
    while keep_alive.changed().await.is_ok() {
        dead_by.send_replace(for_supervisor(*keep_alive.borrow_and_update()));
    }
}

fn outcome(context: &TaskContext, result: ProgramResult) -> HandlerOutcome {
    if let Some(fault) = &result.log_fault {
        // A success whose log is incomplete must not look as if it were complete (incident 4).
        context.log(format!("[switchyard] this log is incomplete: {fault}"));
        tracing::warn!(fault, "the log of a program is incomplete");
    }
    match result.end {
        ProgramEnd::Succeeded => succeeded(result, true),
        ProgramEnd::NoChanges => succeeded(result, false),
        ProgramEnd::Failed(_) | ProgramEnd::StartFailed(_) => {
            HandlerOutcome::Failed(failure(FailureKind::HandlerFailed, result))
        }
        ProgramEnd::Panicked { .. } => {
            HandlerOutcome::Panicked(failure(FailureKind::HandlerPanicked, result))
        }
        ProgramEnd::TimedOut => HandlerOutcome::TimedOut(failure(FailureKind::RunTimeout, result)),
        ProgramEnd::Cancelled | ProgramEnd::Interrupted => HandlerOutcome::Stopped,
        ProgramEnd::KilledBySilence => HandlerOutcome::KeepAliveStopped,
    }
}

fn succeeded(result: ProgramResult, changes: bool) -> HandlerOutcome {
    HandlerOutcome::Succeeded(Success { changes, artifacts: result.artifacts, result: result.result })
}

fn failure(kind: FailureKind, result: ProgramResult) -> Failure {
    let message = match (result.log_fault, result.workdir_fault) {
        (None, None) => result.message,
        (log, workdir) => {
            let faults: Vec<String> = [log, workdir].into_iter().flatten().collect();
            format!("{}; {}", result.message, faults.join("; "))
        }
    };
    Failure {
        exit_code: result.exit_code,
        signal: result.signal,
        log_tail: result.log_tail,
        ..Failure::new(kind, message)
    }
}
