//! How long what is kept.

use std::time::Duration;

use crate::config::Config;

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Events are kept for this much longer than tasks: a copy that the broker delivers late must still be known.
pub const EVENTS_KEEP_LONGER: Duration = Duration::from_secs(2 * 24 * 3_600);

/// How long what is kept, counted from its end by the database clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// Finished tasks, with their attempts, artifacts and notes.
    pub tasks: Duration,
    /// Log lines of finished tasks.
    pub logs: Duration,
    /// Resolved dead letters.
    pub letters: Duration,
    /// Ids of events.
    pub events: Duration,
    /// The audit log.
    pub audit: Duration,
    /// Ended sessions of agents.
    pub sessions: Duration,
    /// Rows of replicas that are gone.
    pub replicas: Duration,
}

/// Why a policy is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A second copy of an event would make its task again.
    #[error(
        "events must be kept at least as long as tasks: a second copy of an event would make its task again"
    )]
    EventsBeforeTasks,
    /// Logs go with their task.
    #[error("logs cannot be kept longer than their tasks")]
    LogsAfterTasks,
}

impl RetentionPolicy {
    /// As configured.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self::keeping(config.keep_finished_for, config.keep_audit_for)
    }

    /// Everything that ends kept for `finished`, the audit log for `audit`.
    #[must_use]
    pub fn keeping(finished: Duration, audit: Duration) -> Self {
        Self {
            tasks: finished,
            logs: finished,
            letters: finished,
            events: finished.saturating_add(EVENTS_KEEP_LONGER),
            audit,
            sessions: finished.max(7 * DAY),
            replicas: DAY,
        }
    }

    /// Refuses periods that would break a guarantee.
    pub fn check(&self) -> Result<(), PolicyError> {
        if self.events < self.tasks {
            return Err(PolicyError::EventsBeforeTasks);
        }
        if self.logs > self.tasks {
            return Err(PolicyError::LogsAfterTasks);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_that_would_break_a_guarantee_are_refused() {
        let policy = RetentionPolicy::keeping(30 * DAY, 365 * DAY);
        assert_eq!(policy.check(), Ok(()));
        let forgets = RetentionPolicy { events: 29 * DAY, ..policy };
        assert_eq!(forgets.check(), Err(PolicyError::EventsBeforeTasks));
        let logs = RetentionPolicy { logs: 31 * DAY, ..policy };
        assert_eq!(logs.check(), Err(PolicyError::LogsAfterTasks));
        assert_eq!(RetentionPolicy { events: 30 * DAY, ..policy }.check(), Ok(()));
    }
}
