//! Every background task, thread and supervised subsystem starts here, so that no panic is silent.
//!
//! - [`spawn_guarded`], [`spawn_blocking_guarded`], [`spawn_thread_guarded`]: named tasks that carry the current
//!   tracing span; a panic becomes a value ([`TaskEnd::Panicked`]), one ERROR line and a count.
//! - [`catch_panic`], [`catch_panic_sync`]: run something that may panic and get its [`PanicCapture`] instead.
//! - [`with_context`]: attach fields (task id, attempt) to any capture made inside a future.
//! - [`Supervisor`]: restarts named subsystems with backoff, or ends the process with an error.
//!
//! Nothing else in the workspace may call `tokio::spawn` or `std::thread::spawn`; clippy holds that.

mod capture;
mod supervisor;
mod task;

pub use capture::{
    PANIC_BACKTRACE_MAX_BYTES, PANIC_FIELD_MAX_BYTES, PANIC_FIELDS_MAX_COUNT, PANIC_MESSAGE_MAX_BYTES,
    PanicCapture, catch_panic, catch_panic_sync, install_panic_hook, on_panic, with_context,
};
pub use supervisor::{RestartPolicy, Supervisor, SupervisorError};
pub use task::{GuardedTask, TaskEnd, spawn_blocking_guarded, spawn_guarded, spawn_thread_guarded};
