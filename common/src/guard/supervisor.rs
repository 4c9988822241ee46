//! Named subsystems that are restarted with backoff when they fail, and end the process when they keep failing.

use std::collections::VecDeque;
use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use super::capture::{CatchPanic, Frame, report};
use super::task::{GuardedTask, TaskEnd, spawn_guarded};
use crate::retry::RetryPolicy;
use crate::shutdown::Shutdown;

/// How often a subsystem may be restarted, and how fast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RestartPolicy {
    /// This many restarts within [`window`](Self::window) are allowed; one more ends the process.
    pub max_restarts: u32,
    /// Restarts older than this are forgotten.
    pub window: Duration,
    /// The delays between restarts.
    pub backoff: RetryPolicy,
}

impl RestartPolicy {
    /// Ten restarts in five minutes, 100 ms to 5 s apart.
    pub const STANDARD: Self =
        Self { max_restarts: 10, window: Duration::from_secs(300), backoff: RetryPolicy::RECONNECT };
    /// No restart: the first failure ends the process.
    pub const NEVER: Self = Self { max_restarts: 0, ..Self::STANDARD };
}

/// Why a supervised process must end with a failure.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SupervisorError {
    /// A subsystem failed more often than its policy allows.
    #[error("subsystem `{name}` failed {failures} times within {window_seconds} s, last: {last}")]
    GaveUp {
        /// The subsystem.
        name: String,
        /// Failures within the window, the last one included.
        failures: usize,
        /// The window of the policy, in seconds.
        window_seconds: u64,
        /// What the last failure said.
        last: String,
    },
    /// Subsystems were still running when the drain time was over, and were aborted.
    #[error("subsystems still running at the end of the drain time: {}", names.join(", "))]
    LeftRunning {
        /// The subsystems.
        names: Vec<String>,
    },
}

/// Runs subsystems until shutdown. A subsystem is a future that runs until shutdown is requested; when it panics,
/// returns an error, or returns early, it is started again from its factory.
///
/// ```no_run
/// # use switchyard_common::{guard::{RestartPolicy, Supervisor}, shutdown::Shutdown};
/// # async fn intake(_: Shutdown) -> Result<(), std::io::Error> { Ok(()) }
/// # async fn example() -> Result<(), switchyard_common::guard::SupervisorError> {
/// let shutdown = Shutdown::new(std::time::Duration::from_secs(25));
/// let mut supervisor = Supervisor::new(shutdown.clone());
/// supervisor.supervise("intake", RestartPolicy::STANDARD, move || intake(shutdown.clone()));
/// supervisor.run().await // in main: an error is a non-zero exit
/// # }
/// ```
#[derive(Debug)]
pub struct Supervisor {
    shutdown: Shutdown,
    subsystems: Vec<GuardedTask<Result<(), SupervisorError>>>,
}

impl Supervisor {
    /// A supervisor whose subsystems end with `shutdown`.
    #[must_use]
    pub fn new(shutdown: Shutdown) -> Self {
        Self { shutdown, subsystems: Vec::new() }
    }

    /// Starts a subsystem now. `name` is a metric label and must come from a small fixed set.
    pub fn supervise<F, E>(
        &mut self,
        name: &str,
        policy: RestartPolicy,
        mut factory: impl FnMut() -> F + Send + 'static,
    ) where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        let start = move || -> BoxFuture<'static, Result<(), String>> {
            let running = factory();
            Box::pin(async move { running.await.map_err(|error| error.to_string()) })
        };
        let keeper = Keeper { name: name.to_owned(), policy, shutdown: self.shutdown.clone(), start };
        self.subsystems.push(spawn_guarded(name, keeper.keep_running()));
    }

    /// Waits until all subsystems have ended. The first that gives up requests shutdown for the others; whatever
    /// still runs at the drain deadline is aborted.
    ///
    /// # Errors
    /// The first [`SupervisorError`]; main must turn it into a non-zero exit code.
    pub async fn run(self) -> Result<(), SupervisorError> {
        let mut names: Vec<String> = self.subsystems.iter().map(|task| task.name().to_owned()).collect();
        let aborts: Vec<_> = self.subsystems.iter().map(GuardedTask::abort_handle).collect();
        let mut running: FuturesUnordered<_> = self.subsystems.into_iter().map(with_name).collect();
        let mut first_error = None;
        loop {
            let ended = tokio::select! {
                ended = running.next() => ended,
                () = drain_over(&self.shutdown) => {
                    aborts.iter().for_each(tokio::task::AbortHandle::abort);
                    return Err(first_error.unwrap_or(SupervisorError::LeftRunning { names }));
                }
            };
            let Some((name, end)) = ended else { break };
            names.retain(|left| *left != name);
            if let Err(error) = verdict(&name, end) {
                tracing::error!(subsystem = name, %error, "a subsystem gave up, the process ends");
                self.shutdown.trigger(&format!("subsystem `{name}` gave up"));
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(()), Err)
    }
}

async fn with_name(
    task: GuardedTask<Result<(), SupervisorError>>,
) -> (String, TaskEnd<Result<(), SupervisorError>>) {
    let name = task.name().to_owned();
    (name, task.await)
}

async fn drain_over(shutdown: &Shutdown) {
    shutdown.requested().await;
    if let Some(deadline) = shutdown.drain_deadline() {
        tokio::select! {
            () = tokio::time::sleep_until(deadline) => {}
            () = shutdown.immediate() => {}
        }
    }
}

/// What the end of a keeper means. Its own panic would be a defect of this module, and still must not be silent.
fn verdict(name: &str, end: TaskEnd<Result<(), SupervisorError>>) -> Result<(), SupervisorError> {
    let gave_up = |last: String| SupervisorError::GaveUp {
        name: name.to_owned(),
        failures: 1,
        window_seconds: 0,
        last,
    };
    match end {
        TaskEnd::Finished(result) => result,
        TaskEnd::Panicked(capture) => Err(gave_up(capture.to_string())),
        TaskEnd::Aborted => Err(gave_up("aborted".to_owned())),
    }
}

