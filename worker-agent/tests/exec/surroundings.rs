//! What a program finds around it: task file, inputs, environment, working directory.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use switchyard_worker_agent::exec::logs::LogStream;
use switchyard_worker_agent::exec::result::{ProgramEnd, StartFailedBecause};
use switchyard_worker_agent::exec::task::InputArtifact;

use crate::fixture::{Fixture, spec};

fn input(name: &str, bytes: &[u8]) -> InputArtifact {
    InputArtifact { name: name.into(), sha256: Sha256::digest(bytes).into(), bytes: bytes.to_vec() }
}

#[tokio::test]
async fn the_task_file_says_what_to_do_and_names_the_inputs_with_their_digests() {
    let mut fixture = Fixture::script("cat $SWITCHYARD_TASK_FILE");
    fixture.task.inputs = vec![input("plan", b"x")];
    fixture.run().await;
    let task: Value = serde_json::from_str(&fixture.logs.texts(LogStream::Stdout)[0]).unwrap();
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(b"x")));
    let expected = json!({
        "task_id": "task-484", "workspace_id": "ws-1", "kind": "plan", "step": "plan", "attempt": 3, "agent_id": "agent-0",
        "parameters": {"refresh_only": true}, "payload": {"change": "résumé"},
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "inputs": [{"name": "plan", "size": 1, "sha256": digest}],
    });
    assert_eq!(task, expected);
}

#[tokio::test]
async fn inputs_are_the_approved_bytes_and_cannot_be_written() {
    let mut fixture = Fixture::script(
        "cat $SWITCHYARD_INPUT_DIR/plan; stat -c %a $SWITCHYARD_INPUT_DIR/* $SWITCHYARD_INPUT_DIR",
    );
    fixture.task.inputs = vec![input("plan", b"approved\n")];
    fixture.run().await;
    assert_eq!(fixture.logs.texts(LogStream::Stdout), ["approved", "400", "500"]);
    assert_eq!(fixture.workdirs().len(), 0, "read-only directories are removed too");
}

#[tokio::test]
async fn an_input_that_does_not_match_its_digest_never_starts_the_program() {
    let mut fixture = Fixture::script("touch $OUT/ran");
    fixture.task.inputs =
        vec![input("other", b"x"), InputArtifact { bytes: b"forged".to_vec(), ..input("plan", b"x") }];
    let result = fixture.run().await;
    assert_eq!((result.end, result.started), (ProgramEnd::StartFailed(StartFailedBecause::Inputs), false));
    assert!(result.message.contains("\"plan\"") && result.message.contains("SHA-256"), "{}", result.message);
    assert!(!fixture.out("ran").exists());
    assert_eq!(fixture.workdirs().len(), 0);
}

#[tokio::test]
async fn inputs_with_bad_or_equal_names_never_start_the_program() {
    for inputs in [vec![input("../escape", b"x")], vec![input("a", b"x"), input("a", b"x")]] {
        let mut fixture = Fixture::script("touch $OUT/ran");
        fixture.task.inputs = inputs;
        assert_eq!(fixture.run().await.end, ProgramEnd::StartFailed(StartFailedBecause::Inputs));
        assert!(!fixture.out("ran").exists());
    }
}

#[tokio::test]
async fn the_environment_holds_only_what_was_allowed() {
    let mut fixture = Fixture::script("");
    fixture.spec.command = vec!["env".into()];
    fixture.spec.env_pass = ["PASSED".into(), "NOT_THERE".into(), "BOTH".into()].into();
    fixture.spec.env.insert("BOTH".into(), "fixed".into());
    let agent =
        [("PASSED", "yes"), ("BOTH", "agent"), ("SWITCHYARD_AMQP_URL", "amqp://secret"), ("HOME", "/root")];
    fixture.agent_env = agent.map(|(name, value)| (name.into(), value.into())).into();
    fixture.run().await;
    let seen = fixture.logs.texts(LogStream::Stdout);
    let names: BTreeSet<&str> = seen.iter().map(|line| line.split('=').next().unwrap()).collect();
    let expected = [
        "BOTH",
        "OUT",
        "PASSED",
        "PATH",
        "SWITCHYARD_ARTIFACT_DIR",
        "SWITCHYARD_INPUT_DIR",
        "SWITCHYARD_RESULT_FILE",
        "SWITCHYARD_TASK_FILE",
        "TRACEPARENT",
    ];
    assert_eq!(names, expected.into());
    assert!(seen.contains(&"BOTH=fixed".to_owned()) && seen.contains(&"PASSED=yes".to_owned()));
}

