//! The agent's end of a supervisor: starts it, passes on what the agent asks, hears how it ended.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::boot_clock::BootTime;
use super::limits::SUPERVISOR_ANSWER_MAX_MS;
use super::supervisor::message::{Ended, Report, Request, RunOptions, StopCause};
use super::task::{Controls, StopRequest};

/// How a supervisor ended.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It saw the end of everything.
    Ended(Ended),
    /// The program was not executed, because there was a reason to stop it before it began.
    NotStarted(StopCause),
    /// The program could not be executed.
    StartFailed(String),
    /// It was killed, or gave no sign of life and we killed it: nobody saw the end.
    Lost {
        /// What became of it.
        how: String,
        /// The program's session, where it was told.
        session: Option<Pid>,
    },
}

/// A running supervisor. Dropping it closes the socket: the supervisor then kills everything at once.
pub(crate) struct Connection {
    child: Child,
    reports: Lines<BufReader<OwnedReadHalf>>,
    requests: OwnedWriteHalf,
    session: Option<Pid>,
    /// A supervisor that has not been heard by then is given up.
    patience_until: Instant,
    kill_grace: Duration,
}

/// The program's output.
pub(crate) struct Pipes {
    pub(crate) stdout: ChildStdout,
    pub(crate) stderr: ChildStderr,
}

impl Connection {
    /// Starts a supervisor that starts the program, with exactly `env`, in `current_dir`.
    pub(crate) fn open(
        executable: &Path,
        options: &RunOptions,
        env: &BTreeMap<OsString, OsString>,
        current_dir: &Path,
    ) -> io::Result<(Self, Pipes)> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut child = Command::new(executable)
            .arg0("worker-agent")
            .args(options.to_args())
            .env_clear()
            .envs(env)
            .current_dir(current_dir)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C at a terminal goes to the agent's group: the agent decides what it means for its programs.
            .process_group(0)
            .spawn()?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(io::Error::other("the supervisor has no output pipes"));
        };
        let (reader, requests) = UnixStream::from_std(ours)?.into_split();
        let kill_grace = Duration::from_millis(options.kill_grace_ms);
        let connection = Self {
            child,
            reports: BufReader::new(reader).lines(),
            requests,
            session: None,
            patience_until: patience(
                Duration::from_millis(options.run_timeout_ms).saturating_add(kill_grace),
            ),
            kill_grace,
        };
        Ok((connection, Pipes { stdout, stderr }))
    }

    /// Until every process of the run has gone, or nobody can tell.
    pub(crate) async fn watch(&mut self, controls: &mut Controls) -> Verdict {
        let mut stop = Some(controls.stop.clone());
        loop {
            let verdict = tokio::select! {
                // What has been reported counts before what is asked or overdue: this process may have been stopped for hours.
                biased;
                line = self.reports.next_line() => self.hear(line).await,
                asked = next_stop(&mut stop) => { self.ask_to_stop(asked).await; None }
                moment = next_moment(&mut controls.dead_by) => {
                    self.send(Request::DeadBy { boot_ms: moment.as_millis() }).await;
                    None
                }
                () = sleep_until(self.patience_until) => Some(self.lost("it gave no sign of life").await),
            };
            if let Some(verdict) = verdict {
                return verdict;
            }
        }
    }

    async fn hear(&mut self, line: io::Result<Option<String>>) -> Option<Verdict> {
        let line = match line {
            Ok(Some(line)) => line,
            Ok(None) => return Some(self.lost("it ended without a report").await),
            Err(error) => return Some(self.lost(&format!("it cannot be heard: {error}")).await),
        };
        match serde_json::from_str(&line) {
            Ok(Report::Started { pid }) => {
                self.session = Some(Pid::from_raw(pid));
                None
            }
            Ok(Report::Waiting { processes }) => {
                tracing::warn!(
                    ?processes,
                    "the program has ended; processes that it started cannot be ended"
                );
                self.patience_until = patience(Duration::ZERO);
                None
            }
            Ok(Report::NotStarted { cause }) => Some(self.finished(Verdict::NotStarted(cause)).await),
            Ok(Report::StartFailed { message }) => Some(self.finished(Verdict::StartFailed(message)).await),
            Ok(Report::Ended(ended)) => Some(self.finished(Verdict::Ended(ended)).await),
            Err(error) => Some(self.lost(&format!("its report cannot be read: {error}")).await),
        }
    }

    /// The last report is on its way out: the supervisor ends by itself.
    async fn finished(&mut self, verdict: Verdict) -> Verdict {
        if let Err(error) = self.child.wait().await {
            tracing::warn!(%error, "cannot wait for a supervisor that has reported its end");
        }
        verdict
    }

    async fn lost(&mut self, reason: &str) -> Verdict {
        // It has ended, or it must: what it guards is hunted by us now.
        let _ = self.child.start_kill();
        let status =
            self.child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
        Verdict::Lost { how: format!("{reason} ({status})"), session: self.session }
    }

    async fn ask_to_stop(&mut self, request: StopRequest) {
        self.send(Request::Stop { cause: cause_of(request) }).await;
        self.patience_until = self.patience_until.min(patience(self.kill_grace));
    }

    async fn send(&mut self, request: Request) {
        let Ok(mut line) = serde_json::to_vec(&request) else { return };
        line.push(b'\n');
        // A closed socket is heard as an end, with its reason.
        let _ = self.requests.write_all(&line).await;
    }
}

fn patience(beyond: Duration) -> Instant {
    Instant::now() + beyond + Duration::from_millis(SUPERVISOR_ANSWER_MAX_MS)
}

fn cause_of(request: StopRequest) -> StopCause {
    match request {
        StopRequest::Cancel => StopCause::Cancelled,
        StopRequest::Interrupt => StopCause::Interrupted,
        StopRequest::Silence => StopCause::Silence,
    }
}

/// The first request; never ends when there is none, when the sender has gone, or after the first.
async fn next_stop(stop: &mut Option<watch::Receiver<Option<StopRequest>>>) -> StopRequest {
    if let Some(receiver) = stop {
        let asked = receiver.wait_for(Option::is_some).await.ok().and_then(|asked| *asked);
        *stop = None;
        if let Some(request) = asked {
            return request;
        }
    }
    std::future::pending().await
}

/// The next moment by which the program must be dead; never ends where there is none.
async fn next_moment(dead_by: &mut Option<watch::Receiver<BootTime>>) -> BootTime {
    if let Some(receiver) = dead_by {
        if receiver.changed().await.is_ok() {
            return *receiver.borrow_and_update();
        }
        *dead_by = None;
    }
    std::future::pending().await
}
