//! A handler whose payload says what happens: for demonstrations and tests of everything around it.

use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::json;
use switchyard_common::contract::limits::ARTIFACTS_TOTAL_MAX_BYTES;

use crate::handler::{Handler, HandlerOutcome, TaskContext};

/// Does what the payload says. **For demonstrations and tests only**: whoever may submit tasks may make it fail, panic or hang.
///
/// ```json
/// { "do": "succeed", "sleep_ms": 100, "artifact_bytes": 10, "log_lines": 3, "message": "hello" }
/// ```
/// `do` is `succeed` (default), `no_changes`, `fail`, `panic`, or `hang` (until it is stopped). Unknown fields are left to others.
#[derive(Debug, Clone, Copy)]
pub struct TestHandler;

/// What the payload may ask for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Script {
    r#do: Act,
    /// Wait before it ends, in milliseconds; a stop ends the wait.
    sleep_ms: u64,
    /// Size of the artifact `artifact` that it leaves, in bytes; none when 0.
    artifact_bytes: usize,
    /// Lines that it writes into the log.
    log_lines: u32,
    /// Of the failure or panic.
    message: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Act {
    #[default]
    Succeed,
    NoChanges,
    Fail,
    Panic,
    Hang,
}

#[async_trait]
impl Handler for TestHandler {
    async fn run(&self, context: TaskContext) -> HandlerOutcome {
        let payload = &context.work().payload;
        let script = if payload.is_null() { Ok(Script::default()) } else { Script::deserialize(payload) };
        let script = match script {
            Ok(script) => script,
            Err(error) => {
                return HandlerOutcome::failed(format!(
                    "the payload is no script for the test handler: {error}"
                ));
            }
        };
        for line in 1..=script.log_lines {
            context.log(format!("line {line} of {}", script.log_lines));
        }
        if wait(&context, &script).await {
            return HandlerOutcome::Stopped;
        }
        if let Err(refused) = leave(&context, script.artifact_bytes) {
            return refused;
        }
        act(&context, &script)
    }
}

/// True when the wait ended because of a stop.
async fn wait(context: &TaskContext, script: &Script) -> bool {
    let sleep = Duration::from_millis(script.sleep_ms);
    match script.r#do {
        Act::Hang => {
            context.stopped().await;
            true
        }
        Act::Succeed | Act::NoChanges | Act::Fail | Act::Panic if sleep.is_zero() => false,
        Act::Succeed | Act::NoChanges | Act::Fail | Act::Panic => {
            tokio::select! {
                _ = context.stopped() => true,
                () = tokio::time::sleep(sleep) => false,
            }
        }
    }
}

fn leave(context: &TaskContext, bytes: usize) -> Result<(), HandlerOutcome> {
    if bytes == 0 {
        return Ok(());
    }
    // One over the limit is enough to be refused; more would only cost memory.
    let content = vec![b'x'; bytes.min(ARTIFACTS_TOTAL_MAX_BYTES + 1)];
    context.artifact("artifact", content).map_err(|error| HandlerOutcome::failed(error.to_string()))
}

#[expect(clippy::panic, reason = "panicking on request is what this handler is for")]
fn act(context: &TaskContext, script: &Script) -> HandlerOutcome {
    let message = |default: &str| script.message.clone().unwrap_or_else(|| default.to_owned());
    match script.r#do {
        Act::Succeed | Act::Hang => {
            let inputs: Vec<&String> = context.inputs().keys().collect();
            let mut result = json!({ "inputs": inputs });
            if let Some(trace) = context.traceparent() {
                result["traceparent"] = json!(trace.to_string());
            }
            HandlerOutcome::succeeded().with_result(result)
        }
        Act::NoChanges => HandlerOutcome::no_changes(),
        Act::Fail => HandlerOutcome::failed(message("the payload asked the test handler to fail")),
        Act::Panic => panic!("{}", message("the payload asked the test handler to panic")),
    }
}
