//! The supervisor's own loop.

use std::ffi::OsString;
use std::io::{self, PipeReader, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitCode};
use std::time::Duration;

use nix::sys::prctl::set_child_subreaper;

use super::super::boot_clock::BootTime;
use super::super::limits::{KILL_REPEAT_MS, STRAGGLER_GRACE_MS, WAITING_MAX_PROCESSES, WAITING_REPORT_MS};
use super::args::{Mode, launch_args, parse};
use super::children::Children;
use super::guard::{Guard, Step};
use super::launch::launch;
use super::link::Link;
use super::message::{Ended, Report, Request, RunOptions, SUBCOMMAND, StopCause};
use super::waker::Waker;

/// Exit code for a command line that is refused (EX_USAGE).
const USAGE_CODE: u8 = 64;
/// Exit code for trouble with the system (EX_OSERR).
const SYSTEM_CODE: u8 = 71;

/// Runs the supervisor when this process was started as one (`worker-agent supervise ...`). The first line of `main`: a supervisor has
/// one thread and no runtime.
#[must_use]
pub fn main_if_asked() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    (args.next()? == SUBCOMMAND).then(|| main(args))
}

/// `worker-agent supervise ...`: `args` are those after `supervise`. To be called before anything starts a thread.
///
/// Errors go to standard error, which is the program's log.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let (message, code) = match parse(args) {
        Ok(Mode::Launch { parent, command }) => return launch(parent, &command),
        Ok(Mode::Run(options)) => match run(&options) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => (format!("the supervisor failed: {error}"), SYSTEM_CODE),
        },
        Err(reason) => (format!("supervise is called by the agent, not by people: {reason}"), USAGE_CODE),
    };
    // A closed standard error leaves nobody to tell; the exit code stays.
    let _ = io::Write::write_all(&mut io::stderr(), format!("{message}\n").as_bytes());
    ExitCode::from(code)
}

fn run(options: &RunOptions) -> io::Result<()> {
    let mut link = Link::from_stdin()?;
    let waker = Waker::new()?;
    set_child_subreaper(true)?;
    let now = BootTime::now()?;
    let mut guard = Guard::new(
        now,
        Duration::from_millis(options.kill_grace_ms),
        Duration::from_millis(options.run_timeout_ms),
        options.dead_by_boot_ms.map(BootTime::from_millis),
    );
    // The agent decided to start some time ago: it may have been stopped, or have gone, in between.
    hear_agent(&mut link, &mut guard)?;
    guard.step(now);
    if let Some(cause) = guard.stopped() {
        link.send(&Report::NotStarted { cause });
        return Ok(());
    }
    let (program, launching) = match start(&options.command) {
        Ok(started) => started,
        Err(error) => {
            link.send(&Report::StartFailed {
                message: format!("cannot start the launching process: {error}"),
            });
            return Ok(());
        }
    };
    let children = Children::new(program)?;
    let mut supervisor =
        Supervisor { link, waker, guard, children, launching: Some(launching), start_fault: None };
    let ended = supervisor.supervise();
    if ended.is_err() {
        supervisor.children.kill_all()?;
    }
    supervisor.report(ended?);
    Ok(())
}

/// Starts the launching process; the pipe says what became of it.
fn start(command: &[OsString]) -> io::Result<(Child, PipeReader)> {
    let (launching, other_end) = io::pipe()?;
    let me = i32::try_from(std::process::id()).map_err(io::Error::other)?;
    let program = Command::new("/proc/self/exe")
        .arg0("worker-agent")
        .args(launch_args(me, command))
        .stdin(other_end)
        .spawn()?;
    Ok((program, launching))
}

fn hear_agent(link: &mut Link, guard: &mut Guard) -> io::Result<()> {
    let now = BootTime::now()?;
    let Some(requests) = link.receive()? else {
        guard.kill(now, StopCause::AgentGone);
        return Ok(());
    };
    for request in requests {
        match request {
            Request::Stop { cause } => guard.stop(now, cause),
            Request::DeadBy { boot_ms } => guard.extend(BootTime::from_millis(boot_ms)),
        }
    }
    Ok(())
}

