//! Time and doubt: deadlines, timeouts, and the durable request to stop an attempt (protocol B4).

use std::time::Duration;

use crate::failure::{Failure, FailureKind};
use crate::task::model::{AttemptOutcome, Revoke, RevokeReason, Subject};
use crate::task::status::Status;

use super::types::{Context, Decision, Effect, Move, Refusal};

/// Asks for the open attempt to end. A sent attempt ends only by its agent's answer or the end of its session; the exception is a
/// non-repeatable attempt that was never allowed to start: it is closed at once, because its ask will be refused.
pub(super) fn revoke(subject: &Subject, reason: RevokeReason, context: &Context) -> Decision {
    let task = &subject.task;
    let Some(attempt) = subject.attempt.as_ref().filter(|attempt| attempt.end.is_none()) else {
        return Decision::refused(Refusal::NotNow(task.status));
    };
    let force = match reason {
        RevokeReason::Cancel => task.cancel.as_ref().is_some_and(|cancel| cancel.force),
        RevokeReason::Deadline | RevokeReason::RunTimeout | RevokeReason::PoolRevoked => true,
        RevokeReason::StartTimeout
        | RevokeReason::Returned
        | RevokeReason::NotListed
        | RevokeReason::BrokerLetter => false,
    };
    match task.status {
        Status::Assigned if !attempt.repeatable => withdraw(subject, reason, context),
        // Only recorded (protocol D3): without force its agent would not stop it, so the request would never be answered.
        Status::Running if !(attempt.repeatable || force) => Decision::refused(Refusal::NeedsForce),
        Status::Assigned | Status::Running => {
            // The first reason stays, unless this one may also stop what the first may not.
            if attempt.revoke.is_some_and(|revoke| revoke.force || !force) {
                return Decision::refused(Refusal::Duplicate);
            }
            let mut next = Move::of(subject);
            if let Some(attempt) = &mut next.attempt {
                attempt.revoke = Some(Revoke { reason, at: context.now, force });
            }
            Decision::changed(next.done()).with(Effect::SendRevoke)
        }
        Status::Uncertain => Decision::refused(Refusal::Uncertain),
        Status::Blocked
        | Status::Pending
        | Status::AwaitingApproval
        | Status::Succeeded
        | Status::Failed
        | Status::Cancelled => Decision::refused(Refusal::NotNow(task.status)),
    }
}

/// Closes a non-repeatable attempt that was never allowed to start. The agent is told all the same, so that it forgets it.
fn withdraw(subject: &Subject, reason: RevokeReason, context: &Context) -> Decision {
    let mut next = Move::of(subject).close(AttemptOutcome::Withdrawn, context);
    if let Some(attempt) = &mut next.attempt {
        attempt.revoke = Some(Revoke { reason, at: context.now, force: false });
    }
    let decision = if next.task.cancel.is_some() {
        Decision::changed(next.enter(Status::Cancelled, context).done())
    } else if reason == RevokeReason::Deadline {
        let message = "the deadline passed before the step started";
        Decision::changed(next.fail(FailureKind::Deadline, message, context).done())
            .with_letter(Failure::new(FailureKind::Deadline, message), false)
    } else {
        Decision::changed(next.requeue(Duration::ZERO, context).done())
    };
    decision.with(Effect::SendRevoke)
}

/// The deadline passed: what waits fails, what runs is stopped (protocol H).
pub(super) fn deadline_passed(subject: &Subject, context: &Context) -> Decision {
    match subject.task.status {
        Status::Blocked | Status::Pending | Status::AwaitingApproval => {
            expire(subject, FailureKind::Deadline, "the deadline passed before the task could run", context)
        }
        Status::Assigned | Status::Running => revoke(subject, RevokeReason::Deadline, context),
        Status::Uncertain => Decision::refused(Refusal::Uncertain),
        status @ (Status::Succeeded | Status::Failed | Status::Cancelled) => {
            Decision::refused(Refusal::Terminal(status))
        }
    }
}

/// The step waited too long for an agent.
pub(super) fn queue_timeout(subject: &Subject, context: &Context) -> Decision {
    // A task that waits for its time does not wait for an agent.
    if subject.task.status != Status::Pending || subject.task.run_after.is_some() {
        return Decision::refused(Refusal::NotNow(subject.task.status));
    }
    expire(subject, FailureKind::QueueTimeout, "no agent took the step within its queue timeout", context)
}

/// The step waited too long for an approval.
pub(super) fn approval_expired(subject: &Subject, context: &Context) -> Decision {
    if subject.task.status != Status::AwaitingApproval {
        return Decision::refused(Refusal::NotNow(subject.task.status));
    }
    expire(subject, FailureKind::ApprovalExpired, "the approval was not given in time", context)
}

fn expire(subject: &Subject, kind: FailureKind, message: &str, context: &Context) -> Decision {
    Decision::changed(Move::of(subject).fail(kind, message, context).done())
        .with_letter(Failure::new(kind, message), false)
}
