//! A child with a process group of its own, ended with everything below it when its value goes.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// How long a process may take to end when it is asked to, before it is killed.
const END_MAX: Duration = Duration::from_secs(5);
/// How often it is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Most of a log that an error message repeats, in bytes from its end.
const TAIL_BYTES: usize = 2_000;

/// A running process and its log.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: std::path::PathBuf,
}

impl Process {
    /// Starts `command`; what it prints goes into `name.log` in `folder`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, mut command: Command, folder: &Path) -> anyhow::Result<Self> {
        use std::os::unix::process::CommandExt as _;
        let log = folder.join(format!("{name}.log"));
        let file = std::fs::File::options().create(true).append(true).open(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
        let child = command.spawn().with_context(|| format!("{name} cannot be started: {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Its id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended, as it should.
    ///
    /// # Errors
    /// When it has failed; the end of its log is in the message.
    pub fn has_ended(&mut self) -> anyhow::Result<bool> {
        let Some(status) = self.child.try_wait()? else { return Ok(false) };
        self.must_have_succeeded(status)?;
        Ok(true)
    }

    /// Fails when it runs no more.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn must_run(&mut self) -> anyhow::Result<()> {
        let ended = self.child.try_wait()?;
        ensure!(ended.is_none(), "{} has ended: {}", self.name, self.log_tail());
        Ok(())
    }

    fn must_have_succeeded(&self, status: ExitStatus) -> anyhow::Result<()> {
        ensure!(status.success(), "{} has failed ({status}): {}", self.name, self.log_tail());
        Ok(())
    }

    fn log_tail(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(TAIL_BYTES)..]).into_owned()
    }

    fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.pid()) {
            // The group may be gone already.
            let _ = killpg(Pid::from_raw(pid), signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let asked = Instant::now();
        self.signal(Signal::SIGTERM);
        while asked.elapsed() < END_MAX && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(LOOK_EVERY);
        }
        // What is left of its group, such as workers that outlive their parent.
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Runs a command to its end.
///
/// # Errors
/// When it fails, with what it printed.
pub fn run_to_end(mut command: Command) -> anyhow::Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    let printed = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} has failed ({}): {printed}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
