//! `dispatcher publish`: an event from flags or a file; waits for the answer.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use switchyard_common::broker::{Outgoing, Properties, Requester, Session};
use switchyard_common::contract::answer::Answer;
use switchyard_common::contract::cloudevent::{CloudEvent, STRUCTURED_CONTENT_TYPE};
use switchyard_common::contract::event::EventType;
use switchyard_common::contract::limits::PRIORITY_MAX;
use switchyard_common::telemetry::TraceParent;
use uuid::Uuid;

use super::output;
use crate::config::{Config, Needs};

/// `source` of events that are published by hand, when none is given.
const SOURCE_DEFAULT: &str = "/switchyard/cli";

/// Publish an event and wait until it is accepted or rejected.
#[derive(Debug, Args)]
pub(crate) struct Publish {
    #[command(subcommand)]
    event: Event,
    /// CloudEvents source; with the id it identifies the event.
    #[arg(long, global = true, default_value = SOURCE_DEFAULT)]
    source: String,
    /// CloudEvents id; drawn when absent.
    #[arg(long, global = true)]
    id: Option<String>,
    /// Longest wait for the answer, in seconds.
    #[arg(long, global = true, default_value_t = 30)]
    timeout: u64,
    /// Print the answer as JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Event {
    /// Register a workspace, or update it.
    Workspace {
        /// The workspace.
        workspace_id: String,
        /// The pool whose agents serve it.
        #[arg(long)]
        pool: String,
        /// A label, as name=value; may be repeated.
        #[arg(long = "label")]
        labels: Vec<String>,
    },
    /// Submit a task.
    Task(Box<Task>),
    /// Approve what a task waits with.
    Approve {
        /// The task.
        task_id: String,
        /// Who approves.
        #[arg(long, env = "SWITCHYARD_ACTOR")]
        by: String,
        /// What is approved; without it, what is current.
        #[arg(long)]
        digest: Option<String>,
        /// Why.
        #[arg(long)]
        comment: Option<String>,
    },
    /// Discard what a task waits with.
    Discard {
        /// The task.
        task_id: String,
        /// Who discards.
        #[arg(long, env = "SWITCHYARD_ACTOR")]
        by: String,
        /// Why.
        #[arg(long)]
        comment: Option<String>,
    },
    /// Ask for a task to be cancelled.
    Cancel {
        /// The task.
        task_id: String,
        /// Who asks.
        #[arg(long, env = "SWITCHYARD_ACTOR")]
        by: String,
        /// Stop even a non-repeatable step that runs: things may be left half changed.
        #[arg(long)]
        force: bool,
    },
    /// Publish a whole CloudEvent from a JSON file, `-` for standard input.
    File {
        /// The file.
        path: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Task {
    /// The workspace.
    #[arg(long)]
    workspace: String,
    /// The kind, such as plan_and_apply.
    #[arg(long)]
    kind: String,
    /// The payload, as JSON; @FILE reads a file.
    #[arg(long, default_value = "{}")]
    payload: String,
    /// Registers an unknown workspace in this pool.
    #[arg(long)]
    pool: Option<String>,
    /// The task's id; drawn when absent.
    #[arg(long)]
    task_id: Option<String>,
    /// 0 to 9; 9 goes first.
    #[arg(long, value_parser = clap::value_parser!(u64).range(0..=u64::from(PRIORITY_MAX)))]
    priority: Option<u64>,
    /// Not before this time (RFC 3339).
    #[arg(long)]
    not_before: Option<DateTime<Utc>>,
    /// Fails when it has not ended by this time (RFC 3339).
    #[arg(long)]
    deadline: Option<DateTime<Utc>>,
    /// Approve by itself, where the kind allows it.
    #[arg(long)]
    auto_approve: bool,
    /// One task per source and key.
    #[arg(long)]
    idempotency_key: Option<String>,
}

pub(super) async fn run(arguments: Publish) -> anyhow::Result<ExitCode> {
    let config = Config::from_process(Needs::Broker)?;
    let event = event(&arguments)?;
    let answer = publish(&config, &event, Duration::from_secs(arguments.timeout)).await?;
    if arguments.json {
        output::json(&answer)?;
    } else {
        output::line(&describe(&answer));
    }
    Ok(match answer {
        Answer::Accepted(_) => ExitCode::SUCCESS,
        Answer::Rejected(_) => ExitCode::FAILURE,
    })
}

/// Publishes `event` and waits for its answer.
pub(super) async fn publish(config: &Config, event: &Value, timeout: Duration) -> anyhow::Result<Answer> {
    let routing_key = event.get("type").and_then(Value::as_str).context("the event has no type")?;
    let body = serde_json::to_vec(event)?;
    let mut properties = Properties::persistent(STRUCTURED_CONTENT_TYPE);
    properties.message_id = event.get("id").and_then(Value::as_str).map(ToOwned::to_owned);
    let message = Outgoing::new(&config.namespace.events_exchange(), routing_key, properties, body, true)?;
    let broker = config.broker("switchyard-publish");
    let session = Session::open(&broker, "request")
        .await
        .context("the broker cannot be reached: is it up? (make status)")?;
    let mut requester = Requester::open(&session).await?;
    let answered = requester.request(&message, timeout).await;
    session.close().await;
    serde_json::from_slice(&answered?.body).context("the answer cannot be read")
}

fn describe(answer: &Answer) -> String {
    match answer {
        Answer::Accepted(accepted) => {
            let mut text = "accepted".to_owned();
            if let Some(task_id) = &accepted.task_id {
                text.push_str(&format!(": task {task_id}"));
            }
            if let Some(status) = accepted.status {
                text.push_str(&format!(", {status}"));
            }
            if let Some(digest) = &accepted.artifact_digest {
                text.push_str(&format!(", bound to {digest}"));
            }
            if let Some(note) = &accepted.note {
                text.push_str(&format!(" ({note})"));
            }
            text
        }
        Answer::Rejected(rejected) => {
            format!(
                "rejected ({}): {}\nwhat to do: {}",
                rejected.code.as_str(),
                rejected.message,
                rejected.what_to_do
            )
        }
    }
}

fn event(arguments: &Publish) -> anyhow::Result<Value> {
    let (event_type, data) = match &arguments.event {
        Event::File { path } => return read_event(path),
        Event::Workspace { workspace_id, pool, labels } => (
            EventType::WorkspaceRegistered,
            json!({ "workspace_id": workspace_id, "pool": pool, "labels": labels_of(labels)? }),
        ),
        Event::Task(task) => (EventType::TaskSubmitted, submission(task)?),
        Event::Approve { task_id, by, digest, comment } => (
            EventType::TaskApproved,
            json!({ "task_id": task_id, "approved_by": by, "artifact_digest": digest, "comment": comment }),
        ),
        Event::Discard { task_id, by, comment } => {
            (EventType::TaskDiscarded, json!({ "task_id": task_id, "discarded_by": by, "comment": comment }))
        }
        Event::Cancel { task_id, by, force } => (
            EventType::TaskCancelRequested,
            json!({ "task_id": task_id, "requested_by": by, "force": force }),
        ),
    };
    let id = arguments.id.clone().unwrap_or_else(|| Uuid::now_v7().to_string());
    let mut event = CloudEvent::new(id, &arguments.source, event_type.as_str(), data);
    event.time = Some(Utc::now());
    event.traceparent = Some(TraceParent::generate(&mut rand::rng()).to_string());
    Ok(serde_json::to_value(event)?)
}

fn submission(task: &Task) -> anyhow::Result<Value> {
    let text = match task.payload.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?,
        None => task.payload.clone(),
    };
    let payload: Value = serde_json::from_str(&text).context("the payload is not JSON")?;
    let data = json!({
        "workspace_id": task.workspace, "kind": task.kind, "payload": payload, "pool": task.pool,
        "task_id": task.task_id, "priority": task.priority, "not_before": task.not_before, "deadline": task.deadline,
        "auto_approve": task.auto_approve.then_some(true), "idempotency_key": task.idempotency_key,
    });
    Ok(without_nulls(data))
}

fn without_nulls(mut data: Value) -> Value {
    if let Value::Object(fields) = &mut data {
        fields.retain(|_, value| !value.is_null());
    }
    data
}

fn labels_of(labels: &[String]) -> anyhow::Result<Value> {
    let mut map = Map::new();
    for label in labels {
        let Some((name, value)) = label.split_once('=') else { bail!("label {label:?} is not name=value") };
        map.insert(name.to_owned(), Value::String(value.to_owned()));
    }
    Ok(if map.is_empty() { Value::Null } else { Value::Object(map) })
}

fn read_event(path: &std::path::Path) -> anyhow::Result<Value> {
    let text = if path.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin())?
    } else {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
    };
    serde_json::from_str(&text).context("the file is not JSON")
}
