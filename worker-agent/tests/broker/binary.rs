//! The `worker-agent` program: its handlers are programs, its end follows signals.

use std::path::Path;
use std::process::{Child, Command, Output};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use switchyard_common::contract::ids::SessionId;
use switchyard_common::contract::report::{LogLine, OutcomeEnd, ReportBody, StoppedBy};
use switchyard_common::failure::FailureKind;

use super::support::{Bench, is_assignment, url, within};

const HANDLERS: &str = r#"
slots = 2

[handlers.plan]
command = ["sh", "FOLDER/plan.sh"]
kill_grace_ms = 1000

[handlers.noop]
builtin = "noop"
"#;

/// Says who it is for, leaves an artifact and a result; fails, dies or hangs when the payload asks for it.
const PLAN: &str = r#"
task=$(cat "$SWITCHYARD_TASK_FILE")
case "$task" in
  *please_fail*) echo "no eggs" >&2; exit 7;;
  *please_die*) kill -SEGV $$;;
  *please_hang*) echo hanging; sleep 1000;;
esac
echo planned
echo content > "$SWITCHYARD_ARTIFACT_DIR/plan"
echo '{"changed": 2}' > "$SWITCHYARD_RESULT_FILE"
"#;

fn command(folder: &Path) -> Command {
    let handlers = folder.join("handlers.toml");
    let text = HANDLERS.replace("FOLDER", folder.to_str().unwrap());
    std::fs::write(&handlers, text).unwrap();
    std::fs::write(folder.join("plan.sh"), PLAN).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_worker-agent"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command.arg("--config").arg(handlers).current_dir(folder);
    command
}

/// An agent process that does not outlive its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(bench: &Bench, folder: &Path) -> Process {
    let mut command = command(folder);
    command
        .env("SWITCHYARD_AMQP_URL", url())
        .env("SWITCHYARD_NAMESPACE", bench.namespace.as_str())
        .env("SWITCHYARD_AGENT_ID", bench.agent.agent.as_str())
        .env("SWITCHYARD_WORK_DIR", folder.join("work"))
        .env("SWITCHYARD_HEARTBEAT", "500ms")
        .env("SWITCHYARD_DRAIN_FOR", "20s");
    Process(command.spawn().unwrap())
}

fn signal(child: &Process, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.0.id()).unwrap()), signal).unwrap();
}

/// Polls, because a wait that blocks could not be given up.
async fn exit_code(mut child: Process) -> Option<i32> {
    let mut poll = tokio::time::interval(Duration::from_millis(20));
    let exited = async {
        loop {
            poll.tick().await;
            if let Some(status) = child.0.try_wait().unwrap() {
                return status.code();
            }
        }
    };
    within(exited).await
}

async fn log_line(bench: &mut Bench, text: &str) -> LogLine {
    let with_text = |line: &&LogLine| line.text == text;
    bench
        .report(|body| match body {
            ReportBody::Log(log) => log.lines.iter().find(with_text).cloned(),
            _ => None,
        })
        .await
}

#[tokio::test]
async fn a_program_runs_and_everything_it_says_and_leaves_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = Bench::new().await;
    let child = start(&bench, folder.path());
    let session = bench.hello().await.session;
    let work = bench.work(session, json!({}));
    bench.assign(&work).await;
    let end = bench.outcome(&work).await.end;
    let OutcomeEnd::Succeeded { artifacts, result, .. } = end else { panic!("{end:?}") };
    assert_eq!(artifacts.0[0].name, "plan");
    assert_eq!(result, Some(json!({ "changed": 2 })));
    log_line(&mut bench, "planned").await;
    signal(&child, Signal::SIGTERM);
    assert_eq!(exit_code(child).await, Some(0));
    assert_eq!(bench.waiting().await, 0);
    bench.tear_down().await;
}

