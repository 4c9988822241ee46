//! One run of one program, from the task to its result.
//!
//! ```text
//! may it start? ─► workdir (inputs verified) ─► supervisor ─► watch + logs ─► judge ─► collect ─► remove workdir
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::artifacts::{self, LeftoverError};
use super::blocking::blocking;
use super::boot_clock::BootTime;
use super::connection::{Connection, Pipes, Verdict};
use super::environment::{environment, masker};
use super::judge::{judge, not_started};
use super::logs::{LogEnd, stream_logs};
use super::mask::Masker;
use super::orphans;
use super::result::{FailedBecause, ProgramEnd, ProgramResult, StartFailedBecause};
use super::spec::ProgramSpec;
use super::supervisor::message::RunOptions;
use super::task::{Controls, ProgramTask, Runner, StopRequest};
use super::workdir::{Workdir, WorkdirError};

/// Runs `spec` for `task` and returns when every process that it started has gone.
///
/// Never panics and never returns an error: whatever happens is an end. When the returned future is dropped, everything is killed
/// at once and the working directory stays until the agent starts again.
pub async fn run_program(
    runner: &Runner,
    spec: &ProgramSpec,
    task: ProgramTask,
    mut controls: Controls,
) -> ProgramResult {
    let began = Instant::now();
    if let Some(refused) = refuse_start(spec, &controls) {
        return refused;
    }
    let options = run_options(spec, &task, &controls);
    let traceparent = task.traceparent.clone();
    let workdir = match make_workdir(runner, task).await {
        Ok(workdir) => workdir,
        Err(failed) => return failed,
    };
    let env = environment(spec, &runner.agent_env, &workdir, traceparent.as_deref());
    let masker = masker(spec, &env);
    let mut result = match Connection::open(&runner.supervisor, &options, &env, &workdir.current_dir()) {
        Ok((connection, pipes)) => {
            let watched = watch(connection, pipes, &workdir, &masker, &mut controls).await;
            finish(spec, &workdir, &masker, watched).await
        }
        Err(error) => {
            let message = format!("cannot start the supervisor {}: {error}", runner.supervisor.display());
            not_started(ProgramEnd::StartFailed(StartFailedBecause::Supervisor), message)
        }
    };
    if result.workdir_fault.is_none() {
        result.workdir_fault = remove(workdir).await;
    }
    result.ran_for = began.elapsed();
    result
}

/// Silence and stop requests are looked at before anything starts (protocol C3).
fn refuse_start(spec: &ProgramSpec, controls: &Controls) -> Option<ProgramResult> {
    let asked = *controls.stop.borrow();
    if let Some(request) = asked {
        let (end, why) = match request {
            StopRequest::Cancel => (ProgramEnd::Cancelled, "it was cancelled"),
            StopRequest::Interrupt => (ProgramEnd::Interrupted, "the agent has to go"),
            StopRequest::Silence => (ProgramEnd::KilledBySilence, "the agent was silent for too long"),
        };
        return Some(not_started(end, format!("not started: {why}")));
    }
    let dead_by = controls.dead_by.as_ref().map(|dead_by| *dead_by.borrow())?;
    // A clock that cannot be read proves nothing: then it is too late.
    let in_time = BootTime::now().is_ok_and(|now| now < dead_by.minus(spec.kill_grace));
    let message = "not started: the agent's last confirmed heartbeat is too old";
    (!in_time).then(|| not_started(ProgramEnd::KilledBySilence, message.into()))
}

