//! Named tasks and threads that report their panics.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::task::{AbortHandle, JoinHandle};
use tracing::{Instrument as _, Span};

use super::capture::{CatchPanic, Frame, PanicCapture, report};

/// How a guarded task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskEnd<T> {
    /// It returned.
    Finished(T),
    /// It panicked; the panic has been logged and counted.
    Panicked(Box<PanicCapture>),
    /// It was aborted, or the runtime shut down around it.
    Aborted,
}

impl<T> TaskEnd<T> {
    /// The value, when the task returned.
    pub fn finished(self) -> Option<T> {
        match self {
            Self::Finished(value) => Some(value),
            Self::Panicked(_) | Self::Aborted => None,
        }
    }
}

/// A handle on a guarded task. Awaiting it gives the [`TaskEnd`]; dropping it leaves the task running.
#[derive(Debug)]
pub struct GuardedTask<T> {
    name: String,
    handle: JoinHandle<Result<T, Box<PanicCapture>>>,
}

impl<T> GuardedTask<T> {
    /// The name given at the spawn.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Stops the task at its next await. Does nothing for blocking tasks that have begun.
    pub fn abort(&self) {
        self.handle.abort();
    }

    /// A handle that can abort the task later, for owners that do not keep the task itself.
    #[must_use]
    pub fn abort_handle(&self) -> AbortHandle {
        self.handle.abort_handle()
    }

    /// True when the task has ended, in whatever way.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }
}

impl<T> Future for GuardedTask<T> {
    type Output = TaskEnd<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(Pin::new(&mut self.handle).poll(cx)) {
            Ok(Ok(value)) => TaskEnd::Finished(value),
            Ok(Err(capture)) => TaskEnd::Panicked(capture),
            Err(_) => TaskEnd::Aborted,
        })
    }
}

/// Spawns a task on the current runtime. `name` is also the label of `switchyard_panics_total`, so it must come
/// from a small fixed set; what differs per task belongs into [`with_context`](super::with_context).
///
/// Must be called within a Tokio runtime.
pub fn spawn_guarded<F>(name: impl Into<String>, future: F) -> GuardedTask<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let name = name.into();
    let guarded = CatchPanic::new(Frame::named(&name), future);
    let reported =
        async move { guarded.await.inspect_err(|capture| report(capture)) }.instrument(Span::current());
    #[expect(clippy::disallowed_methods, reason = "the one place where tasks are spawned")]
    let handle = tokio::spawn(reported);
    GuardedTask { name, handle }
}

/// Runs a blocking closure on the runtime's blocking threads. `name` as in [`spawn_guarded`].
///
/// Must be called within a Tokio runtime.
pub fn spawn_blocking_guarded<T: Send + 'static>(
    name: impl Into<String>,
    work: impl FnOnce() -> T + Send + 'static,
) -> GuardedTask<T> {
    let name = name.into();
    let run = guarded_closure(&name, work);
    #[expect(clippy::disallowed_methods, reason = "the one place where blocking tasks are spawned")]
    let handle = tokio::task::spawn_blocking(run);
    GuardedTask { name, handle }
}

/// Starts a named thread. Joining it gives the value or the capture of its panic, which has been reported.
///
/// # Errors
/// When the operating system refuses another thread.
pub fn spawn_thread_guarded<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<Result<T, Box<PanicCapture>>>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(guarded_closure(name, work))
}

/// Wraps a closure with the current span, a named frame and the report of its panic.
fn guarded_closure<T>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> impl FnOnce() -> Result<T, Box<PanicCapture>> + Send + 'static {
    let span = Span::current();
    let frame = Frame::named(name);
    move || span.in_scope(|| super::capture::guarded(frame, work).inspect_err(|capture| report(capture)))
}

#[cfg(test)]
mod tests {
    use super::super::catch_panic_sync;
    use super::*;

    #[tokio::test]
    async fn a_finished_task_gives_its_value() {
        let task = spawn_guarded("adder", async { 1 + 1 });
        assert_eq!(task.name(), "adder");
        assert_eq!(task.await, TaskEnd::Finished(2));
    }

    #[tokio::test]
    async fn incident_01_a_panicking_background_task_is_not_silent() {
        let task = spawn_guarded("background", async { panic!("no agent, no pod") });
        let TaskEnd::<()>::Panicked(capture) = task.await else { panic!("expected a panic") };
        assert_eq!(capture.task_name, "background");
        assert_eq!(capture.message, "no agent, no pod");
        assert!(capture.location.is_some());
    }

    #[tokio::test]
    async fn an_aborted_task_says_so() {
        let task = spawn_guarded("forever", std::future::pending::<()>());
        task.abort();
        assert_eq!(task.await, TaskEnd::Aborted);
    }

    #[tokio::test]
    async fn a_panic_in_a_blocking_task_is_captured() {
        let task = spawn_blocking_guarded("hasher", || -> u8 { panic!("empty checksum") });
        let TaskEnd::Panicked(capture) = task.await else { panic!("expected a panic") };
        assert_eq!((capture.task_name.as_str(), capture.message.as_str()), ("hasher", "empty checksum"));
    }

    #[test]
    fn a_panic_in_a_thread_is_captured() {
        let thread = spawn_thread_guarded("reader", || -> u8 { panic!("broken pipe") }).unwrap();
        let capture = thread.join().unwrap().unwrap_err();
        assert_eq!((capture.task_name.as_str(), capture.thread.as_str()), ("reader", "reader"));
    }

    #[tokio::test]
    async fn the_span_of_the_spawner_is_carried_into_the_task() {
        use tracing_subscriber::layer::SubscriberExt as _;
        let _default = tracing::subscriber::set_default(
            tracing_subscriber::registry().with(tracing_subscriber::fmt::layer().with_test_writer()),
        );
        let span = tracing::info_span!("pass", pool = "p");
        let id = span.id();
        let inside = span.in_scope(|| spawn_guarded("child", async { Span::current().id() }));
        assert_eq!(inside.await, TaskEnd::Finished(id));
    }

    #[tokio::test]
    async fn a_caught_panic_inside_a_named_task_carries_the_name() {
        let task = spawn_guarded("intake", async { catch_panic_sync(|| panic!("bad event")).err() });
        let capture = task.await.finished().flatten().map(|c| c.task_name);
        assert_eq!(capture.as_deref(), Some("intake"));
    }
}
