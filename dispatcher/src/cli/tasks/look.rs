//! Looking at tasks: `list`, `show`, `why`, `watch`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use serde_json::Value;
use switchyard_common::contract::ids::TaskId;
use switchyard_common::task::Status;

use super::{List, One, Watch};
use crate::cli::output;
use crate::store::Db;
use crate::store::left_files::left_files;
use crate::store::timeline::{Moment, timeline};
use crate::store::view::{self, TaskFilter, TaskSummary};

/// How often `tasks watch` looks.
const WATCH_PERIOD: Duration = Duration::from_millis(500);

pub(super) async fn list(db: &Db, list: List) -> anyhow::Result<ExitCode> {
    let mut statuses = Vec::new();
    for text in &list.statuses {
        let Some(status) = Status::parse(text) else {
            let known: Vec<&str> = Status::ALL.into_iter().map(Status::as_str).collect();
            bail!("status {text:?} is not known: use one of {}", known.join(", "));
        };
        statuses.push(status);
    }
    let (workspace, pool, kind, limit) = (list.workspace, list.pool, list.kind, i64::from(list.limit) + 1);
    let filter = TaskFilter { task_id: None, statuses, workspace, pool, kind, limit };
    let mut tasks = view::tasks(db, &filter).await?;
    let more = output::cut(&mut tasks, usize::from(list.limit));
    if list.json {
        output::json(&tasks)?;
    } else {
        let rows = tasks.iter().map(row).collect();
        output::table(
            &["TASK", "WORKSPACE", "KIND", "STEP", "STATUS", "SINCE", "AGENT", "WAITS FOR"],
            rows,
            "no tasks",
        );
        if more {
            output::more(usize::from(list.limit));
        }
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

pub(super) async fn find(db: &Db, task_id: &TaskId) -> anyhow::Result<TaskSummary> {
    let filter = TaskFilter { task_id: Some(task_id.to_string()), limit: 1, ..TaskFilter::default() };
    match view::tasks(db, &filter).await?.pop() {
        Some(task) => Ok(task),
        None => bail!("task {task_id} does not exist"),
    }
}

/// Most log lines that `tasks show` prints.
const SHOW_LOG_LINES: i64 = 40;

pub(super) async fn show(db: &Db, one: One) -> anyhow::Result<ExitCode> {
    let task = find(db, &one.task_id).await?;
    let attempts = view::attempts(db, one.task_id.as_str()).await?;
    let timeline = timeline(db, one.task_id.as_str()).await?;
    let logs = view::logs(db, one.task_id.as_str(), SHOW_LOG_LINES).await?;
    let payload = view::payload(db, one.task_id.as_str()).await?;
    let artifacts = left_files(db, &one.task_id).await?;
    if one.json {
        output::json(&serde_json::json!({
            "task": task, "attempts": attempts, "timeline": timeline, "logs": logs, "payload": payload,
            "artifacts": artifacts,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    summary(&task);
    output::line("\ntimeline");
    for moment in &timeline {
        output::line(&format!("  {}", sentence(moment)));
    }
    if !artifacts.is_empty() {
        output::line("\nartifacts (read one with `tasks artifact`)");
        for file in &artifacts {
            let bound = if file.current { "  in what an approval binds" } else { "" };
            output::line(&format!(
                "  {} #{}  {}  {} bytes{bound}",
                file.step, file.attempt, file.name, file.size
            ));
        }
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

/// One line: what, by whom, why, and then the rest.
fn sentence(moment: &Moment) -> String {
    let attempt = moment.attempt.map(|attempt| format!(" #{attempt}")).unwrap_or_default();
    let mut line = format!("{}  {}{attempt}", output::time(moment.at), moment.what);
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    let told = |name: &str| moment.detail.get(name).filter(|value| !value.is_null()).map(text);
    if let Some(by) = told("by") {
        line.push_str(&format!(" by {by}"));
    }
    if let Some(comment) = told("comment") {
        line.push_str(&format!(": {comment:?}"));
    }
    let rest = moment.detail.as_object().into_iter().flatten();
    for (name, value) in
        rest.filter(|(name, value)| !matches!(name.as_str(), "by" | "comment") && !value.is_null())
    {
        line.push_str(&format!("  {name}={}", text(value)));
    }
    line
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

pub(super) async fn why(db: &Db, one: One) -> anyhow::Result<ExitCode> {
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

pub(super) async fn follow(db: &Db, watch: Watch) -> anyhow::Result<ExitCode> {
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
