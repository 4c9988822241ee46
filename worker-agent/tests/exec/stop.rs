//! What the agent may ask of a run, and what silence does to it.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use switchyard_worker_agent::exec::boot_clock::BootTime;
use switchyard_worker_agent::exec::result::{ProgramEnd, ProgramResult};
use switchyard_worker_agent::exec::task::StopRequest;
use tokio::sync::watch;

use crate::fixture::Fixture;

const READY_THEN_WAIT: &str = "echo ready; while :; do sleep 0.01; done";

async fn stopped_when_ready(fixture: &Fixture, request: StopRequest) -> ProgramResult {
    let stop = async {
        fixture.logs.wait_for("ready").await;
        fixture.stop(request);
    };
    tokio::join!(fixture.run(), stop).0
}

#[tokio::test]
async fn each_request_is_its_own_end() {
    for (request, end) in [
        (StopRequest::Cancel, ProgramEnd::Cancelled),
        (StopRequest::Interrupt, ProgramEnd::Interrupted),
        (StopRequest::Silence, ProgramEnd::KilledBySilence),
    ] {
        let result = stopped_when_ready(&Fixture::script(READY_THEN_WAIT), request).await;
        assert_eq!((result.end, result.signal, result.started), (end, Some(15), true));
    }
}

#[tokio::test]
async fn a_program_may_clean_up_within_its_grace_but_does_not_become_a_success() {
    let mut fixture =
        Fixture::script("trap 'echo cleaned; exit 0' TERM; echo ready; while :; do sleep 0.01; done");
    fixture.spec.kill_grace = Duration::from_secs(30);
    let result = stopped_when_ready(&fixture, StopRequest::Cancel).await;
    assert_eq!((result.end, result.exit_code), (ProgramEnd::Cancelled, Some(0)));
    assert!(result.log_tail.contains(&"cleaned".to_owned()), "{:?}", result.log_tail);
}

#[tokio::test]
async fn a_program_that_stopped_itself_hears_term_too() {
    let mut fixture =
        Fixture::script("trap 'exit 3' TERM; echo ready; kill -STOP $$; while :; do sleep 0.01; done");
    fixture.spec.kill_grace = Duration::from_secs(30);
    let result = stopped_when_ready(&fixture, StopRequest::Cancel).await;
    assert_eq!((result.end, result.exit_code), (ProgramEnd::Cancelled, Some(3)));
}

#[tokio::test]
async fn a_request_before_the_start_starts_nothing() {
    for (request, end) in [
        (StopRequest::Cancel, ProgramEnd::Cancelled),
        (StopRequest::Interrupt, ProgramEnd::Interrupted),
        (StopRequest::Silence, ProgramEnd::KilledBySilence),
    ] {
        let fixture = Fixture::script("touch $OUT/ran");
        fixture.stop(request);
        let result = fixture.run().await;
        assert_eq!((result.end, result.started), (end, false));
        assert!(!fixture.out("ran").exists());
    }
}

#[tokio::test]
async fn a_signal_to_the_supervisor_interrupts_the_program() {
    let fixture = Fixture::script("echo supervisor $PPID; while :; do sleep 0.01; done");
    let signal = async {
        let pid = fixture.logs.wait_for("supervisor ").await;
        kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGTERM).unwrap();
    };
    let (result, ()) = tokio::join!(fixture.run(), signal);
    assert_eq!(result.end, ProgramEnd::Interrupted);
}

fn from_now(ms: u64) -> BootTime {
    BootTime::now().unwrap().plus(Duration::from_millis(ms))
}

#[tokio::test]
async fn a_program_that_must_be_dead_by_a_moment_is_dead_by_it() {
    let mut fixture = Fixture::script("trap '' TERM; while :; do sleep 0.01; done");
    let moment = from_now(1_000);
    let sender = watch::Sender::new(moment);
    fixture.dead_by = Some(sender.subscribe());
    let result = fixture.run().await;
    assert_eq!((result.end, result.signal), (ProgramEnd::KilledBySilence, Some(9)));
    assert!(BootTime::now().unwrap() >= moment, "it was killed before the moment");
}

#[tokio::test]
async fn a_confirmed_heartbeat_moves_the_moment_on() {
    let mut fixture = Fixture::script("echo ready; sleep 1.5");
    let sender = watch::Sender::new(from_now(1_000));
    fixture.dead_by = Some(sender.subscribe());
    let confirm = async {
        fixture.logs.wait_for("ready").await;
        sender.send_replace(from_now(30_000));
    };
    let (result, ()) = tokio::join!(fixture.run(), confirm);
    assert_eq!(result.end, ProgramEnd::Succeeded, "{}", result.message);
}

#[tokio::test]
async fn a_heartbeat_that_is_too_old_starts_nothing() {
    let mut fixture = Fixture::script("touch $OUT/ran");
    // The grace must fit in too: TERM would have to be sent right away.
    fixture.dead_by = Some(watch::Sender::new(from_now(100)).subscribe());
    let result = fixture.run().await;
    assert_eq!((result.end, result.started), (ProgramEnd::KilledBySilence, false));
    assert!(!fixture.out("ran").exists());
}
