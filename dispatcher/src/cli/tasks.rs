//! `dispatcher tasks ...`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use switchyard_common::contract::ids::{Digest, TaskId};
use switchyard_common::task::{Input, ResolveTo, Status, Verdict};

use super::connect::{self, actor};
use super::output;
use crate::store::timeline::{Moment, timeline};
use crate::store::view::{self, TaskFilter, TaskSummary};
use crate::store::{Db, Named, apply, operate};

/// How often `tasks watch` looks.
const WATCH_PERIOD: Duration = Duration::from_millis(500);

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
    /// Approve what a task waits with.
    Approve(Approve),
    /// Discard what a task waits with: it ends as cancelled.
    Discard(Act),
    /// Cancel a task.
    Cancel(Cancel),
    /// Do not wait for the next try, or for not_before.
    RetryNow(Act),
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
    #[arg(long, default_value_t = 50)]
    limit: i64,
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

/// What to follow.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// The task; without it, every task until interrupted.
    task_id: Option<TaskId>,
    /// Print JSON lines.
    #[arg(long)]
    json: bool,
}

/// An act on a task.
#[derive(Debug, Args)]
pub(crate) struct Act {
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
    act: Act,
    /// What is approved; without it, what is current.
    #[arg(long)]
    digest: Option<Digest>,
}

/// A cancel.
#[derive(Debug, Args)]
pub(crate) struct Cancel {
    #[command(flatten)]
    act: Act,
    /// Stop even a non-repeatable step that runs: things may be left half changed.
    #[arg(long)]
    force: bool,
}

/// The end of an uncertain task.
#[derive(Debug, Args)]
pub(crate) struct Resolve {
    #[command(flatten)]
    act: Act,
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
        Tasks::List(list) => list_tasks(&db, list).await,
        Tasks::Show(one) => show(&db, one).await,
        Tasks::Why(one) => why(&db, one).await,
        Tasks::Watch(watch) => follow(&db, watch).await,
        Tasks::Approve(approve) => {
            let by = actor(approve.act.by.as_deref())?;
            act(&db, &approve.act, Input::Approve { by, digest: approve.digest.clone() }, "approve").await
        }
        Tasks::Discard(discard) => {
            let by = actor(discard.by.as_deref())?;
            act(&db, &discard, Input::Discard { by }, "discard").await
        }
        Tasks::Cancel(cancel) => {
            let by = actor(cancel.act.by.as_deref())?;
            act(&db, &cancel.act, Input::Cancel { by, force: cancel.force }, "cancel").await
        }
        Tasks::RetryNow(retry) => act(&db, &retry, Input::RetryNow, "retry-now").await,
        Tasks::Resolve(resolve) => resolve_task(&db, &resolve).await,
    }
}

async fn resolve_task(db: &Db, resolve: &Resolve) -> anyhow::Result<ExitCode> {
    let to = if resolve.to == "succeeded" { ResolveTo::Succeeded } else { ResolveTo::Failed };
    let input = Input::Resolve {
        by: actor(resolve.act.by.as_deref())?,
        to,
        session_over: operate::session_is_over(db, &resolve.act.task_id).await?,
        override_reason: resolve.override_reason.clone(),
    };
    act(db, &resolve.act, input, "resolve").await
}

/// Applies one input, audits it, and wakes the dispatchers.
async fn act(db: &Db, act: &Act, input: Input, action: &str) -> anyhow::Result<ExitCode> {
    let named = Named { task_id: act.task_id.clone(), attempt: None, input };
    let applied = apply(db, std::slice::from_ref(&named)).await?;
    let Some(decision) = applied.first().and_then(|applied| applied.decision.as_ref()) else {
        bail!("task {} does not exist", act.task_id);
    };
    match &decision.verdict {
        Verdict::Changed(after) => {
            let by = actor(act.by.as_deref())?;
            let (force, override_reason) = risks(&named.input);
            let detail = serde_json::json!({
                "comment": act.comment, "status": after.task.status, "force": force, "override": override_reason,
            });
            operate::audit_task(db, &by, action, &act.task_id, &detail).await?;
            operate::wake(db, &after.task.pool).await?;
            let digest =
                after.task.approval.as_ref().map(|approval| format!(", bound to {}", approval.digest));
            output::line(&format!(
                "task {}: {}{}",
                act.task_id,
                after.task.status,
                digest.unwrap_or_default()
            ));
            Ok(ExitCode::SUCCESS)
        }
        Verdict::Unchanged => Ok(ExitCode::SUCCESS),
        Verdict::Refused(refusal) => bail!("task {}: {refusal}", act.task_id),
    }
}