#[tokio::test]
async fn a_program_that_fails_or_dies_explains_itself_and_is_dead_lettered() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = Bench::new().await;
    let child = start(&bench, folder.path());
    let session = bench.hello().await.session;
    let failing = bench.work(session, json!({ "please_fail": 1 }));
    let dying = bench.work(session, json!({ "please_die": 1 }));
    for work in [&failing, &dying] {
        bench.assign(work).await;
    }
    let end = bench.outcome(&failing).await.end;
    let failure = end.failure().expect("a failure");
    assert_eq!((failure.kind, failure.exit_code), (FailureKind::HandlerFailed, Some(7)));
    assert_eq!(failure.log_tail, ["no eggs"]);
    let OutcomeEnd::Panicked { failure } = bench.outcome(&dying).await.end else { panic!("not panicked") };
    assert_eq!(failure.signal, Some(11));
    for work in [&failing, &dying] {
        bench.letter(|letter| is_assignment(letter, work)).await;
    }
    signal(&child, Signal::SIGTERM);
    assert_eq!(exit_code(child).await, Some(0));
    bench.tear_down().await;
}

async fn hanging(
    bench: &mut Bench,
    session: SessionId,
) -> switchyard_common::contract::assignment::Assignment {
    let work = bench.work(session, json!({ "please_hang": 1 }));
    bench.assign(&work).await;
    log_line(bench, "hanging").await;
    work
}

#[tokio::test]
async fn a_cancelled_program_is_stopped_and_a_second_signal_ends_the_agent_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = Bench::new().await;
    let child = start(&bench, folder.path());
    let session = bench.hello().await.session;
    let cancelled = hanging(&mut bench, session).await;
    let claim = super::support::claim(&cancelled);
    bench.order(switchyard_common::contract::control::Order::Cancel { claim, force: false }).await;
    let end = bench.outcome(&cancelled).await.end;
    assert_eq!(end, OutcomeEnd::Cancelled { by: StoppedBy::Dispatcher });
    hanging(&mut bench, session).await;
    signal(&child, Signal::SIGTERM);
    bench.heartbeat(|presence| presence.draining).await;
    signal(&child, Signal::SIGTERM);
    assert_eq!(exit_code(child).await, Some(3));
    bench.tear_down().await;
}

fn output(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
}

#[test]
fn check_says_what_the_configuration_comes_to_and_shows_no_password() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path());
    command.arg("check").env("SWITCHYARD_AMQP_URL", "amqp://me:hunter2@host/v").env("POD_NAME", "worker-3");
    let (code, said) = output(&mut command);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("default/worker-3, 2 slots + 2 credit"), "{said}");
    assert!(said.contains("noop = builtin noop") && !said.contains("hunter2"), "{said}");
}

#[test]
fn check_tells_everything_that_is_wrong_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path());
    command
        .arg("check")
        .env("SWITCHYARD_SLOTS", "0")
        .env("SWITCHYARD_POOL", "a.b")
        .env("SWITCHYARD_SLOT", "1");
    let (code, said) = output(&mut command);
    assert_eq!(code, Some(2), "{said}");
    for wrong in ["SWITCHYARD_AMQP_URL", "SWITCHYARD_POOL", "did you mean `SWITCHYARD_SLOTS`"] {
        assert!(said.contains(wrong), "{wrong} is not in: {said}");
    }
}

#[test]
fn check_names_every_handler_whose_program_cannot_be_started() {
    let folder = tempfile::tempdir().unwrap();
    let handlers = "[handlers.good]\ncommand = [\"sh\"]\n[handlers.gone]\ncommand = [\"./gone\"]\n\
        [handlers.data]\ncommand = [\"./handlers.toml\"]\n[handlers.unknown]\ncommand = [\"no-such-program\"]\n";
    let mut command = command(folder.path());
    std::fs::write(folder.path().join("handlers.toml"), handlers).unwrap();
    command.arg("check").env("SWITCHYARD_AMQP_URL", "amqp://me:hunter2@host/v").env("POD_NAME", "worker-3");
    let (code, said) = output(&mut command);
    assert_eq!(code, Some(2), "{said}");
    for wrong in [
        "handlers.gone: ",
        "does not exist",
        "handlers.data: ",
        "may execute",
        "handlers.unknown: no-such-program",
    ] {
        assert!(said.contains(wrong), "{wrong} is not in: {said}");
    }
    assert!(!said.contains("handlers.good") && !said.contains("is fine"), "{said}");
}
