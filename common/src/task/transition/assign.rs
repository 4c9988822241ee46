//! From waiting to an agent: due, promoted, assigned, returned.

use std::time::Duration;

use crate::task::model::{Attempt, AttemptOutcome, RevokeReason, Subject};
use crate::task::place::Place;
use crate::task::status::Status;

use super::timers;
use super::types::{AssignTo, Context, Decision, Input, Move, Refusal};

/// The wait is over. An exclusive task takes its place in the workspace now, not when it was submitted (protocol H).
pub(super) fn due(subject: &Subject, place: Option<Place>, context: &Context) -> Decision {
    let task = &subject.task;
    if task.status != Status::Pending || task.run_after.is_none_or(|at| at > context.now) {
        return Decision::refused(Refusal::NotNow(task.status));
    }
    let mut next = Move::of(subject);
    next.task.run_after = None;
    if task.exclusive && task.position.is_none() {
        let Some(place) = place else { return Decision::refused(Refusal::NotNow(task.status)) };
        next.task.position = Some(place.position);
        if !place.is_head {
            return Decision::changed(next.enter(Status::Blocked, context).done());
        }
    }
    Decision::changed(next.enter(Status::Pending, context).done())
}

/// The one ahead has ended.
pub(super) fn promote(subject: &Subject, context: &Context) -> Decision {
    if subject.task.status != Status::Blocked {
        return Decision::refused(Refusal::NotNow(subject.task.status));
    }
    Decision::changed(Move::of(subject).enter(Status::Pending, context).done())
}

/// Compare-and-set to `assigned` before anything is sent (incidents 13, 53, 70).
pub(super) fn assign(subject: &Subject, to: &AssignTo, context: &Context) -> Decision {
    let task = &subject.task;
    let waits = task.status == Status::Pending && task.run_after.is_none() && task.cancel.is_none();
    let placed = !task.exclusive || task.position.is_some();
    let in_hand = subject.attempt.as_ref().is_some_and(|attempt| attempt.end.is_none());
    if !waits || !placed || in_hand {
        return Decision::refused(Refusal::NotNow(task.status));
    }
    if to.agent.pool != task.pool {
        return Decision::refused(Refusal::OtherPool);
    }
    if !task.is_approved_for_step() {
        return Decision::refused(Refusal::NotApproved);
    }
    // A step that was allowed to start once is never assigned again (protocol B8).
    if task.step_started && !task.current_step().repeatable {
        return Decision::refused(Refusal::NotNow(task.status));
    }
    let mut next = Move::of(subject);
    let number = task.attempts + 1;
    next.attempt = Some(Attempt {
        number,
        step: task.step,
        repeatable: task.current_step().repeatable,
        assignee: Move::assignee_of(to),
        publish_no: 1,
        confirmed: false,
        assigned_at: context.now,
        started_at: None,
        nonce: None,
        revoke: None,
        end: None,
    });
    next.task.attempts = number;
    next.task.assignee = Some(Move::assignee_of(to));
    next.task.holds = task.exclusive;
    Decision::changed(next.enter(Status::Assigned, context).done())
}

/// Wait before an agent is chosen again for an assignment that was returned: the same one may be chosen, and until it has its queue
/// back every try is returned at once.
const RETURNED_DELAY: Duration = Duration::from_secs(1);

/// The agent's queue is gone. Only when no other copy was ever published is it certain that nobody has it (protocol B3).
pub(super) fn returned(subject: &Subject, publish_no: u32, context: &Context) -> Decision {
    let Some(attempt) = subject.attempt.as_ref().filter(|attempt| attempt.end.is_none()) else {
        return Decision::refused(Refusal::Duplicate);
    };
    let only_copy = publish_no == 1 && attempt.publish_no == 1;
    if !only_copy {
        return timers::revoke(subject, RevokeReason::Returned, context);
    }
    if subject.task.status != Status::Assigned {
        return Decision::refused(Refusal::NotNow(subject.task.status));
    }
    let next = Move::of(subject).close(AttemptOutcome::Returned, context);
    if subject.task.cancel.is_some() {
        return Decision::changed(next.enter(Status::Cancelled, context).done());
    }
    Decision::changed(next.requeue(RETURNED_DELAY, context).done())
}

/// Kept beside the other inputs so that a reader finds every way into `assigned` here.
impl From<AssignTo> for Input {
    fn from(to: AssignTo) -> Self {
        Self::Assign(to)
    }
}
