//! The wish to stop a handler, as the handler sees it.

use switchyard_common::contract::report::StoppedBy;
use tokio::sync::watch;

/// Why a handler is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The dispatcher wants the attempt no longer: cancelled, revoked, or given to another agent.
    Unwanted,
    /// The agent ends, and its grace is over.
    Drain,
    /// The agent could not be heard for too long; another one may be given the work.
    Silence,
    /// The handler has run longer than its run timeout.
    TimeOver,
}

impl From<StoppedBy> for StopReason {
    fn from(by: StoppedBy) -> Self {
        match by {
            StoppedBy::Dispatcher => Self::Unwanted,
            StoppedBy::Drain => Self::Drain,
            StoppedBy::Silence => Self::Silence,
        }
    }
}

/// Watches for the wish to stop one attempt, and sets it. Clones are the same signal; the first reason stays.
#[derive(Debug, Clone, Default)]
pub(crate) struct StopSignal(watch::Sender<Option<StopReason>>);

impl StopSignal {
    pub(crate) fn set(&self, reason: StopReason) {
        self.0.send_if_modified(|set| {
            let first = set.is_none();
            set.get_or_insert(reason);
            first
        });
    }

    pub(crate) fn reason(&self) -> Option<StopReason> {
        *self.0.borrow()
    }

    pub(crate) async fn stopped(&self) -> StopReason {
        let mut receiver = self.0.subscribe();
        let reason = receiver.wait_for(Option::is_some).await.ok().and_then(|reason| *reason);
        match reason {
            Some(reason) => reason,
            // Not reached: we hold the sender ourselves.
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_reason_stays_and_wakes_every_watcher() {
        let signal = StopSignal::default();
        let other = signal.clone();
        let (reason, ()) = tokio::join!(other.stopped(), async {
            signal.set(StopReason::Drain);
            signal.set(StopReason::Silence);
        });
        assert_eq!(reason, StopReason::Drain);
        assert_eq!(signal.stopped().await, StopReason::Drain);
    }
}
