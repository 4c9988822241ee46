//! Every way in which a handler can fail leaves one dead letter that explains itself, and exactly one ERROR line of the dispatcher.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use switchyard_common::task::Status;
use switchyard_dispatcher::store::letters::Letter;
use switchyard_tests::harness::scenario::launch::{HANDLERS, KINDS};
use switchyard_tests::harness::scenario::look::MOVE_WITHIN;
use switchyard_tests::harness::scenario::{LogLine, Process, Scenario};

/// `scripted` runs a program; `brief` may run for a second only. Neither is tried again.
const MORE_KINDS: &str = r#"
[kinds.scripted]
exclusive = false
[[kinds.scripted.steps]]
name = "run"
handler = "script"
repeatable = true
policy = { max_attempts = 1 }

[kinds.brief]
exclusive = false
[[kinds.brief.steps]]
name = "run"
handler = "test"
repeatable = true
policy = { max_attempts = 1, run_timeout_ms = 1000 }
"#;

/// Does what its payload asks for.
const SCRIPT: &str = r#"
echo "it begins"
case "$(cat "$SWITCHYARD_TASK_FILE")" in
  *please_fail*) echo "no quota left" >&2; exit 7 ;;
  *please_crash*) echo "the state is corrupt" >&2; kill -ABRT $$ ;;
esac
"#;

struct Bench {
    scenario: Scenario,
    dispatcher: Process,
    _agent: Process,
}

impl Bench {
    async fn new(name: &str) -> anyhow::Result<Self> {
        let scenario = Scenario::new(name).await?;
        let script = scenario.write("script.sh", SCRIPT)?;
        let handlers = format!(
            "{HANDLERS}\n[handlers.script]\ncommand = [\"sh\", {:?}]\n",
            script.display().to_string()
        );
        let kinds = format!("{KINDS}{MORE_KINDS}");
        let dispatcher = scenario.dispatcher("dispatcher-1").config(kinds).start().await?;
        let agent = scenario.agent("agent-1").config(handlers).start().await?;
        Ok(Self { scenario, dispatcher, _agent: agent })
    }

    /// Submits a task that must fail; gives its one letter and the one ERROR line.
    async fn failing(&self, kind: &str, payload: serde_json::Value) -> anyhow::Result<(Letter, LogLine)> {
        self.scenario.upstream().await?.submit("t-1", "shop", kind, payload).await?;
        self.scenario.until_status("t-1", Status::Failed).await?;
        let letter = self.scenario.until_letter_of("t-1").await?;
        let line = self
            .dispatcher
            .log()
            .until("the dead letter", MOVE_WITHIN, |line| line.message() == "dead letter")
            .await?;
        let errors = self.dispatcher.log().errors()?;
        ensure!(errors.len() == 1, "one ERROR line is right, not {errors:#?}");
        explains_itself(&letter, &line)?;
        Ok((letter, line))
    }
}

/// Everything that an operator needs is in the letter and in its line (design 9).
fn explains_itself(letter: &Letter, line: &LogLine) -> anyhow::Result<()> {
    for (field, value) in [
        ("task_id", "t-1"),
        ("workspace_id", "shop"),
        ("agent_id", "agent-1"),
        ("pool_id", "default"),
        ("event_source", "/tests/upstream"),
        // The default exchange has no name: assignments name their queue itself.
        ("exchange", ""),
    ] {
        ensure!(line.text(field) == value, "{field} should be {value:?} in {line:?}");
    }
    let named = line.text("routing_key") == line.text("queue");
    ensure!(
        named && line.text("queue").ends_with(".agent.default.agent-1"),
        "the queue should be named in {line:?}"
    );
    for field in [
        "kind",
        "step",
        "pod",
        "session",
        "event_id",
        "queue",
        "x_death",
        "failure_kind",
        "failure_message",
        "timeline",
        "payload",
        "fingerprint",
    ] {
        ensure!(!line.text(field).is_empty(), "{field} is missing in {line:?}");
    }
    ensure!(line.field("attempt") == 1, "attempt should be 1 in {line:?}");
    let complete = letter.failure.is_some()
        && letter.x_death.is_some()
        && letter.timeline.is_some()
        && letter.payload.is_some();
    ensure!(complete, "both halves should be there: {letter:?}");
    // The lease token is a secret.
    ensure!(
        !letter.payload.as_deref().unwrap_or_default().contains("\"lease\":\"") || scrubbed(letter),
        "{letter:?}"
    );
    Ok(())
}

