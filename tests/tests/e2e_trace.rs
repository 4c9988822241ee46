//! One trace id from an event's header to the handler, its reports, and what upstream is told.

use std::time::Duration;

use anyhow::Context as _;
use lapin::options::{BasicGetOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use serde_json::{Value, json};
use switchyard_common::broker::headers::HeaderValue;
use switchyard_common::broker::{Properties, Session};
use switchyard_common::contract::answer::Answer;
use switchyard_common::contract::cloudevent::STRUCTURED_CONTENT_TYPE;
use switchyard_common::contract::event::EventType;
use switchyard_common::task::Status;
use switchyard_common::telemetry::TraceParent;
use switchyard_tests::harness::scenario::Scenario;
use switchyard_tests::harness::scenario::upstream::{event, submission};
use switchyard_tests::harness::wait::{Look, until};

const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const WITHIN: Duration = Duration::from_secs(60);

/// A program and a Rust handler.
const HANDLERS: &str = r#"
[handlers.plan]
command = ["sh", "-c", 'cp "$SWITCHYARD_TASK_FILE" "$SWITCHYARD_ARTIFACT_DIR/task.json"; printf %s "$TRACEPARENT" > "$SWITCHYARD_ARTIFACT_DIR/trace"']
[handlers.test]
builtin = "test"
"#;

/// A queue that hears what an exchange is told.
struct Ear {
    channel: lapin::Channel,
    queue: String,
}

impl Ear {
    async fn on(session: &Session, exchange: &str, key: &str) -> anyhow::Result<Self> {
        let channel = session.channel().await?;
        let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let queue =
            channel.queue_declare("".into(), options, FieldTable::default()).await?.name().to_string();
        let (bound, options) = (queue.as_str().into(), QueueBindOptions::default());
        channel.queue_bind(bound, exchange.into(), key.into(), options, FieldTable::default()).await?;
        Ok(Self { channel, queue })
    }

    /// The trace id in the header, and the body, of the next message.
    async fn next(&self) -> anyhow::Result<(Option<String>, Value)> {
        let options = BasicGetOptions { no_ack: true };
        until(format!("a message on {}", self.queue), WITHIN, async || {
            let Some(message) = self.channel.basic_get(self.queue.as_str().into(), options).await? else {
                return Ok(Look::NotYet("nothing".to_owned()));
            };
            let headers = message.properties.headers().clone().unwrap_or_default();
            let trace = headers.inner().get("traceparent").and_then(|value| value.as_long_string().cloned());
            let id = trace.map(|text| text.to_string().parse::<TraceParent>()).transpose()?;
            Ok(Look::There((id.map(|trace| trace.trace_id()), serde_json::from_slice(&message.data)?)))
        })
        .await
    }
}

fn trace_id(text: &str) -> anyhow::Result<String> {
    Ok(text.parse::<TraceParent>().with_context(|| format!("{text:?}"))?.trace_id())
}

#[tokio::test]
async fn one_trace_id_goes_from_the_event_to_the_handler_its_reports_and_the_notification()
-> anyhow::Result<()> {
    let scenario = Scenario::new("trace").await?;
    let _dispatcher = scenario.dispatcher("dispatcher-1").start().await?;
    let agent = scenario.agent("agent-1").config(HANDLERS).start().await?;
    let mut upstream = scenario.upstream().await?;
    upstream.register("shop").await?;
    let session = scenario.session("ear").await?;
    let told = Ear::on(&session, &scenario.namespace.notifications_exchange(), "#").await?;
    let outcomes = Ear::on(&session, &scenario.namespace.reports_exchange(), "outcome.#").await?;
    let logs = Ear::on(&session, &scenario.namespace.reports_exchange(), "artifact.#").await?;

    let mut properties = Properties::persistent(STRUCTURED_CONTENT_TYPE);
    let traceparent = format!("00-{TRACE_ID}-00f067aa0ba902b7-01");
    properties.headers.insert("traceparent".to_owned(), HeaderValue::Text(traceparent));
    let submitted = event(EventType::TaskSubmitted, submission("program", "shop", "plan", json!({})));
    let answer =
        upstream.request(&submitted.event_type, properties.clone(), serde_json::to_vec(&submitted)?).await?;
    assert!(matches!(answer, Answer::Accepted(_)), "{answer:?}");
    scenario.until_status("program", Status::Succeeded).await?;

    // The program sees it in its environment and in its task file.
    let left = scenario.artifacts("program", 1).await?;
    assert_eq!(trace_id(std::str::from_utf8(&left["trace"])?)?, TRACE_ID);
    let task: Value = serde_json::from_slice(&left["task.json"])?;
    assert_eq!(trace_id(task["traceparent"].as_str().context("in the task file")?)?, TRACE_ID);
    // What is reported of it, and what upstream is told, carry it on.
    assert_eq!(logs.next().await?.0.as_deref(), Some(TRACE_ID));
    assert_eq!(outcomes.next().await?.0.as_deref(), Some(TRACE_ID));
    let (header, body) = told.next().await?;
    assert_eq!((header.as_deref(), &body["data"]["status"]), (Some(TRACE_ID), &json!("succeeded")));
    assert_eq!(trace_id(body["traceparent"].as_str().context("in the notification")?)?, TRACE_ID);

    // A Rust handler sees it in its context; a failure's dead letter has it.
    for (task, script) in [("rust", json!({})), ("fails", json!({ "do": "fail" }))] {
        let submitted = event(EventType::TaskSubmitted, submission(task, "shop", "once", script));
        upstream.request(&submitted.event_type, properties.clone(), serde_json::to_vec(&submitted)?).await?;
    }
    scenario.until_status("rust", Status::Succeeded).await?;
    let result = scenario.attempts("rust").await?[0].result.clone().context("a result")?;
    assert_eq!(trace_id(result["traceparent"].as_str().context("in the context")?)?, TRACE_ID);
    let letter = scenario.until_letter_of("fails").await?;
    assert_eq!(trace_id(letter.traceparent.as_deref().context("in the letter")?)?, TRACE_ID);

    // A task whose event has none begins a trace of its own.
    upstream.submit("without", "shop", "once", json!({})).await?;
    scenario.until_status("without", Status::Succeeded).await?;
    let result = scenario.attempts("without").await?[0].result.clone().context("a result")?;
    assert_ne!(trace_id(result["traceparent"].as_str().context("in the context")?)?, TRACE_ID);
    drop(agent);
    Ok(())
}
