//! The handler program of chaos runs: does what its payload says, and writes what it does to a ledger outside the system.
//!
//! One line per event, each one write to a file opened for appending, so that lines of different handlers never mix: the start, a sign of
//! life now and then, the end. A handler that is killed has no line of its end; its last sign of life bounds what it did.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::getpid;
use serde_json::Value;
use switchyard_tests::chaos::behaviour::{
    ALIVE_PERIOD_MS, Behaviour, Ends, FAILED_CODE, LEDGER_VARIABLE, NO_CHANGES_CODE,
};
use switchyard_tests::chaos::ledger::{Line, What, boot_now_ns};
use uuid::Uuid;

fn main() -> anyhow::Result<ExitCode> {
    let file = std::env::var("SWITCHYARD_TASK_FILE").context("SWITCHYARD_TASK_FILE")?;
    let task: Value = serde_json::from_slice(&std::fs::read(file)?)?;
    let mut run = Run::open(&task)?;
    run.write(What::Start)?;
    let attempt = run.line.attempt;
    let behaviour = behaviour(&task, &run.line.step)?;
    leave_artifact(&run.line)?;
    let until = boot_now_ns()? + behaviour.run_ms(attempt) * 1_000_000;
    while boot_now_ns()? < until {
        let left = Duration::from_nanos(until.saturating_sub(boot_now_ns()?));
        std::thread::sleep(left.min(Duration::from_millis(ALIVE_PERIOD_MS)));
        run.write(What::Alive)?;
    }
    let end = behaviour.end(attempt);
    run.write(What::End { end })?;
    Ok(match end {
        Ends::Succeeds => ExitCode::SUCCESS,
        Ends::FindsNothing => ExitCode::from(NO_CHANGES_CODE),
        Ends::Fails | Ends::FailsOnce => ExitCode::from(FAILED_CODE),
        Ends::Crashes => {
            kill(getpid(), Signal::SIGABRT)?;
            ExitCode::FAILURE
        }
    })
}

/// Steps that the payload does not name succeed at once.
fn behaviour(task: &Value, step: &str) -> anyhow::Result<Behaviour> {
    match task.pointer(&format!("/payload/{step}")) {
        Some(told) => serde_json::from_value(told.clone()).context("the payload cannot be read"),
        None => Ok(Behaviour { first_ms: 0, later_ms: 0, ends: Ends::Succeeds }),
    }
}

/// A plan leaves what an apply is approved for.
fn leave_artifact(line: &Line) -> anyhow::Result<()> {
    if line.step != "plan" {
        return Ok(());
    }
    let folder = std::env::var("SWITCHYARD_ARTIFACT_DIR").context("SWITCHYARD_ARTIFACT_DIR")?;
    let plan = format!("{} attempt {}\n", line.task, line.attempt);
    std::fs::write(std::path::Path::new(&folder).join("plan.txt"), plan).context("plan.txt")
}

struct Run {
    ledger: File,
    line: Line,
}

impl Run {
    fn open(task: &Value) -> anyhow::Result<Self> {
        let path = std::env::var(LEDGER_VARIABLE).context(LEDGER_VARIABLE)?;
        let ledger = OpenOptions::new().append(true).create(true).open(&path).context(path)?;
        let text = |name: &str| task[name].as_str().unwrap_or_default().to_owned();
        let line = Line {
            run: Uuid::new_v4(),
            what: What::Start,
            at_ns: 0,
            task: text("task_id"),
            workspace: text("workspace_id"),
            kind: text("kind"),
            step: text("step"),
            attempt: task["attempt"].as_u64().context("the attempt's number")?,
            agent: text("agent_id"),
            pid: getpid().as_raw(),
        };
        Ok(Self { ledger, line })
    }

    fn write(&mut self, what: What) -> anyhow::Result<()> {
        self.line.what = what;
        self.line.at_ns = boot_now_ns()?;
        let mut bytes = serde_json::to_vec(&self.line)?;
        bytes.push(b'\n');
        self.ledger.write_all(&bytes).context("the ledger")
    }
}
