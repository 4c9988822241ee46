//! The processes below the supervisor: signals to them, and their reaping.

use std::collections::HashSet;
use std::io;
use std::process::{Child, ExitStatus};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getpid};

use super::super::proc_table::{Process, descendants, processes};

/// The program and everything that descends from it.
pub(super) struct Children {
    program: Child,
    pid: Pid,
    exit: Option<ExitStatus>,
    killed: HashSet<Pid>,
}

impl Children {
    /// Takes charge of `program`. This process must be a child subreaper.
    pub(super) fn new(program: Child) -> io::Result<Self> {
        let pid = Pid::from_raw(i32::try_from(program.id()).map_err(io::Error::other)?);
        Ok(Self { program, pid, exit: None, killed: HashSet::new() })
    }

    /// The program's process id.
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// How the program ended, once [`reap`](Self::reap) has seen it.
    pub(super) fn exit(&self) -> Option<ExitStatus> {
        self.exit
    }

    /// How many processes [`kill_rest`](Self::kill_rest) killed.
    pub(super) fn killed_count(&self) -> u32 {
        u32::try_from(self.killed.len()).unwrap_or(u32::MAX)
    }

    /// Reaps everything that has ended. False: no child is left, and as orphans become our children, no descendant either.
    pub(super) fn reap(&mut self) -> io::Result<bool> {
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        loop {
            // The program is reaped through its handle: that knows real-time signals, which nix's status does not.
            if self.exit.is_none() {
                self.exit = self.program.try_wait()?;
            }
            match waitid(Id::All, peek) {
                Ok(WaitStatus::StillAlive) => return Ok(true),
                Ok(ended) => self.reap_one(ended.pid())?,
                Err(Errno::ECHILD) => return Ok(false),
                // An orphan that a real-time signal ended; its number cannot be told, so look for it.
                Err(Errno::EINVAL) => self.reap_zombies()?,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn reap_one(&self, pid: Option<Pid>) -> io::Result<()> {
        match pid {
            Some(pid) if pid != self.pid || self.exit.is_some() => {
                match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
                    Ok(_) | Err(Errno::ECHILD | Errno::EINVAL | Errno::EINTR) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            }
            // The program itself: the next turn of the loop takes it.
            Some(_) | None => Ok(()),
        }
    }

    fn reap_zombies(&self) -> io::Result<()> {
        let me = getpid();
        for zombie in processes()?.into_iter().filter(|one| one.zombie && one.parent == me) {
            self.reap_one(Some(zombie.pid))?;
        }
        Ok(())
    }

    /// TERM to the program's group. CONT follows, because a stopped process would not act on TERM.
    pub(super) fn terminate(&self) {
        for signal in [Signal::SIGTERM, Signal::SIGCONT] {
            // Before the launched process has its own group there is only that process.
            if killpg(self.pid, signal).is_err() {
                let _ = kill(self.pid, signal);
            }
        }
    }

    /// KILL to the program, its group and every descendant.
    pub(super) fn kill_all(&self) -> io::Result<()> {
        if self.exit.is_none() {
            // Not reaped yet, so the number still names our program. Errors mean that it is on its way out already.
            let _ = killpg(self.pid, Signal::SIGKILL);
            let _ = kill(self.pid, Signal::SIGKILL);
        }
        for process in self.left()? {
            let _ = kill(process.pid, Signal::SIGKILL);
        }
        Ok(())
    }

    /// KILL to what outlived the program. Returns what was there.
    pub(super) fn kill_rest(&mut self) -> io::Result<Vec<Process>> {
        let left = self.left()?;
        for process in &left {
            let _ = kill(process.pid, Signal::SIGKILL);
            self.killed.insert(process.pid);
        }
        Ok(left)
    }

    fn left(&self) -> io::Result<Vec<Process>> {
        let table = processes()?;
        Ok(descendants(&table, &[getpid()]).into_iter().filter(|one| !one.zombie).collect())
    }
}
