//! Work on files off the runtime's own threads, and futures whose panics must not go further.

use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;

/// Runs `work` where blocking harms nobody. A panic in it is an error here, never silence.
pub(super) async fn blocking<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    #[expect(clippy::disallowed_methods, reason = "the panic is caught by the join right below")]
    let task = tokio::task::spawn_blocking(work);
    task.await.map_err(|error| format!("{name}: {error}"))
}

/// Runs `future`; a panic in it is an error that carries its message.
pub(super) async fn caught<T>(future: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(future).catch_unwind().await.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    })
}
