//! An agent process that is killed or stopped. This test program, run again, is the agent.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use switchyard_worker_agent::exec::boot_clock::BootTime;
use switchyard_worker_agent::exec::workdir::WorkRoot;
use tokio::sync::watch;

use crate::fixture::Fixture;
use crate::witness::{HOLD, Witness};

const DIR: &str = "STAND_IN_DIR";
const EXCLUSIVE: &str = "STAND_IN_EXCLUSIVE";
/// How long after the last confirmed heartbeat an exclusive repeatable program must be dead.
const LIMIT: Duration = Duration::from_millis(1_500);
/// For a busy machine.
const SLACK: Duration = Duration::from_secs(5);

/// The program: a child that ignores TERM, a daemon in its own session, and itself, which alone holds a second FIFO.
const FAMILY: &str = r#"
sh -c 'trap "" TERM; echo child >&9; while :; do sleep 1; done' &
setsid sh -c 'trap "" TERM; sh -c "echo daemon >&9; while :; do sleep 1; done" & exit' &
exec 8>"$OUT/program"
echo itself >&8
while :; do sleep 1 8>&-; done
"#;

/// Not a test: the agent process of the tests below, which never ends by itself.
#[tokio::test]
#[ignore = "run by the other tests as a process of its own"]
async fn stand_in_agent() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    let mut fixture = Fixture::script_in(&dir, &format!("{HOLD}{FAMILY}"));
    let confirmed = || BootTime::now().unwrap().plus(LIMIT);
    let sender = watch::Sender::new(confirmed());
    if std::env::var_os(EXCLUSIVE).is_some() {
        fixture.dead_by = Some(sender.subscribe());
    }
    let heartbeat = async {
        loop {
            tokio::time::sleep(LIMIT / 10).await;
            sender.send_replace(confirmed());
        }
    };
    tokio::select! {
        result = fixture.run() => panic!("the program ended: {result:?}"),
        () = heartbeat => {}
    }
}

struct Agent {
    process: Child,
    witness: Witness,
    /// Held by the program alone.
    program: Witness,
    dir: tempfile::TempDir,
}

impl Agent {
    /// Starts it and waits until its program and all of that one's children are there.
    fn start(exclusive: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("out")).unwrap();
        let mut witness = Witness::new(&dir.path().join("out"));
        let mut program = Witness::named(&dir.path().join("out"), "program");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "agent_lost::stand_in_agent", "--ignored", "--nocapture"])
            .env(DIR, dir.path());
        if exclusive {
            command.env(EXCLUSIVE, "1");
        }
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let _family = [witness.line(), witness.line(), program.line()];
        Self { process, witness, program, dir }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().try_into().unwrap()), signal).unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn killing_the_agent_leaves_no_orphan() {
    for exclusive in [false, true] {
        let mut agent = Agent::start(exclusive);
        agent.signal(Signal::SIGKILL);
        assert!(agent.witness.all_gone_within(SLACK), "exclusive: {exclusive}");
    }
}

#[test]
fn stopping_the_agent_ends_an_exclusive_repeatable_program_within_the_limit() {
    let mut agent = Agent::start(true);
    // It lives on while the agent is heard, longer than the limit.
    assert!(!agent.witness.all_gone_within(LIMIT * 2));
    let stopped = Instant::now();
    agent.signal(Signal::SIGSTOP);
    assert!(agent.witness.all_gone_within(LIMIT + SLACK));
    assert!(stopped.elapsed() >= LIMIT / 2, "it was ended before the limit");
}

#[test]
fn stopping_the_agent_does_not_end_any_other_program() {
    let mut agent = Agent::start(false);
    agent.signal(Signal::SIGSTOP);
    assert!(!agent.witness.all_gone_within(LIMIT * 2));
    agent.signal(Signal::SIGKILL);
    assert!(agent.witness.all_gone_within(SLACK));
}

#[test]
fn killing_agent_and_supervisor_at_once_ends_the_program_and_the_next_start_ends_the_rest() {
    let mut agent = Agent::start(false);
    // Stopped first, so that it cannot notice the loss and clean up.
    agent.signal(Signal::SIGSTOP);
    let supervisors = children_of(agent.process.id());
    assert_eq!(supervisors.len(), 1);
    kill(Pid::from_raw(supervisors[0]), Signal::SIGKILL).unwrap();
    assert!(agent.program.all_gone_within(SLACK), "the kernel ends the program with its supervisor");
    agent.process.kill().unwrap();
    agent.process.wait().unwrap();
    let (_root, left) = WorkRoot::open(&agent.dir.path().join("work")).unwrap();
    assert_eq!(left, Vec::<String>::new());
    assert!(agent.witness.all_gone_within(Duration::from_millis(200)));
    let entries = std::fs::read_dir(agent.dir.path().join("work")).unwrap();
    assert_eq!(entries.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count(), 0);
}

fn children_of(pid: u32) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let children = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("children")).unwrap());
    children
        .flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>())
        .collect()
}
