//! How a handler ended, in its own words.

use std::collections::BTreeMap;

use serde_json::Value;
use switchyard_common::failure::{Failure, FailureKind};

/// The closed set of ends of a handler.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "the outcome is what the task becomes"]
pub enum HandlerOutcome {
    /// It did what it was asked.
    Succeeded(Success),
    /// It failed. The step may be tried again when it is repeatable.
    Failed(Failure),
    /// Something that it runs was ended by a signal that the agent did not send. (A panic of the handler itself is caught.)
    Panicked(Failure),
    /// It ran too long and was stopped, by its own supervision.
    TimedOut(Failure),
    /// It was asked to stop, and did. Work that was finished all the same should say succeeded.
    Stopped,
    /// Its own supervision stopped it because the agent's keep-alive stopped.
    KeepAliveStopped,
}

/// What a success leaves.
#[derive(Debug, Clone, PartialEq)]
pub struct Success {
    /// False when there was nothing to change: the task ends here, without approval and without the steps that follow.
    pub changes: bool,
    /// Artifacts by name, beside those given to [`TaskContext::artifact`](super::TaskContext::artifact).
    pub artifacts: BTreeMap<String, Vec<u8>>,
    /// A JSON result.
    pub result: Option<Value>,
}

impl HandlerOutcome {
    /// Success, with something changed or to be changed.
    pub const fn succeeded() -> Self {
        Self::Succeeded(Success { changes: true, artifacts: BTreeMap::new(), result: None })
    }

    /// Success, with nothing to change.
    pub const fn no_changes() -> Self {
        Self::Succeeded(Success { changes: false, artifacts: BTreeMap::new(), result: None })
    }

    /// Failure, with a message for whoever has to understand it.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed(Failure::new(FailureKind::HandlerFailed, message))
    }

    /// The same success with a JSON result; any other outcome as it is.
    pub fn with_result(mut self, value: Value) -> Self {
        if let Self::Succeeded(success) = &mut self {
            success.result = Some(value);
        }
        self
    }
}