struct Supervisor {
    link: Link,
    waker: Waker,
    guard: Guard,
    children: Children,
    /// Open while it is not known whether the program was executed.
    launching: Option<PipeReader>,
    start_fault: Option<String>,
}

impl Supervisor {
    /// Until the program and everything that descends from it has gone.
    fn supervise(&mut self) -> io::Result<Ended> {
        let exit = loop {
            self.children.reap()?;
            if let Some(exit) = self.children.exit() {
                break exit;
            }
            match self.guard.step(BootTime::now()?) {
                Step::Terminate => self.children.terminate(),
                Step::Kill => self.children.kill_all()?,
                Step::Wait(until) => self.wait(until)?,
            }
        };
        self.hear_launch();
        self.end_stragglers()?;
        Ok(Ended {
            exit_code: exit.code(),
            signal: exit.signal(),
            stopped: self.guard.stopped(),
            stragglers: self.children.killed_count(),
        })
    }

    fn wait(&mut self, until: Option<BootTime>) -> io::Result<()> {
        let agent = self.link.pollable();
        let launching = self.launching.as_ref().map(PipeReader::as_fd);
        let others: Vec<_> = agent.into_iter().chain(launching).collect();
        let (with_agent, with_launch) = (agent.is_some(), launching.is_some());
        let mut ready = self.waker.wait(until, &others)?.into_iter();
        if with_agent && ready.next().unwrap_or(false) {
            hear_agent(&mut self.link, &mut self.guard)?;
        }
        if with_launch && ready.next().unwrap_or(false) {
            self.hear_launch();
        }
        if self.waker.asked_to_end()? {
            self.guard.stop(BootTime::now()?, StopCause::SupervisorSignalled);
        }
        Ok(())
    }

    /// The launching process has executed the program (the pipe closed empty), or has said why not.
    fn hear_launch(&mut self) {
        let Some(mut pipe) = self.launching.take() else { return };
        let mut message = String::new();
        if let Err(error) = pipe.read_to_string(&mut message) {
            message = format!("cannot hear the launching process: {error}");
        }
        if message.is_empty() {
            self.link.send(&Report::Started { pid: self.children.pid().as_raw() });
        } else {
            self.start_fault = Some(message);
        }
    }

    /// A program that ended by itself may have helpers that are about to end too (a shell's `>(tee log)`): they get a moment.
    /// What is left then is killed, again and again, until the kernel says that we have no child.
    fn end_stragglers(&mut self) -> io::Result<()> {
        let began = BootTime::now()?;
        let grace = if self.guard.stopped().is_some() { 0 } else { STRAGGLER_GRACE_MS };
        let kill_from = began.plus(Duration::from_millis(grace));
        let mut speak_at = began.plus(Duration::from_millis(WAITING_REPORT_MS));
        while self.children.reap()? {
            let now = BootTime::now()?;
            if now >= kill_from {
                let left = self.children.kill_rest()?;
                if now >= speak_at {
                    speak_at = now.plus(Duration::from_millis(WAITING_REPORT_MS));
                    let named = left.iter().take(WAITING_MAX_PROCESSES);
                    let processes = named.map(|one| format!("{} {}", one.pid, one.name)).collect();
                    self.link.send(&Report::Waiting { processes });
                }
            }
            let pause = now.plus(Duration::from_millis(KILL_REPEAT_MS));
            self.waker.wait(Some(pause), &[])?;
            self.waker.asked_to_end()?;
        }
        Ok(())
    }

    fn report(mut self, ended: Ended) {
        match self.start_fault.take() {
            Some(message) => self.link.send(&Report::StartFailed { message }),
            None => self.link.send(&Report::Ended(ended)),
        }
    }
}
