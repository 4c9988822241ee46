//! What a handler is: the code that does the work of a step.
//!
//! - [`Handler`]: implemented by you, or by [`Program`](crate::program::Program) for a program
//! - [`TaskContext`]: what it is run with, and how it says something on its way
//! - [`HandlerOutcome`]: how it ended
//! - [`Handlers`]: the handlers of an agent, by name

mod context;
mod outcome;
mod registry;
mod stop;

use std::time::Duration;

use async_trait::async_trait;

pub use context::TaskContext;
pub use outcome::{HandlerOutcome, Success};
pub use registry::{Handlers, HandlersError};
pub use stop::StopReason;
pub(crate) use stop::StopSignal;

/// Time between the wish to stop and the end by force, unless a handler says otherwise.
pub const KILL_GRACE_DEFAULT: Duration = Duration::from_secs(5);

/// Does the work of a step.
///
/// It runs in a guarded task of its own: a panic ends this attempt only, and is reported with message, location and backtrace.
/// A handler of a step that is repeatable may run more than once for one task, so it must reach the same result again.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Runs one attempt. Watch [`TaskContext::stopped`]: when it completes, the grace of [`supervision`](Self::supervision) is left until the future is
    /// dropped. Work that blocks belongs into `switchyard_common::guard::spawn_blocking_guarded`, else the agent's heartbeats suffer.
    async fn run(&self, context: TaskContext) -> HandlerOutcome;

    /// How ends are forced on it.
    fn supervision(&self) -> Supervision {
        Supervision::ByAgent { kill_grace: KILL_GRACE_DEFAULT }
    }
}

/// Who ends a handler that does not end by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Supervision {
    /// The agent: the handler's future is dropped when the grace is over, after a stop or the run timeout.
    ByAgent {
        /// Time between the wish to stop and the end by force.
        kill_grace: Duration,
    },
    /// The handler itself keeps the run timeout, the stop and the keep-alive, as one that runs processes has to: a dropped future
    /// would not wait for them.
    ByItself {
        /// Longest time from the wish to stop to its end.
        kill_grace: Duration,
    },
}

impl Supervision {
    /// Longest time from the wish to stop to the end.
    #[must_use]
    pub const fn kill_grace(self) -> Duration {
        match self {
            Self::ByAgent { kill_grace } | Self::ByItself { kill_grace } => kill_grace,
        }
    }
}