#[tokio::test]
async fn the_program_runs_in_a_private_directory_of_its_own_without_standard_input() {
    let fixture = Fixture::script("stat -c %a ..; pwd; ls -A; cat; readlink /proc/$$/fd/0");
    fixture.run().await;
    let seen = fixture.logs.texts(LogStream::Stdout);
    assert_eq!(seen.len(), 3, "the directory and standard input are empty: {seen:?}");
    assert!(seen[1].ends_with("/work/task-484-3/work"), "{}", seen[1]);
    assert_eq!((seen[0].as_str(), seen[2].as_str()), ("700", "/dev/null"));
}

#[tokio::test]
async fn no_descriptor_of_the_supervisor_is_inherited() {
    let fixture = Fixture::script("for fd in /proc/$$/fd/*; do readlink $fd; done");
    fixture.run().await;
    let seen = fixture.logs.texts(LogStream::Stdout);
    assert!(seen.len() >= 3, "{seen:?}");
    // Whatever the tests themselves were started with is passed on: look for what only a supervisor has.
    let foreign = |link: &&String| link.contains("socket:") || link.contains("anon_inode:");
    assert_eq!(seen.iter().find(foreign), None);
}

fn mask_of(line: &str) -> u64 {
    u64::from_str_radix(line.split_whitespace().last().unwrap(), 16).unwrap()
}

#[tokio::test]
async fn signals_are_as_a_program_expects_them() {
    let mut fixture = Fixture::script("");
    // Not through a shell: that would repair the mask of blocked signals.
    fixture.spec = spec(&["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]);
    fixture.run().await;
    let seen = fixture.logs.texts(LogStream::Stdout);
    assert_eq!(seen.len(), 2);
    // A shell that starts these tests in the background has them ignore INT and QUIT, and nohup HUP: that is its wish, and is inherited.
    // PIPE is not: Rust's own start ignores it.
    const SIGPIPE: u64 = 1 << 12;
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let wished = mask_of(own.lines().find(|line| line.starts_with("SigIgn")).unwrap()) & !SIGPIPE;
    for line in seen {
        let inherited = if line.starts_with("SigIgn") { wished } else { 0 };
        // glibc ignores two real-time signals of its own in what it spawns.
        assert_eq!(mask_of(&line) & 0x7fff_ffff & !inherited, 0, "{line}");
    }
}

#[tokio::test]
async fn a_directory_that_is_already_there_starts_nothing_and_stays() {
    let fixture = Fixture::script("touch $OUT/ran");
    std::fs::create_dir(fixture.root.path().join("task-484-3")).unwrap();
    let result = fixture.run().await;
    assert_eq!(result.end, ProgramEnd::StartFailed(StartFailedBecause::Workdir));
    assert!(result.message.contains("task-484-3"), "{}", result.message);
    assert_eq!(fixture.workdirs().len(), 1);
}

#[tokio::test]
async fn a_supervisor_that_cannot_be_started_is_a_failed_start() {
    let mut fixture = Fixture::script("touch $OUT/ran");
    let not_executable = fixture.out("plain-file");
    std::fs::write(&not_executable, "").unwrap();
    std::fs::set_permissions(&not_executable, std::fs::Permissions::from_mode(0o600)).unwrap();
    fixture.supervisor = not_executable;
    let result = fixture.run().await;
    assert_eq!(
        (result.end, result.started),
        (ProgramEnd::StartFailed(StartFailedBecause::Supervisor), false)
    );
    assert_eq!(fixture.workdirs().len(), 0);
}
