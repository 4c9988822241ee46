//! A handler whose kill grace is configured: an agent with a short lost timeout needs a short one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::handler::{Handler, HandlerOutcome, Supervision, TaskContext};

/// Another handler, ended by the agent when this grace is over.
pub(crate) struct Graced {
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) kill_grace: Duration,
}

#[async_trait]
impl Handler for Graced {
    async fn run(&self, context: TaskContext) -> HandlerOutcome {
        self.handler.run(context).await
    }

    fn supervision(&self) -> Supervision {
        Supervision::ByAgent { kill_grace: self.kill_grace }
    }
}
