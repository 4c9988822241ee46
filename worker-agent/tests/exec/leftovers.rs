//! What a program says and leaves: masked, bounded, checked.

use serde_json::json;
use switchyard_worker_agent::exec::logs::LogStream;
use switchyard_worker_agent::exec::result::{FailedBecause, ProgramEnd, ProgramResult};

use crate::fixture::Fixture;

async fn run(script: &str) -> ProgramResult {
    Fixture::script(script).run().await
}

#[tokio::test]
async fn files_in_the_artifact_directory_become_artifacts() {
    let result = run("printf plan > $SWITCHYARD_ARTIFACT_DIR/plan; : > $SWITCHYARD_ARTIFACT_DIR/empty").await;
    assert_eq!(result.end, ProgramEnd::Succeeded);
    let expected = [("empty".to_owned(), Vec::new()), ("plan".to_owned(), b"plan".to_vec())];
    assert_eq!(result.artifacts, expected.into());
}

#[tokio::test]
async fn artifacts_over_the_limit_are_a_failure_that_says_what_to_do() {
    let at = run("head -c 1024 /dev/zero > $SWITCHYARD_ARTIFACT_DIR/a").await;
    assert_eq!(at.end, ProgramEnd::Succeeded);
    let over = run("head -c 1025 /dev/zero > $SWITCHYARD_ARTIFACT_DIR/a").await;
    assert_eq!(over.end, ProgramEnd::Failed(FailedBecause::Artifacts));
    assert!(
        over.message.contains("1024 bytes") && over.message.contains("max_artifact_bytes"),
        "{}",
        over.message
    );
    assert!(over.artifacts.is_empty());
}

#[tokio::test]
async fn a_symbolic_link_in_the_artifact_directory_is_refused() {
    let result = run("ln -s /etc/passwd $SWITCHYARD_ARTIFACT_DIR/a").await;
    assert_eq!(result.end, ProgramEnd::Failed(FailedBecause::Artifacts));
    assert!(result.message.contains("symbolic link") && result.artifacts.is_empty(), "{}", result.message);
}

#[tokio::test]
async fn a_result_is_read_and_a_malformed_one_is_a_failure() {
    let result = run("echo '{\"added\": 2}' > $SWITCHYARD_RESULT_FILE").await;
    assert_eq!((result.end, result.result), (ProgramEnd::Succeeded, Some(json!({"added": 2}))));
    let result = run("echo plan > $SWITCHYARD_ARTIFACT_DIR/plan; echo '{' > $SWITCHYARD_RESULT_FILE").await;
    assert_eq!(result.end, ProgramEnd::Failed(FailedBecause::Result));
    assert!(result.message.contains("not JSON"), "{}", result.message);
    assert!(result.artifacts.is_empty());
}

#[tokio::test]
async fn a_failure_keeps_its_result_but_not_its_artifacts() {
    let result =
        run("echo '{\"why\": \"quota\"}' > $SWITCHYARD_RESULT_FILE; : > $SWITCHYARD_ARTIFACT_DIR/a; exit 1")
            .await;
    assert_eq!(result.end, ProgramEnd::Failed(FailedBecause::ExitCode));
    assert_eq!(result.result, Some(json!({"why": "quota"})));
    assert!(result.artifacts.is_empty());
}

#[tokio::test]
async fn secrets_are_masked_in_lines_and_in_the_result_also_when_written_in_two_pieces() {
    let script = "echo $TOKEN; printf hun; sleep 0.05; echo ter2; echo \"\\\"$TOKEN\\\"\" > $SWITCHYARD_RESULT_FILE; exit 1";
    let mut fixture = Fixture::script(script);
    fixture.spec.env_pass = ["TOKEN".into()].into();
    fixture.spec.mask = ["TOKEN".into()].into();
    fixture.agent_env = [("TOKEN".into(), "hunter2".into())].into();
    let result = fixture.run().await;
    assert_eq!(fixture.logs.texts(LogStream::Stdout), ["***", "***"]);
    assert_eq!((result.log_tail, result.result), (vec!["***".into(), "***".into()], Some(json!("***"))));
}

#[tokio::test]
async fn many_lines_arrive_complete_and_numbered_without_gaps() {
    let fixture = Fixture::script("seq 20000; seq 20000 >&2");
    let result = fixture.run().await;
    let numbers: Vec<u64> = fixture.logs.lines().iter().map(|line| line.sequence).collect();
    assert_eq!(numbers, (1..=40_000).collect::<Vec<_>>());
    assert_eq!((result.lines, result.log_fault), (40_000, None));
    let expected: Vec<String> = (1..=20_000).map(|number| number.to_string()).collect();
    assert_eq!(fixture.logs.texts(LogStream::Stdout), expected);
}
