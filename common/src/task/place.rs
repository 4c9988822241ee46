//! The place of an exclusive task in its workspace, decided only under the workspace's row lock (protocol E2).

use super::model::Task;
use super::status::Status;

/// What the workspace says to a task that becomes due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The next position of the workspace; positions only grow.
    pub position: i64,
    /// No other task of the workspace has a position and has not ended: blockers are strictly earlier, never self (incident 7).
    pub is_head: bool,
}

/// Whether a task stands in the line of its workspace: others behind it are blocked.
#[must_use]
pub fn occupies_workspace(task: &Task) -> bool {
    task.exclusive && task.position.is_some() && !task.status.is_terminal()
}

/// Whether the change from `before` to `after` lets the next waiter of the workspace go: in the same transaction (incident 6).
#[must_use]
pub fn releases_workspace(before: &Task, after: &Task) -> bool {
    occupies_workspace(before) && !occupies_workspace(after) && before.status != Status::Blocked
}
