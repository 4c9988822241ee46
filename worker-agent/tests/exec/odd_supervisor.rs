//! Supervisors that do not behave: each is a script in the place of the real one, with the socket as its standard input.

use std::process::Command;

use switchyard_worker_agent::exec::result::{FailedBecause, ProgramEnd, ProgramResult};

use crate::fixture::Fixture;

async fn under(supervisor: &str) -> ProgramResult {
    let mut fixture = Fixture::script("");
    fixture.supervisor = fixture.out("supervisor");
    // Written by another process: a descriptor of this one could be inherited by a program that another test starts at this
    // moment, and a file that is open for writing cannot be executed.
    let write = r#"printf '#!/bin/sh\n%s\n' "$1" > "$0" && chmod 700 "$0""#;
    let written =
        Command::new("sh").args(["-c", write]).arg(&fixture.supervisor).arg(supervisor).status().unwrap();
    assert!(written.success());
    fixture.run().await
}

#[tokio::test]
async fn one_that_talks_nonsense_is_killed_and_told() {
    let result = under("echo nonsense >&0; sleep 1000").await;
    assert_eq!(result.end, ProgramEnd::Failed(FailedBecause::SupervisorLost));
    assert!(
        result.message.contains("cannot be read") && result.message.contains("signal: 9"),
        "{}",
        result.message
    );
}

#[tokio::test]
async fn one_that_ends_without_a_report_is_told_with_its_exit_code() {
    let result = under("exit 3").await;
    assert_eq!(result.end, ProgramEnd::Failed(FailedBecause::SupervisorLost));
    assert!(result.message.contains("exit status: 3"), "{}", result.message);
}

#[tokio::test]
async fn one_that_waits_for_a_process_beyond_its_rights_is_waited_for() {
    let waiting = r#"echo '{"type":"waiting","processes":["7 sudo"]}' >&0"#;
    let ended = r#"echo '{"type":"ended","exit_code":0,"signal":null,"stopped":null,"stragglers":1}' >&0"#;
    let result = under(&format!("{waiting}\n{ended}")).await;
    assert_eq!((result.end, result.stragglers), (ProgramEnd::Succeeded, 1));
}
