//! Graceful shutdown as a parameter: a token that every loop watches.
//!
//! Shutdown has two stages. *Requested*: take no new work, finish or hand back what is in hand, all before
//! [`Shutdown::drain_deadline`]. *Immediate*: the deadline has passed or a second signal came; drop everything.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::guard::{GuardedTask, spawn_guarded};

/// How long a shutdown waits for work in hand unless configured.
pub const DEFAULT_DRAIN_SECONDS: u64 = 25;

/// A clonable handle on the process's wish to stop. Cheap to clone; all clones are the same shutdown.
#[derive(Clone, Debug)]
pub struct Shutdown {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    requested: CancellationToken,
    immediate: CancellationToken,
    drain: Duration,
    started: OnceLock<(Instant, String)>,
}

impl Shutdown {
    /// A shutdown that nobody has asked for yet; once asked, work in hand gets `drain` to finish.
    #[must_use]
    pub fn new(drain: Duration) -> Self {
        let inner = Inner {
            requested: CancellationToken::new(),
            immediate: CancellationToken::new(),
            drain,
            started: OnceLock::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Asks for a graceful stop. The first reason is kept; later calls change nothing.
    pub fn trigger(&self, reason: &str) {
        let mut first = false;
        self.inner.started.get_or_init(|| {
            first = true;
            (Instant::now(), reason.to_owned())
        });
        if first {
            tracing::info!(reason, drain_ms = self.inner.drain.as_millis(), "shutdown requested");
        }
        self.inner.requested.cancel();
    }

    /// Asks for an end without draining.
    pub fn trigger_immediate(&self, reason: &str) {
        self.trigger(reason);
        if !self.inner.immediate.is_cancelled() {
            tracing::warn!(reason, "shutdown is now immediate, work in hand is dropped");
        }
        self.inner.immediate.cancel();
    }

    /// Completes when a stop has been requested.
    pub async fn requested(&self) {
        self.inner.requested.cancelled().await;
    }

    /// Completes when the stop has become immediate.
    pub async fn immediate(&self) {
        self.inner.immediate.cancelled().await;
    }

    /// True once a stop has been requested.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.inner.requested.is_cancelled()
    }

    /// True once the stop has become immediate.
    #[must_use]
    pub fn is_immediate(&self) -> bool {
        self.inner.immediate.is_cancelled()
    }

    /// Why the stop was requested.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.inner.started.get().map(|(_, reason)| reason.as_str())
    }

    /// When draining has to be over; `None` while no stop has been requested.
    #[must_use]
    pub fn drain_deadline(&self) -> Option<Instant> {
        self.inner.started.get().map(|(at, _)| *at + self.inner.drain)
    }

    /// A token that is cancelled when a stop is requested, for libraries that take one.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.inner.requested.child_token()
    }

    /// Sleeps for `duration`, or less when a stop is requested. Returns true when it slept to the end.
    pub async fn sleep(&self, duration: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.requested() => false,
            () = tokio::time::sleep(duration) => true,
        }
    }

    /// Runs `future` until it completes or a stop is requested; `None` in the second case.
    pub async fn unless_requested<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.requested() => None,
            value = future => Some(value),
        }
    }

    /// Listens for SIGTERM and SIGINT: the first requests a stop, the second makes it immediate, and so does the
    /// end of the drain time.
    ///
    /// # Errors
    /// When the signal handlers cannot be installed.
    pub fn listen_for_signals(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        spawn_guarded("signals", async move {
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                    () = shutdown.drain_over() => "the drain time is over",
                };
                if shutdown.is_requested() {
                    shutdown.trigger_immediate(name);
                    return;
                }
                shutdown.trigger(name);
            }
        });
        Ok(())
    }

    /// Completes when a stop was requested and its drain time has passed.
    async fn drain_over(&self) {
        self.requested().await;
        if let Some(deadline) = self.drain_deadline() {
            tokio::time::sleep_until(deadline).await;
        }
    }
}

/// Waits until every task has ended, but no longer than `deadline`; then aborts what is left and returns the names
/// of those tasks, for the last log line.
pub async fn wait_bounded<T: Send + 'static>(tasks: Vec<GuardedTask<T>>, deadline: Instant) -> Vec<String> {
    let mut left = Vec::new();
    for mut task in tasks {
        if tokio::time::timeout_at(deadline, &mut task).await.is_err() {
            task.abort();
            left.push(task.name().to_owned());
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_reason_and_deadline_are_kept() {
        let shutdown = Shutdown::new(Duration::from_secs(10));
        assert_eq!(shutdown.drain_deadline(), None);
        shutdown.trigger("one");
        let deadline = shutdown.drain_deadline();
        tokio::time::advance(Duration::from_secs(3)).await;
        shutdown.clone().trigger("two");
        assert_eq!(shutdown.reason(), Some("one"));
        assert_eq!(shutdown.drain_deadline(), deadline);
        assert!(shutdown.is_requested() && !shutdown.is_immediate());
    }

    #[tokio::test]
    async fn immediate_implies_requested() {
        let shutdown = Shutdown::new(Duration::from_secs(10));
        shutdown.trigger_immediate("second signal");
        shutdown.requested().await;
        shutdown.immediate().await;
        assert!(!shutdown.sleep(Duration::from_secs(3600)).await);
        assert_eq!(shutdown.unless_requested(std::future::pending::<()>()).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_is_bounded_and_names_what_was_left() {
        let quick = spawn_guarded("quick", async {});
        let stuck = spawn_guarded("stuck", std::future::pending::<()>());
        let left = wait_bounded(vec![stuck, quick], Instant::now() + Duration::from_secs(5)).await;
        assert_eq!(left, ["stuck"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_drain_time_ends_by_itself() {
        let shutdown = Shutdown::new(Duration::from_secs(5));
        shutdown.trigger("test");
        let begun = Instant::now();
        shutdown.drain_over().await;
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
    }
}
