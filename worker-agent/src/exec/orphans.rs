//! Ends what a killed supervisor, or an earlier agent process, left running.
//!
//! A process of an attempt is known by the session that the supervisor gave it, or by the environment that it was executed
//! with: the path of its task file belongs to one attempt only. Its descendants count too. What has changed its session and was
//! executed with another environment cannot be told from a stranger, and is not touched.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getpid};

use super::environment::TASK_FILE;
use super::limits::{KILL_REPEAT_MS, ORPHANS_GONE_MAX_MS};
use super::proc_table::{Process, descendants, processes, was_given};

/// Looks that must find nothing before an attempt counts as gone: a fork may slip past one look.
const EMPTY_LOOKS_COUNT: u32 = 2;

/// Kills every process of the attempt that was given `task_file`, and of `session` where one is named, and waits until they
/// have gone. Blocks.
///
/// # Errors
/// Names what is still there after [`ORPHANS_GONE_MAX_MS`].
pub fn end_all(task_file: &Path, session: Option<Pid>) -> io::Result<()> {
    let mut mark = OsString::from(format!("{TASK_FILE}="));
    mark.push(task_file);
    let give_up = Instant::now() + Duration::from_millis(ORPHANS_GONE_MAX_MS);
    let mut killed = HashSet::new();
    let mut empty_looks = 0;
    while empty_looks < EMPTY_LOOKS_COUNT {
        let found = find(mark.as_bytes(), session)?;
        empty_looks = if found.is_empty() { empty_looks + 1 } else { 0 };
        for process in &found {
            // An error means that it has just gone, or that it is beyond our rights: the next look tells which.
            let _ = kill(process.pid, Signal::SIGKILL);
            killed.insert(process.pid);
        }
        // Where the agent is the first process of its container, orphans are its children and must be reaped.
        killed.retain(|&pid| waitpid(pid, Some(WaitPidFlag::WNOHANG)).is_ok());
        if Instant::now() > give_up && !found.is_empty() {
            let named: Vec<String> = found.iter().map(|one| format!("{} {}", one.pid, one.name)).collect();
            return Err(io::Error::other(format!("processes are left: {}", named.join(", "))));
        }
        if empty_looks < EMPTY_LOOKS_COUNT {
            std::thread::sleep(Duration::from_millis(KILL_REPEAT_MS));
        }
    }
    Ok(())
}

fn find(mark: &[u8], session: Option<Pid>) -> io::Result<Vec<Process>> {
    let me = getpid();
    let table: Vec<Process> = processes()?.into_iter().filter(|one| one.pid != me).collect();
    let of_attempt = |one: &&Process| Some(one.session) == session || was_given(one.pid, mark);
    let mut found: Vec<Process> = table.iter().filter(of_attempt).cloned().collect();
    let roots: Vec<Pid> = found.iter().map(|one| one.pid).collect();
    found.extend(descendants(&table, &roots));
    found.retain(|one| !one.zombie);
    Ok(found)
}
