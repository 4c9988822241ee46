//! Nothing that a program started survives its run.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use switchyard_worker_agent::exec::logs::LogStream;
use switchyard_worker_agent::exec::result::{FailedBecause, ProgramEnd};
use switchyard_worker_agent::exec::task::StopRequest;

use crate::fixture::Fixture;
use crate::witness::{HOLD, Witness};

/// All ended before the result came: only the time to look is given.
const NOW: Duration = Duration::from_millis(200);

/// A child and a double-forked daemon in a session of its own, both deaf to TERM, and a deaf program. Each says on both ways
/// when it is there; the supervisor's id is told first.
const DEAF_FAMILY: &str = r#"
echo supervisor $PPID
sh -c 'trap "" TERM; echo up child | tee /dev/fd/9; while :; do sleep 1; done' &
setsid sh -c 'trap "" TERM; sh -c "echo up daemon | tee /dev/fd/9; while :; do sleep 1; done" & exit' &
trap "" TERM
while :; do sleep 1; done
"#;

fn deaf_family() -> (Fixture, Witness) {
    let fixture = Fixture::script(&format!("{HOLD}{DEAF_FAMILY}"));
    let witness = Witness::new(&fixture.out(""));
    (fixture, witness)
}

/// Waits until all are there. Returns the supervisor.
async fn family_is_up(fixture: &Fixture) -> Pid {
    let supervisor = fixture.logs.wait_for("supervisor ").await;
    for _ in ["child", "daemon"] {
        fixture.logs.wait_for("up ").await;
    }
    Pid::from_raw(supervisor.parse().unwrap())
}

#[tokio::test]
async fn the_run_timeout_ends_children_and_double_forked_daemons_that_ignore_term() {
    let (mut fixture, mut witness) = deaf_family();
    fixture.spec.run_timeout = Some(Duration::from_secs(2));
    let result = fixture.run().await;
    assert_eq!((result.end, result.signal), (ProgramEnd::TimedOut, Some(9)));
    let mut heard = [witness.line(), witness.line()];
    heard.sort();
    assert_eq!(heard, ["up child", "up daemon"]);
    assert!(witness.all_gone_within(NOW));
}

#[tokio::test]
async fn a_cancel_ends_children_and_double_forked_daemons_that_ignore_term() {
    let (fixture, mut witness) = deaf_family();
    let cancel = async {
        family_is_up(&fixture).await;
        fixture.stop(StopRequest::Cancel);
    };
    let (result, ()) = tokio::join!(fixture.run(), cancel);
    assert_eq!(result.end, ProgramEnd::Cancelled);
    assert!(witness.all_gone_within(NOW));
}

#[tokio::test]
async fn a_daemon_that_outlives_a_successful_program_is_killed_and_counted() {
    let fixture = Fixture::script(&format!("{HOLD}setsid sh -c 'echo up >&9; exec sleep 1000' & exit 0"));
    let mut witness = Witness::new(&fixture.out(""));
    let result = fixture.run().await;
    assert_eq!((result.end, result.stragglers), (ProgramEnd::Succeeded, 1));
    assert!(witness.all_gone_within(NOW));
}

#[tokio::test]
async fn a_helper_that_is_about_to_end_may_finish_its_line() {
    let fixture = Fixture::script("(sleep 0.05; echo late) & echo early");
    let result = fixture.run().await;
    assert_eq!((result.end, result.stragglers), (ProgramEnd::Succeeded, 0));
    assert_eq!(fixture.logs.texts(LogStream::Stdout), ["early", "late"]);
}

#[tokio::test]
async fn incident_61_the_working_directory_is_removed_only_after_every_process_has_gone() {
    // The watcher outlives the program in a session of its own and notices a directory that goes before it does.
    let watcher = r#"setsid sh -c 'echo up >&9; while [ -e "$SWITCHYARD_TASK_FILE" ]; do :; done; echo gone > "$OUT/early"' &"#;
    let fixture = Fixture::script(&format!("{HOLD}{watcher}\nexit 0"));
    let mut witness = Witness::new(&fixture.out(""));
    let result = fixture.run().await;
    assert_eq!(witness.line(), "up");
    assert_eq!((result.stragglers, result.workdir_fault), (1, None));
    assert!(witness.all_gone_within(NOW));
    assert!(!fixture.out("early").exists(), "the directory went under a running process");
    assert_eq!(fixture.workdirs().len(), 0);
}

#[tokio::test]
async fn a_supervisor_that_is_killed_leaves_no_orphan_and_is_told() {
    let (fixture, mut witness) = deaf_family();
    let kill_supervisor = async {
        let supervisor = family_is_up(&fixture).await;
        kill(supervisor, Signal::SIGKILL).unwrap();
    };
    let (result, ()) = tokio::join!(fixture.run(), kill_supervisor);
    assert_eq!(result.end, ProgramEnd::Failed(FailedBecause::SupervisorLost));
    assert!(result.message.contains("signal: 9"), "{}", result.message);
    assert!(witness.all_gone_within(NOW));
    assert_eq!((result.workdir_fault, fixture.workdirs().len()), (None, 0));
}

#[tokio::test]
async fn a_supervisor_that_gives_no_sign_of_life_is_given_up_and_leaves_no_orphan() {
    let (fixture, mut witness) = deaf_family();
    let freeze = async {
        let supervisor = family_is_up(&fixture).await;
        kill(supervisor, Signal::SIGSTOP).unwrap();
        // From here on time runs by itself whenever everybody waits: the patience of half a minute takes no time.
        tokio::time::pause();
        fixture.stop(StopRequest::Cancel);
    };
    let (result, ()) = tokio::join!(fixture.run(), freeze);
    assert_eq!(result.end, ProgramEnd::Failed(FailedBecause::SupervisorLost));
    assert!(result.message.contains("no sign of life"), "{}", result.message);
    assert!(witness.all_gone_within(NOW));
}
