//! `dispatcher tasks ...`.

mod act;
mod artifacts;
mod look;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use switchyard_common::contract::ids::{Digest, TaskId};

use super::connect;
use crate::store::view::LIST_MAX_COUNT;

/// Look at tasks, and act on them.
#[derive(Debug, Subcommand)]
pub(crate) enum Tasks {
    /// List tasks, newest first, each with what it waits for.
    List(List),
    /// Everything about one task: attempts, timeline, artifacts, last log lines.
    Show(One),
    /// Why a task does not run: the scheduling pass, for this task alone.
    Why(One),
    /// Follow one task, or all, until it ends.
    Watch(Watch),
    /// List what the steps of a task have left: sizes, digests, and the digest that an approval binds.
    Artifacts(One),
    /// Print one artifact, byte for byte: read it before you approve it.
    Artifact(Artifact),
    /// Approve what a task waits with.
    Approve(Approve),
    /// Discard what a task waits with: it ends as cancelled.
    Discard(By),
    /// Cancel a task.
    Cancel(Cancel),
    /// Do not wait for the next try, or for not_before.
    RetryNow(By),
    /// End an uncertain task by an operator's word.
    Resolve(Resolve),
}

/// Which tasks.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only this status; may be repeated.
    #[arg(long = "status")]
    statuses: Vec<String>,
    /// Only this workspace.
    #[arg(long)]
    workspace: Option<String>,
    /// Only this pool.
    #[arg(long)]
    pool: Option<String>,
    /// Only this kind.
    #[arg(long)]
    kind: Option<String>,
    /// The newest so many.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..LIST_MAX_COUNT))]
    limit: u16,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// One task.
#[derive(Debug, Args)]
pub(crate) struct One {
    /// The task.
    task_id: TaskId,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// One artifact.
#[derive(Debug, Args)]
pub(crate) struct Artifact {
    /// The task.
    task_id: TaskId,
    /// Its name, as `tasks artifacts` lists it.
    name: String,
    /// Of this step; without it, what an approval binds or has bound, else what was left last.
    #[arg(long)]
    step: Option<String>,
    /// Write it to a new file instead of printing it.
    #[arg(long)]
    output: Option<PathBuf>,
}

/// What to follow.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// The task; without it, every task until interrupted.
    task_id: Option<TaskId>,
    /// Print JSON lines.
    #[arg(long)]
    json: bool,
}

/// On which task, who acts and why.
#[derive(Debug, Args)]
pub(crate) struct By {
    /// The task.
    task_id: TaskId,
    /// Who acts; kept in the audit log. Default: the user's name.
    #[arg(long, env = "SWITCHYARD_ACTOR")]
    by: Option<String>,
    /// Why.
    #[arg(long)]
    comment: Option<String>,
}

/// An approval.
#[derive(Debug, Args)]
pub(crate) struct Approve {
    #[command(flatten)]
    by: By,
    /// What is approved; without it, what is current.
    #[arg(long)]
    digest: Option<Digest>,
}

/// A cancel.
#[derive(Debug, Args)]
pub(crate) struct Cancel {
    #[command(flatten)]
    by: By,
    /// Stop even a non-repeatable step that runs: things may be left half changed.
    #[arg(long)]
    force: bool,
}

/// The end of an uncertain task.
#[derive(Debug, Args)]
pub(crate) struct Resolve {
    #[command(flatten)]
    by: By,
    /// succeeded or failed.
    #[arg(long, value_parser = ["succeeded", "failed"])]
    to: String,
    /// Resolve although the agent's session is not known to be over; say why it cannot be running.
    #[arg(long = "override")]
    override_reason: Option<String>,
}

pub(super) async fn run(command: Tasks) -> anyhow::Result<ExitCode> {
    let db = connect::database()?;
    match command {
        Tasks::List(list) => look::list(&db, list).await,
        Tasks::Show(one) => look::show(&db, one).await,
        Tasks::Why(one) => look::why(&db, one).await,
        Tasks::Watch(watch) => look::follow(&db, watch).await,
        Tasks::Artifacts(one) => artifacts::list(&db, one).await,
        Tasks::Artifact(artifact) => artifacts::print(&db, artifact).await,
        Tasks::Approve(approve) => act::approve(&db, &approve).await,
        Tasks::Discard(discard) => act::discard(&db, &discard).await,
        Tasks::Cancel(cancel) => act::cancel(&db, &cancel).await,
        Tasks::RetryNow(retry) => act::retry_now(&db, &retry).await,
        Tasks::Resolve(resolve) => act::resolve(&db, &resolve).await,
    }
}
