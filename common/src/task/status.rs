//! The closed list of states (design 4; incident 17: two names for one state).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The state of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// An earlier exclusive task holds the workspace, or precedes this one in it.
    Blocked,
    /// May run now, or from its due time.
    Pending,
    /// Committed to an agent; for a non-repeatable step this proves that nothing has run.
    Assigned,
    /// The agent said so; for a non-repeatable step the dispatcher allowed it first.
    Running,
    /// The next step needs an approval that has not been given.
    AwaitingApproval,
    /// The agent of a non-repeatable step was lost after the step may have started.
    Uncertain,
    /// Ended well.
    Succeeded,
    /// Ended with a failure.
    Failed,
    /// Ended because somebody asked for it.
    Cancelled,
}

impl Status {
    /// Every state.
    pub const ALL: [Self; 9] = [
        Self::Blocked,
        Self::Pending,
        Self::Assigned,
        Self::Running,
        Self::AwaitingApproval,
        Self::Uncertain,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
    ];

    /// The stored text form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Pending => "pending",
            Self::Assigned => "assigned",
            Self::Running => "running",
            Self::AwaitingApproval => "awaiting_approval",
            Self::Uncertain => "uncertain",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Reads the stored text form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Terminal states absorb: nothing leaves them (incident 39).
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed | Self::Cancelled => true,
            Self::Blocked
            | Self::Pending
            | Self::Assigned
            | Self::Running
            | Self::AwaitingApproval
            | Self::Uncertain => false,
        }
    }

    /// States in which agent, pod, session and lease are set: exactly these.
    #[must_use]
    pub const fn has_assignee(self) -> bool {
        match self {
            Self::Assigned | Self::Running | Self::Uncertain => true,
            Self::Blocked
            | Self::Pending
            | Self::AwaitingApproval
            | Self::Succeeded
            | Self::Failed
            | Self::Cancelled => false,
        }
    }

    /// Whether a task may go from this state to `next`. A state may always stay what it is, unless it is terminal.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        use Status::{
            Assigned, AwaitingApproval, Blocked, Cancelled, Failed, Pending, Running, Succeeded, Uncertain,
        };
        match self {
            Blocked => matches!(next, Blocked | Pending | Cancelled | Failed),
            // An exclusive task whose time comes takes its place behind others: pending -> blocked (protocol H).
            Pending => matches!(next, Pending | Blocked | Assigned | Cancelled | Failed),
            Assigned => matches!(
                next,
                Assigned | Running | Pending | AwaitingApproval | Succeeded | Failed | Cancelled
            ),
            Running => matches!(
                next,
                Running | Pending | AwaitingApproval | Uncertain | Succeeded | Failed | Cancelled
            ),
            AwaitingApproval => matches!(next, AwaitingApproval | Pending | Cancelled | Failed),
            Uncertain => {
                matches!(next, Uncertain | Pending | AwaitingApproval | Succeeded | Failed | Cancelled)
            }
            Succeeded | Failed | Cancelled => false,
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incident_17_there_is_one_name_for_each_state() {
        for status in Status::ALL {
            assert_eq!(Status::parse(status.as_str()), Some(status));
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
        assert_eq!(Status::parse("planned"), None);
        assert_eq!(Status::parse("awaiting-approval"), None);
    }

    #[test]
    fn nothing_leaves_a_terminal_state() {
        for from in Status::ALL.into_iter().filter(|status| status.is_terminal()) {
            for next in Status::ALL {
                assert!(!from.may_become(next), "{from} -> {next}");
            }
        }
    }
}
