//! A handler that waits until the test lets it go, so that no test has to guess how long something takes.

use std::sync::Arc;

use switchyard_worker_agent::{Handler, HandlerOutcome, TaskContext, async_trait};
use tokio::sync::Semaphore;

/// Each permit of the semaphore lets one attempt go; its payload `{"fail": true}` makes it fail.
pub(crate) struct Gate(pub(crate) Arc<Semaphore>);

#[async_trait]
impl Handler for Gate {
    async fn run(&self, context: TaskContext) -> HandlerOutcome {
        tokio::select! {
            permit = self.0.acquire() => permit.unwrap().forget(),
            _ = context.stopped() => return HandlerOutcome::Stopped,
        }
        if context.work().payload["fail"] == true {
            return HandlerOutcome::failed("the test wants it");
        }
        HandlerOutcome::succeeded()
    }
}
