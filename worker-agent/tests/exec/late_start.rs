//! A supervisor that is started too late starts nothing: the agent may have been stopped between its decision and the start.

use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

/// Runs a supervisor for `touch RAN`; returns what it reported, and whether the program ran.
fn supervise(dead_by_boot_ms: Option<u64>, agent_is_there: bool) -> (String, bool) {
    let dir = tempfile::tempdir().unwrap();
    let ran = dir.path().join("ran");
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_worker-agent"));
    command.args(["supervise", "run", "--kill-grace-ms", "10", "--run-timeout-ms", "60000"]);
    if let Some(moment) = dead_by_boot_ms {
        command.args(["--dead-by-boot-ms", &moment.to_string()]);
    }
    command.args(["--", "touch"]).arg(&ran).stdin(Stdio::from(OwnedFd::from(theirs)));
    let mut reported = String::new();
    if !agent_is_there {
        ours.shutdown(std::net::Shutdown::Both).unwrap();
    }
    let mut process = command.spawn().unwrap();
    drop(command);
    ours.read_to_string(&mut reported).unwrap();
    process.wait().unwrap();
    (reported, ran.exists())
}

#[test]
fn a_moment_that_has_passed_starts_nothing() {
    let (reported, ran) = supervise(Some(1), true);
    assert!(reported.contains(r#"{"type":"not_started","cause":"silence"}"#), "{reported}");
    assert!(!ran);
}

#[test]
fn an_agent_that_has_gone_starts_nothing() {
    assert_eq!(supervise(None, false), (String::new(), false));
}

#[test]
fn an_agent_that_is_there_starts_the_program() {
    let (reported, ran) = supervise(None, true);
    assert!(ran && reported.contains(r#""type":"ended","exit_code":0"#), "{reported}");
}
