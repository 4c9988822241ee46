//! The demo that is asked to stop leaves no process behind, whichever signal asks.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use switchyard_tests::harness::wait::{Look, until};

/// Longest wait for the demo to end after the signal.
const END_WITHIN: Duration = Duration::from_secs(60);

/// Processes whose environment names `folder`: everything that the demo started.
fn processes_of(folder: &str) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let environment = fs::read(format!("/proc/{name}/environ")).unwrap_or_default();
        if String::from_utf8_lossy(&environment).contains(folder) {
            found.push(name);
        }
    }
    Ok(found)
}

async fn stopped_by(signal: Signal) -> anyhow::Result<()> {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_demo"));
    let mut demo = demo.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // Kept until the end: nobody could write what else there is to say into a pipe that is closed.
    let mut asides = BufReader::new(demo.stderr.take().context("its asides")?).lines();
    let folder = asides.by_ref().find_map(|line| Some(line.ok()?.strip_prefix("logs: ")?.to_owned()));
    let folder = folder.context("the demo says where its logs are")?;
    let mut lines = BufReader::new(demo.stdout.take().context("its output")?).lines();
    // The agents are live, and work is submitted.
    for line in lines.by_ref() {
        let line = line?;
        ensure!(!line.contains("FAILED"), "{line}");
        if line.starts_with("1. ") {
            break;
        }
    }
    ensure!(processes_of(&folder)?.len() >= 3, "a dispatcher and two agents run");
    kill(Pid::from_raw(i32::try_from(demo.id())?), signal)?;
    let rest: Vec<String> = lines.collect::<Result<_, _>>()?;
    let ended =
        until("the demo to end", END_WITHIN, async || Ok(Look::of(demo.try_wait()?, String::new))).await?;
    assert_eq!(ended.code(), Some(1), "{rest:?}");
    assert!(rest.iter().any(|line| line.contains(signal.as_str())), "it says why it ends: {rest:?}");
    assert_eq!(processes_of(&folder)?, Vec::<String>::new(), "processes are left behind");
    Ok(())
}

#[tokio::test]
async fn a_demo_that_is_terminated_or_interrupted_leaves_no_process_behind() -> anyhow::Result<()> {
    // One after the other: the demo has one folder.
    stopped_by(Signal::SIGTERM).await?;
    stopped_by(Signal::SIGINT).await
}
