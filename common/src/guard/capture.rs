//! What is kept of a panic, and the process-wide hook that collects it.
//!
//! The hook runs on the panicking thread before unwinding, the only moment when the location and the backtrace can
//! be had. It leaves them in a thread-local, where the innermost guard picks them up after unwinding.

use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Once, OnceLock};
use std::task::{Context, Poll};

use serde::{Deserialize, Serialize};

use crate::text::bounded;

/// Longest panic message kept.
pub const PANIC_MESSAGE_MAX_BYTES: usize = 4 * 1024;
/// Longest backtrace kept.
pub const PANIC_BACKTRACE_MAX_BYTES: usize = 16 * 1024;
/// Longest value of one context field kept.
pub const PANIC_FIELD_MAX_BYTES: usize = 512;
/// Most context fields kept.
pub const PANIC_FIELDS_MAX_COUNT: usize = 32;

/// The name that panics have outside every named guard.
const UNNAMED: &str = "unnamed";

/// A caught panic: everything needed to find its cause later. All text is bounded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PanicCapture {
    /// The panic's message; a payload that is not text is said to be so.
    pub message: String,
    /// `file:line:column` of the panic.
    pub location: Option<String>,
    /// The stack at the panic; empty when the hook was replaced by somebody else's.
    pub backtrace: String,
    /// The name of the innermost guarded task.
    pub task_name: String,
    /// The name of the thread, or its number when it has none.
    pub thread: String,
    /// The fields attached by [`with_context`], outermost first.
    pub fields: Vec<(String, String)>,
}

impl fmt::Display for PanicCapture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} panicked", self.task_name)?;
        if let Some(location) = &self.location {
            write!(f, " at {location}")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// One level of what surrounds running code: a guard's name or a set of fields.
pub(super) struct Frame {
    name: Option<String>,
    fields: Vec<(String, String)>,
}

impl Frame {
    pub(super) fn named(name: &str) -> Arc<Self> {
        Arc::new(Self { name: Some(name.to_owned()), fields: Vec::new() })
    }
}

thread_local! {
    static FRAMES: RefCell<Vec<Arc<Frame>>> = const { RefCell::new(Vec::new()) };
    static GUARDS_COUNT: Cell<usize> = const { Cell::new(0) };
    static LAST: RefCell<Option<PanicCapture>> = const { RefCell::new(None) };
}

/// What else is told of every panic.
type Tell = Box<dyn Fn(&PanicCapture) + Send + Sync>;
static ON_PANIC: OnceLock<Tell> = OnceLock::new();

/// Tells `tell` of every panic from now on, caught or not, on the thread that panics: it must neither wait nor panic. Once per process;
/// later calls do nothing.
pub fn on_panic(tell: impl Fn(&PanicCapture) + Send + Sync + 'static) {
    let _ = ON_PANIC.set(Box::new(tell));
}

/// Installs the hook, once per process; later calls do nothing. Panics inside a guard are reported by the guard;
/// any other panic is logged and counted by the hook itself, so that it is not silent either.
pub fn install_panic_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let capture = capture_from(info);
            if let Some(tell) = ON_PANIC.get() {
                tell(&capture);
            }
            if GUARDS_COUNT.with(Cell::get) > 0 {
                LAST.with(|last| *last.borrow_mut() = Some(capture));
            } else {
                report(&capture);
                previous(info);
            }
        }));
    });
}

/// Logs and counts one panic.
pub(super) fn report(capture: &PanicCapture) {
    count(&capture.task_name);
    tracing::error!(
        task = capture.task_name,
        location = capture.location.as_deref().unwrap_or("unknown"),
        thread = capture.thread,
        context = ?capture.fields,
        backtrace = capture.backtrace,
        panic = capture.message,
        "a task panicked",
    );
}

fn count(task: &str) {
    metrics::counter!("switchyard_panics_total", "task" => task.to_owned()).increment(1);
}

fn capture_from(info: &PanicHookInfo<'_>) -> PanicCapture {
    let (task_name, fields) = surroundings();
    PanicCapture {
        message: message_of(info.payload()),
        location: info.location().map(ToString::to_string),
        backtrace: bounded(&Backtrace::force_capture().to_string(), PANIC_BACKTRACE_MAX_BYTES),
        task_name,
        thread: thread_name(),
        fields,
    }
}

/// The name and fields of the frames on this thread now.
fn surroundings() -> (String, Vec<(String, String)>) {
    // A panic while the list is borrowed (it never is across foreign code) must not panic again in the hook.
    FRAMES.with(|frames| match frames.try_borrow() {
        Ok(frames) => {
            let name = frames.iter().rev().find_map(|frame| frame.name.clone());
            let fields = frames.iter().flat_map(|frame| frame.fields.iter().cloned());
            (name.unwrap_or_else(|| UNNAMED.to_owned()), fields.take(PANIC_FIELDS_MAX_COUNT).collect())
        }
        Err(_) => (UNNAMED.to_owned(), Vec::new()),
    })
}

