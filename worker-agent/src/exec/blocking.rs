//! Work on files, off the runtime's own threads.

use switchyard_common::guard::{TaskEnd, spawn_blocking_guarded};

/// Runs `work` where blocking harms nobody. A panic in it is an error here, never silence. `name` is a metric label.
pub(super) async fn blocking<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    match spawn_blocking_guarded(name, work).await {
        TaskEnd::Finished(value) => Ok(value),
        TaskEnd::Panicked(capture) => Err(capture.to_string()),
        TaskEnd::Aborted => Err(format!("{name} was aborted: the runtime is ending")),
    }
}