fn scrubbed(letter: &Letter) -> bool {
    let payload = letter.payload.as_deref().unwrap_or_default();
    let value = payload.split("\"lease\":\"").nth(1).and_then(|rest| rest.split('"').next());
    value.is_some_and(|value| uuid::Uuid::parse_str(value).is_err())
}

#[tokio::test]
async fn a_program_that_exits_with_an_error_leaves_one_letter_with_its_exit_code_and_last_words()
-> anyhow::Result<()> {
    let bench = Bench::new("failures_exit_code").await?;
    let (letter, line) = bench.failing("scripted", json!({ "please_fail": true })).await?;
    assert_eq!(letter.failure_kind.as_deref(), Some("handler_failed"));
    assert_eq!(letter.failure_number("exit_code"), Some(7));
    // Output and error output are two pipes: which line comes first is not promised.
    let mut tail = letter.log_tail();
    tail.sort_unstable();
    assert_eq!(tail, ["it begins", "no quota left"]);
    assert_eq!(line.field("exit_code"), 7);
    assert!(line.text("log_tail").contains("no quota left"), "{line:?}");
    Ok(())
}

#[tokio::test]
async fn a_program_that_a_signal_kills_leaves_one_letter_with_the_signal() -> anyhow::Result<()> {
    let bench = Bench::new("failures_signal").await?;
    let (letter, line) = bench.failing("scripted", json!({ "please_crash": true })).await?;
    assert_eq!(letter.failure_kind.as_deref(), Some("handler_panicked"));
    assert_eq!(letter.failure_number("signal"), Some(6));
    assert_eq!(line.field("signal"), 6);
    assert!(letter.log_tail().contains(&"the state is corrupt"), "{letter:?}");
    Ok(())
}

#[tokio::test]
async fn a_handler_that_panics_leaves_one_letter_with_message_place_and_backtrace() -> anyhow::Result<()> {
    let bench = Bench::new("failures_panic").await?;
    let (letter, line) = bench.failing("once", json!({ "do": "panic", "message": "index 3 of 2" })).await?;
    assert_eq!(letter.failure_kind.as_deref(), Some("handler_panicked"));
    assert!(letter.failure_message.as_deref().unwrap_or_default().contains("index 3 of 2"), "{letter:?}");
    assert!(line.text("location").contains("test_handler.rs:"), "{line:?}");
    assert!(line.text("backtrace").contains("test_handler"), "{line:?}");
    // The agent has survived its handler.
    bench.scenario.upstream().await?.submit("t-2", "shop", "once", json!({})).await?;
    bench.scenario.until_status("t-2", Status::Succeeded).await?;
    Ok(())
}

#[tokio::test]
async fn a_handler_that_runs_too_long_is_stopped_and_leaves_one_letter() -> anyhow::Result<()> {
    let bench = Bench::new("failures_timeout").await?;
    let (letter, _) = bench.failing("brief", json!({ "do": "hang" })).await?;
    assert_eq!(letter.failure_kind.as_deref(), Some("run_timeout"));
    let attempts = bench.scenario.attempts("t-1").await?;
    assert_eq!(attempts[0].outcome.as_deref(), Some("timed_out"));
    Ok(())
}