fn message_of(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(the panic's payload is not text)");
    bounded(text, PANIC_MESSAGE_MAX_BYTES)
}

fn thread_name() -> String {
    let thread = std::thread::current();
    thread.name().map_or_else(|| format!("{:?}", thread.id()), ToOwned::to_owned)
}

/// Pops what [`enter`] pushed.
struct Entered {
    guards: bool,
}

fn enter(frame: Arc<Frame>, guards: bool) -> Entered {
    FRAMES.with(|frames| frames.borrow_mut().push(frame));
    if guards {
        GUARDS_COUNT.with(|count| count.set(count.get() + 1));
    }
    Entered { guards }
}

impl Drop for Entered {
    fn drop(&mut self) {
        FRAMES.with(|frames| frames.borrow_mut().pop());
        if self.guards {
            GUARDS_COUNT.with(|count| count.set(count.get() - 1));
        }
    }
}

/// Runs `work` inside a frame and turns a panic into its capture.
pub(super) fn guarded<T>(frame: Arc<Frame>, work: impl FnOnce() -> T) -> Result<T, Box<PanicCapture>> {
    install_panic_hook();
    let _entered = enter(frame, true);
    let caught = catch_unwind(AssertUnwindSafe(work));
    caught.map_err(|payload| {
        let message = message_of(&*payload);
        // Dropping a foreign payload can panic again; that one is of no interest.
        let _ = catch_unwind(AssertUnwindSafe(move || drop(payload)));
        LAST.with(|last| last.borrow_mut().take()).map_or_else(|| Box::new(without_hook(message)), Box::new)
    })
}

/// The capture when another hook replaced ours: what the payload alone tells.
fn without_hook(message: String) -> PanicCapture {
    let (task_name, fields) = surroundings();
    PanicCapture {
        message,
        location: None,
        backtrace: String::new(),
        task_name,
        thread: thread_name(),
        fields,
    }
}

/// Runs a closure; a panic inside it is returned instead of unwinding further. Counted, not logged: what the
/// caller makes of it (a failure report, a dead letter) is the line.
///
/// # Errors
/// The capture of the panic.
pub fn catch_panic_sync<T>(work: impl FnOnce() -> T) -> Result<T, Box<PanicCapture>> {
    guarded(Frame::fields(Vec::new()), work).inspect_err(|capture| count(&capture.task_name))
}

/// Runs a future; a panic inside it is returned instead of unwinding further. Counted, not logged: what the
/// caller makes of it (a failure report, a dead letter) is the line.
///
/// # Errors
/// The capture of the panic.
pub async fn catch_panic<F: Future>(future: F) -> Result<F::Output, Box<PanicCapture>> {
    let ended = CatchPanic::new(Frame::fields(Vec::new()), future).await;
    ended.inspect_err(|capture| count(&capture.task_name))
}

/// Attaches fields to every panic captured inside `future`, whatever thread it is polled on. Values are bounded.
pub fn with_context<F: Future>(
    fields: impl IntoIterator<Item = (&'static str, String)>,
    future: F,
) -> impl Future<Output = F::Output> {
    let fields =
        fields.into_iter().map(|(key, value)| (key.to_owned(), bounded(&value, PANIC_FIELD_MAX_BYTES)));
    WithFrame { frame: Frame::fields(fields.collect()), inner: Box::pin(future) }
}

impl Frame {
    fn fields(fields: Vec<(String, String)>) -> Arc<Self> {
        Arc::new(Self { name: None, fields })
    }
}

struct WithFrame<F> {
    frame: Arc<Frame>,
    inner: Pin<Box<F>>,
}

impl<F: Future> Future for WithFrame<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let _entered = enter(Arc::clone(&self.frame), false);
        self.inner.as_mut().poll(cx)
    }
}

/// A future whose polls are guarded. After a panic the inner future is dropped inside the guard too, because a
/// half-unwound future may panic again in its destructor.
pub(super) struct CatchPanic<F> {
    frame: Arc<Frame>,
    inner: Option<Pin<Box<F>>>,
}

impl<F> CatchPanic<F> {
    pub(super) fn new(frame: Arc<Frame>, future: F) -> Self {
        Self { frame, inner: Some(Box::pin(future)) }
    }
}

impl<F: Future> Future for CatchPanic<F> {
    type Output = Result<F::Output, Box<PanicCapture>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let frame = Arc::clone(&self.frame);
        let Some(inner) = self.inner.as_mut() else { return Poll::Pending };
        match guarded(Arc::clone(&frame), || inner.as_mut().poll(cx)) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
            Err(capture) => {
                let broken = self.inner.take();
                let _ = guarded(frame, move || drop(broken));
                Poll::Ready(Err(capture))
            }
        }
    }
}

#[cfg(test)]
#[path = "capture_tests.rs"]
mod tests;