/// The restart loop of one subsystem.
struct Keeper<S> {
    name: String,
    policy: RestartPolicy,
    shutdown: Shutdown,
    start: S,
}

impl<S: FnMut() -> BoxFuture<'static, Result<(), String>> + Send> Keeper<S> {
    async fn keep_running(mut self) -> Result<(), SupervisorError> {
        let mut failures: VecDeque<Instant> = VecDeque::new();
        loop {
            let Some(failure) = self.run_once().await else { return Ok(()) };
            if self.shutdown.is_requested() {
                tracing::warn!(subsystem = self.name, %failure, "failed while shutting down");
                return Ok(());
            }
            let now = Instant::now();
            failures.retain(|at| now.duration_since(*at) < self.policy.window);
            failures.push_back(now);
            let count = u32::try_from(failures.len()).unwrap_or(u32::MAX);
            if count > self.policy.max_restarts {
                return Err(SupervisorError::GaveUp {
                    name: self.name,
                    failures: failures.len(),
                    window_seconds: self.policy.window.as_secs(),
                    last: failure,
                });
            }
            let delay = self.policy.backoff.next_delay(count - 1, &mut rand::rng());
            metrics::counter!("switchyard_subsystem_restarts_total", "subsystem" => self.name.clone())
                .increment(1);
            tracing::warn!(
                subsystem = self.name,
                %failure,
                restart = count,
                delay_ms = delay.as_millis(),
                "a subsystem failed and will be restarted"
            );
            if !self.shutdown.sleep(delay).await {
                return Ok(());
            }
        }
    }

    /// Runs the subsystem once. `None` means that it ended as it should: because shutdown was requested.
    async fn run_once(&mut self) -> Option<String> {
        let frame = Frame::named(&self.name);
        // The factory is part of the subsystem: its panic is caught like any other.
        let start = &mut self.start;
        let life = CatchPanic::new(frame, async { start().await });
        match life.await {
            Ok(Ok(())) if self.shutdown.is_requested() => None,
            Ok(Ok(())) => Some("it ended although nobody asked it to".to_owned()),
            Ok(Err(error)) => Some(error),
            Err(capture) => {
                report(&capture);
                Some(capture.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const QUICK: RestartPolicy = RestartPolicy {
        max_restarts: 3,
        window: Duration::from_secs(60),
        backoff: RetryPolicy {
            initial: Duration::from_millis(10),
            max: Duration::from_millis(100),
            multiplier: 2.0,
        },
    };

    fn supervised() -> (Shutdown, Supervisor, Arc<AtomicU32>) {
        let shutdown = Shutdown::new(Duration::from_secs(5));
        (shutdown.clone(), Supervisor::new(shutdown), Arc::new(AtomicU32::new(0)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_panicking_subsystem_is_restarted_and_goes_on() {
        let (shutdown, mut supervisor, starts) = supervised();
        let (stop, count) = (shutdown.clone(), Arc::clone(&starts));
        supervisor.supervise("flaky", QUICK, move || {
            let (stop, n) = (stop.clone(), count.fetch_add(1, Ordering::SeqCst));
            async move {
                assert!(n >= 2, "start number {n} fails");
                stop.trigger("test is done");
                Ok::<(), String>(())
            }
        });
        assert_eq!(supervisor.run().await, Ok(()));
        assert_eq!(starts.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_failures_end_everything_with_an_error() {
        let (shutdown, mut supervisor, starts) = supervised();
        let count = Arc::clone(&starts);
        supervisor.supervise("broken", QUICK, move || {
            count.fetch_add(1, Ordering::SeqCst);
            async { Err::<(), _>("no luck") }
        });
        let other = shutdown.clone();
        supervisor.supervise("healthy", QUICK, move || {
            let other = other.clone();
            async move {
                other.requested().await;
                Ok::<(), String>(())
            }
        });
        let error = supervisor.run().await.unwrap_err();
        assert!(matches!(&error, SupervisorError::GaveUp { name, failures: 4, last, .. }
            if name == "broken" && last == "no luck"));
        assert!(shutdown.is_requested());
        assert_eq!(starts.load(Ordering::SeqCst), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_subsystem_that_returns_early_counts_as_failed() {
        let (_shutdown, mut supervisor, _) = supervised();
        supervisor.supervise("quitter", RestartPolicy::NEVER, || async { Ok::<(), String>(()) });
        let error = supervisor.run().await.unwrap_err();
        assert!(error.to_string().contains("nobody asked"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_outlives_the_drain_time_is_aborted_and_named() {
        let (shutdown, mut supervisor, _) = supervised();
        supervisor.supervise("stuck", QUICK, std::future::pending::<Result<(), String>>);
        shutdown.trigger("test");
        let error = supervisor.run().await.unwrap_err();
        assert_eq!(error, SupervisorError::LeftRunning { names: vec!["stuck".to_owned()] });
    }

    #[tokio::test(start_paused = true)]
    async fn old_failures_are_forgotten_after_the_window() {
        let (shutdown, mut supervisor, starts) = supervised();
        let (stop, count) = (shutdown.clone(), Arc::clone(&starts));
        supervisor.supervise("slow-burn", QUICK, move || {
            let (stop, n) = (stop.clone(), count.fetch_add(1, Ordering::SeqCst));
            async move {
                if n == 8 {
                    stop.trigger("enough");
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_secs(30)).await;
                Err("again")
            }
        });
        assert_eq!(supervisor.run().await, Ok(()));
    }
}
