//! What the clock brings up: found by the periodic sweep of every replica.

use switchyard_common::contract::ids::TaskId;
use switchyard_common::contract::report::Claim;
use switchyard_common::task::{Input, Revoke, RevokeReason, Status, Task};
use switchyard_dispatcher::store::Named;

use super::tables::{AttemptRow, Store, clock, millis_between};
use crate::sim::agenda::Millis;

/// First wait before a revoke is sent again, in milliseconds; doubles each time.
const REVOKE_AGAIN_INITIAL_MS: u64 = 1_000;
/// Longest wait, in milliseconds.
const REVOKE_AGAIN_MAX_MS: u64 = 8_000;

/// A revoke that is to be sent again.
#[derive(Debug, Clone)]
pub struct Due {
    /// For which attempt.
    pub claim: Claim,
    /// What is asked.
    pub revoke: Revoke,
    /// Which attempt, as a key.
    pub key: (TaskId, u32),
}

impl Store {
    /// Inputs that time asks for.
    #[must_use]
    pub fn due(&self, now: Millis, run_timeout_grace: Millis) -> Vec<Named> {
        let mut inputs = Vec::new();
        for row in self.tasks.values() {
            if let Some(input) = task_due(&row.task, now) {
                inputs.push(Named { task_id: row.task.id.clone(), attempt: None, input });
            }
        }
        // One that must end is asked for once; what is asked is sent again by itself.
        let unasked = |row: &AttemptRow| row.attempt.revoke.is_none_or(|revoke| !revoke.force);
        for ((id, number), row) in self.open_attempts().filter(|(_, row)| unasked(row)) {
            let policy = self.tasks.get(id).map(|task| task.task.current_step().policy).unwrap_or_default();
            let ran = row.attempt.started_at.map(|at| millis_between(at, clock(now)));
            let overran = ran.is_some_and(|ran| past(ran, policy.run_timeout_ms + run_timeout_grace));
            let waited = millis_between(row.attempt.assigned_at, clock(now));
            let unstarted = row.attempt.started_at.is_none()
                && policy.start_timeout_ms.is_some_and(|most| past(waited, most));
            let reason = match (overran, unstarted) {
                (true, _) => RevokeReason::RunTimeout,
                (false, true) => RevokeReason::StartTimeout,
                (false, false) => continue,
            };
            inputs.push(Named {
                task_id: id.clone(),
                attempt: Some(*number),
                input: Input::Revoke { reason },
            });
        }
        inputs
    }

    /// Revokes of open attempts that were not answered for a while; marks them as sent.
    pub fn revokes_due(&mut self, now: Millis) -> Vec<Due> {
        let mut due = Vec::new();
        for (key, row) in &mut self.attempts {
            let Some(revoke) = row.attempt.revoke.filter(|_| row.attempt.end.is_none()) else { continue };
            if row.revoke_sent_at.is_some_and(|at| at + revoke_wait(row) > now) {
                continue;
            }
            row.revoke_sent_at = Some(now);
            row.revoke_sends += 1;
            let assignee = &row.attempt.assignee;
            let claim = Claim {
                task_id: key.0.clone(),
                attempt: key.1,
                session: assignee.session,
                lease: assignee.lease,
            };
            due.push(Due { claim, revoke, key: key.clone() });
        }
        due
    }
}

fn revoke_wait(row: &AttemptRow) -> Millis {
    const DOUBLINGS_MAX: u32 = 8;
    (REVOKE_AGAIN_INITIAL_MS << row.revoke_sends.min(DOUBLINGS_MAX)).min(REVOKE_AGAIN_MAX_MS)
}

fn task_due(task: &Task, now: Millis) -> Option<Input> {
    let at = clock(now);
    if task.deadline.is_some_and(|deadline| deadline <= at)
        && !task.status.is_terminal()
        && task.status != Status::Uncertain
    {
        return Some(Input::DeadlinePassed);
    }
    let waits = |since| millis_between(since, at);
    let policy = task.current_step().policy;
    match task.status {
        Status::Pending => match task.run_after {
            Some(due) if due <= at => Some(Input::Due { place: None }),
            Some(_) => None,
            None => policy
                .queue_timeout_ms
                .is_some_and(|most| past(waits(task.since), most))
                .then_some(Input::QueueTimeout),
        },
        Status::AwaitingApproval => policy
            .approval_timeout_ms
            .is_some_and(|most| past(waits(task.since), most))
            .then_some(Input::ApprovalExpired),
        Status::Blocked
        | Status::Assigned
        | Status::Running
        | Status::Uncertain
        | Status::Succeeded
        | Status::Failed
        | Status::Cancelled => None,
    }
}

fn past(millis: i64, most: u64) -> bool {
    u64::try_from(millis).is_ok_and(|millis| millis >= most)
}