fn run_options(spec: &ProgramSpec, task: &ProgramTask, controls: &Controls) -> RunOptions {
    let run_timeout = spec.run_timeout.map_or(task.run_timeout, |own| own.min(task.run_timeout));
    RunOptions {
        kill_grace_ms: millis(spec.kill_grace),
        run_timeout_ms: millis(run_timeout),
        dead_by_boot_ms: controls.dead_by.as_ref().map(|dead_by| dead_by.borrow().as_millis()),
        command: spec.command.iter().map(Into::into).collect(),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

async fn make_workdir(runner: &Runner, task: ProgramTask) -> Result<Workdir, ProgramResult> {
    let root = runner.work_root.clone();
    let made = blocking("exec-workdir", move || Workdir::create(&root, &task)).await;
    let (because, message) = match made {
        Ok(Ok(workdir)) => return Ok(workdir),
        Ok(Err(error @ WorkdirError::Input { .. })) => (StartFailedBecause::Inputs, error.to_string()),
        Ok(Err(error @ (WorkdirError::Io { .. } | WorkdirError::InUse(_)))) => {
            (StartFailedBecause::Workdir, error.to_string())
        }
        Err(panic) => (StartFailedBecause::Workdir, panic),
    };
    Err(not_started(ProgramEnd::StartFailed(because), message))
}

/// What is known when every process has gone.
struct Watched {
    verdict: Verdict,
    /// Processes that could not be ended after the supervisor was lost.
    left: Option<String>,
    logs: LogEnd,
}

/// The supervisor and the pipes are watched in one task, so that neither can outlive the other.
async fn watch(
    mut connection: Connection,
    pipes: Pipes,
    workdir: &Workdir,
    masker: &Masker,
    controls: &mut Controls,
) -> Watched {
    let gone = CancellationToken::new();
    let sink = Arc::clone(&controls.logs);
    let supervised = async {
        let verdict = connection.watch(controls).await;
        let left = end_orphans(&verdict, workdir).await;
        gone.cancel();
        (verdict, left)
    };
    let logs = stream_logs(pipes.stdout, pipes.stderr, masker, &*sink, &gone);
    let ((verdict, left), logs) = tokio::join!(supervised, logs);
    Watched { verdict, left, logs }
}

/// A supervisor that was killed can end nothing any more: we do. Returns why that failed.
async fn end_orphans(verdict: &Verdict, workdir: &Workdir) -> Option<String> {
    let Verdict::Lost { session, how } = verdict else { return None };
    tracing::error!(how, "a supervisor was lost; the processes that it guarded are being killed");
    let (task_file, session) = (workdir.task_file(), *session);
    match blocking("exec-orphans", move || orphans::end_all(&task_file, session)).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(panic) => Some(panic),
    }
}

async fn finish(spec: &ProgramSpec, workdir: &Workdir, masker: &Masker, watched: Watched) -> ProgramResult {
    let mut result = judge(spec, watched.verdict);
    result.log_tail = watched.logs.tail;
    result.lines = watched.logs.lines;
    result.log_fault = watched.logs.fault;
    if let Some(left) = watched.left {
        // Removing it under running processes would be incident 61.
        result.workdir_fault = Some(format!("{} stays: {left}", workdir.path().display()));
        result.message = format!("{}; {left}", result.message);
    }
    match result.end {
        ProgramEnd::Succeeded | ProgramEnd::NoChanges => {
            take_leftovers(spec, workdir, masker, &mut result).await
        }
        ProgramEnd::Failed(FailedBecause::ExitCode) => take_result(workdir, masker, &mut result).await,
        ProgramEnd::Failed(_)
        | ProgramEnd::Panicked { .. }
        | ProgramEnd::TimedOut
        | ProgramEnd::Cancelled
        | ProgramEnd::StartFailed(_)
        | ProgramEnd::KilledBySilence
        | ProgramEnd::Interrupted => {}
    }
    result
}

/// A success counts only with everything that it left in order.
async fn take_leftovers(spec: &ProgramSpec, workdir: &Workdir, masker: &Masker, result: &mut ProgramResult) {
    take_result(workdir, masker, result).await;
    let (dir, max_bytes) = (workdir.artifact_dir(), spec.max_artifact_bytes);
    match flatten(blocking("exec-artifacts", move || artifacts::collect(&dir, max_bytes)).await) {
        Ok(artifacts) => result.artifacts = artifacts,
        Err(error) => fail(result, FailedBecause::Artifacts, &error),
    }
    if matches!(result.end, ProgramEnd::Failed(_)) {
        result.artifacts.clear();
    }
}

/// The result of a failure is taken too: it may explain it.
async fn take_result(workdir: &Workdir, masker: &Masker, result: &mut ProgramResult) {
    let path = workdir.result_file();
    match flatten(blocking("exec-result", move || artifacts::read_result(&path)).await) {
        Ok(found) => result.result = found.map(|value| masker.mask_json(value)),
        Err(error) => fail(result, FailedBecause::Result, &error),
    }
}

fn flatten<T>(read: Result<Result<T, LeftoverError>, String>) -> Result<T, String> {
    read?.map_err(|error| error.to_string())
}

/// The first reason stays the reason; what follows is told too.
fn fail(result: &mut ProgramResult, because: FailedBecause, error: &str) {
    if !matches!(result.end, ProgramEnd::Failed(_)) {
        result.end = ProgramEnd::Failed(because);
    }
    result.message = format!("{}; {error}", result.message);
}

async fn remove(workdir: Workdir) -> Option<String> {
    let path = workdir.path().display().to_string();
    let removed = blocking("exec-workdir", move || workdir.remove()).await;
    let fault = match removed {
        Ok(Ok(())) => return None,
        Ok(Err(error)) => error.to_string(),
        Err(panic) => panic,
    };
    tracing::warn!(path, fault, "a working directory could not be removed");
    Some(format!("{path} stays: {fault}"))
}