/// What an operator took upon themselves, for the audit log.
fn risks(input: &Input) -> (Option<bool>, Option<&str>) {
    match input {
        Input::Cancel { force, .. } => (Some(*force), None),
        Input::Resolve { override_reason, .. } => (None, override_reason.as_deref()),
        Input::Due { .. }
        | Input::Promote
        | Input::Assign(_)
        | Input::Returned { .. }
        | Input::Ask { .. }
        | Input::Started { .. }
        | Input::Outcome { .. }
        | Input::SessionEnded { .. }
        | Input::NotListed
        | Input::Revoke { .. }
        | Input::DeadlinePassed
        | Input::QueueTimeout
        | Input::ApprovalExpired
        | Input::Approve { .. }
        | Input::Discard { .. }
        | Input::RetryNow => (None, None),
    }
}

async fn list_tasks(db: &Db, list: List) -> anyhow::Result<ExitCode> {
    let mut statuses = Vec::new();
    for text in &list.statuses {
        let Some(status) = Status::parse(text) else {
            let known: Vec<&str> = Status::ALL.into_iter().map(Status::as_str).collect();
            bail!("status {text:?} is not known: use one of {}", known.join(", "));
        };
        statuses.push(status);
    }
    let (workspace, pool, kind, limit) = (list.workspace, list.pool, list.kind, list.limit);
    let filter = TaskFilter { task_id: None, statuses, workspace, pool, kind, limit };
    let tasks = view::tasks(db, &filter).await?;
    if list.json {
        output::json(&tasks)?;
    } else {
        let rows = tasks.iter().map(row).collect();
        output::table(
            &["TASK", "WORKSPACE", "KIND", "STEP", "STATUS", "SINCE", "AGENT", "WAITS FOR"],
            rows,
            "no tasks",
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn row(task: &TaskSummary) -> Vec<String> {
    let waits = if task.status.is_terminal() {
        task.failure_message.clone().unwrap_or_default().lines().next().unwrap_or_default().to_owned()
    } else {
        task.waiting_for.clone()
    };
    vec![
        task.task_id.clone(),
        task.workspace_id.clone(),
        task.kind.clone(),
        task.step.clone(),
        task.status.to_string(),
        output::ago(task.since),
        task.agent.clone().unwrap_or_default(),
        waits,
    ]
}

async fn find(db: &Db, task_id: &TaskId) -> anyhow::Result<TaskSummary> {
    let filter = TaskFilter { task_id: Some(task_id.to_string()), limit: 1, ..TaskFilter::default() };
    match view::tasks(db, &filter).await?.pop() {
        Some(task) => Ok(task),
        None => bail!("task {task_id} does not exist"),
    }
}

/// Most log lines that `tasks show` prints.
const SHOW_LOG_LINES: i64 = 40;

async fn show(db: &Db, one: One) -> anyhow::Result<ExitCode> {
    let task = find(db, &one.task_id).await?;
    let attempts = view::attempts(db, one.task_id.as_str()).await?;
    let timeline = timeline(db, one.task_id.as_str()).await?;
    let logs = view::logs(db, one.task_id.as_str(), SHOW_LOG_LINES).await?;
    let payload = view::payload(db, one.task_id.as_str()).await?;
    if one.json {
        output::json(&serde_json::json!({
            "task": task, "attempts": attempts, "timeline": timeline, "logs": logs, "payload": payload,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    summary(&task);
    output::line("\ntimeline");
    for moment in &timeline {
        output::line(&format!("  {}", sentence(moment)));
    }
    if !logs.is_empty() {
        output::line("\nlast log lines");
        for log in &logs {
            output::line(&format!("  #{} {:6} {}", log.attempt, log.stream, log.line));
        }
    }
    output::line(&format!("\npayload\n  {}", payload.unwrap_or_default()));
    Ok(ExitCode::SUCCESS)
}

fn sentence(moment: &Moment) -> String {
    let attempt = moment.attempt.map(|attempt| format!(" #{attempt}")).unwrap_or_default();
    let detail: Vec<String> = moment
        .detail
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| {
            Some(format!("{name}={}", value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)))
                .filter(|_| !value.is_null())
        })
        .collect();
    format!("{}  {}{attempt}  {}", output::time(moment.at), moment.what, detail.join(" "))
}

fn summary(task: &TaskSummary) {
    let field = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            output::line(&format!("{name:12} {value}"));
        }
    };
    field("task", Some(&task.task_id));
    field("workspace", Some(&task.workspace_id));
    field("pool", Some(&task.pool));
    field("kind", Some(&format!("{}, step {}", task.kind, task.step)));
    field("status", Some(&format!("{} for {}", task.status, output::ago(task.since))));
    field("waits for", Some(&task.waiting_for).filter(|_| !task.status.is_terminal()).map(String::as_str));
    field("agent", task.agent.as_deref());
    field("pod", task.pod.as_deref());
    field("artifacts", task.artifact_digest.as_deref());
    field("approved by", task.approved_by.as_deref());
    field("cancel by", task.cancel_requested_by.as_deref());
    field("failure", task.failure_message.as_deref());
    field("replay of", task.replay_of.as_deref());
}

async fn why(db: &Db, one: One) -> anyhow::Result<ExitCode> {
    let task = find(db, &one.task_id).await?;
    let agents = view::explain_agents(db, &one.task_id).await?;
    if one.json {
        output::json(&serde_json::json!({ "task": task, "agents": agents }))?;
        return Ok(ExitCode::SUCCESS);
    }
    output::line(&format!("task {} is {} (step {})", task.task_id, task.status, task.step));
    output::line(&format!("it waits for {}", task.waiting_for));
    if task.status == Status::Pending {
        output::line("\nagents of its pool, as the pass sees them");
        let rows = agents.iter().map(|(agent, verdict)| vec![agent.clone(), verdict.clone()]).collect();
        output::table(&["AGENT", "VERDICT"], rows, "  none: the pool has never had an agent");
    }
    Ok(ExitCode::SUCCESS)
}

async fn follow(db: &Db, watch: Watch) -> anyhow::Result<ExitCode> {
    let filter = TaskFilter {
        task_id: watch.task_id.as_ref().map(ToString::to_string),
        limit: 200,
        ..TaskFilter::default()
    };
    let mut seen = std::collections::BTreeMap::new();
    loop {
        let mut tasks = view::tasks(db, &filter).await?;
        if let (Some(task_id), true) = (&watch.task_id, tasks.is_empty()) {
            bail!("task {task_id} does not exist");
        }
        tasks.reverse();
        for task in &tasks {
            let now = (task.status, task.step.clone(), task.waiting_for.clone());
            if seen.insert(task.task_id.clone(), now.clone()) != Some(now) {
                moved(task, watch.json)?;
            }
        }
        if watch.task_id.is_some() && tasks.iter().all(|task| task.status.is_terminal()) {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(WATCH_PERIOD).await;
    }
}

fn moved(task: &TaskSummary, json: bool) -> anyhow::Result<()> {
    if json {
        output::line(&serde_json::to_string(task)?);
    } else {
        let waits = if task.status.is_terminal() {
            String::new()
        } else {
            format!(": waits for {}", task.waiting_for)
        };
        let at = output::time(task.since);
        output::line(&format!("{at}  {}  {} {}{waits}", task.task_id, task.step, task.status));
    }
    Ok(())
}