#[tokio::test]
async fn work_of_an_agent_that_is_killed_is_done_by_another_and_the_loss_is_one_letter() -> anyhow::Result<()>
{
    // An agent needs two heartbeats, the kill grace of the builtin handlers (5 s) and two seconds within the lost timeout.
    let scenario = Scenario::new("failures_agent_killed")
        .await?
        .with_pace(Duration::from_millis(500), Duration::from_secs(9));
    let dispatcher = scenario.dispatcher("dispatcher-1").start().await?;
    let mut first = scenario.agent("agent-1").start().await?;
    let mut upstream = scenario.upstream().await?;
    upstream.submit("t-1", "shop", "plan", json!({ "sleep_ms": 4000 })).await?;
    scenario
        .until_task("t-1", "to run on agent-1", MOVE_WITHIN, |task| task.status == Status::Running)
        .await?;
    first.kill()?;
    let _second = scenario.agent("agent-2").start().await?;
    scenario.until_status("t-1", Status::Succeeded).await?;

    let attempts = scenario.attempts("t-1").await?;
    let told: Vec<_> = attempts
        .iter()
        .map(|attempt| (attempt.agent.as_str(), attempt.outcome.as_deref().unwrap_or("open")))
        .collect();
    assert_eq!(told, [("agent-1", "lost"), ("agent-2", "succeeded")]);
    let letters = scenario.letters_of("t-1").await?;
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(letters[0].failure_kind.as_deref(), Some("agent_lost"));
    // Work that was done in the end needs nobody's attention.
    assert_eq!(letters[0].resolution.as_deref(), Some("task_succeeded"));
    let line =
        dispatcher.log().until("the loss", MOVE_WITHIN, |line| line.message() == "dead letter").await?;
    assert_eq!((line.text("failure_kind"), line.text("agent_id")), ("agent_lost", "agent-1"));
    let errors = dispatcher.log().errors()?;
    assert_eq!(errors.len(), 1, "{errors:#?}");
    Ok(())
}

#[tokio::test]
async fn an_apply_whose_agent_is_killed_is_uncertain_and_never_starts_again() -> anyhow::Result<()> {
    let scenario = Scenario::new("failures_apply_killed")
        .await?
        .with_pace(Duration::from_millis(500), Duration::from_secs(9));
    let _dispatcher = scenario.dispatcher("dispatcher-1").start().await?;
    let mut first = scenario.agent("agent-1").start().await?;
    let mut upstream = scenario.upstream().await?;
    upstream
        .submit("t-1", "shop", "plan_and_apply", json!({ "artifact_bytes": 10, "sleep_ms": 3000 }))
        .await?;
    scenario.until_status("t-1", Status::AwaitingApproval).await?;
    upstream.approve("t-1", "ada").await?;
    let applying = |task: &switchyard_dispatcher::store::view::TaskSummary| {
        task.status == Status::Running && task.step == "apply"
    };
    scenario.until_task("t-1", "to run its apply", MOVE_WITHIN, applying).await?;
    first.kill()?;
    let _second = scenario.agent("agent-2").start().await?;
    scenario.until_status("t-1", Status::Uncertain).await?;
    // The second agent takes other work meanwhile, and the workspace stays taken.
    upstream.submit("t-2", "shop", "plan_and_apply", json!({ "artifact_bytes": 10 })).await?;
    upstream.submit("t-3", "other", "plan", json!({})).await?;
    scenario.until_status("t-3", Status::Succeeded).await?;
    assert_eq!(scenario.task("t-2").await?.status, Status::Blocked);
    assert_eq!(scenario.task("t-1").await?.status, Status::Uncertain);
    assert_eq!(
        scenario.count("SELECT count(*) FROM attempts WHERE task_id = 't-1' AND step_name = 'apply'").await?,
        1
    );
    let letter = scenario.until_letter_of("t-1").await?;
    assert_eq!(letter.failure_kind.as_deref(), Some("agent_lost"));
    Ok(())
}
