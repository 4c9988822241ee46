//! What people ask for: approve, discard, cancel, resolve, retry now.

use crate::contract::ids::Digest;
use crate::failure::FailureKind;
use crate::task::model::{Approval, AttemptOutcome, CancelRequest, RevokeReason, Subject};
use crate::task::status::Status;

use super::timers;
use super::types::{Context, Decision, Move, Refusal, ResolveTo, Verdict};

/// Binds an approval to the bytes that wait (protocol F).
pub(super) fn approve(subject: &Subject, by: &str, digest: Option<&Digest>, context: &Context) -> Decision {
    let task = &subject.task;
    if task.status.is_terminal() {
        return Decision::refused(Refusal::Terminal(task.status));
    }
    if let Some(approval) = &task.approval {
        return Decision::refused(Refusal::AlreadyApproved { by: approval.by.clone() });
    }
    if task.status != Status::AwaitingApproval {
        return Decision::refused(Refusal::NotAwaitingApproval { status: task.status });
    }
    let Some(artifact) = &task.artifact else {
        return Decision::refused(Refusal::NotAwaitingApproval { status: task.status });
    };
    if digest.is_some_and(|given| *given != artifact.digest) {
        return Decision::refused(Refusal::DigestMismatch { current: artifact.digest.clone() });
    }
    let mut next = Move::of(subject);
    next.task.approval = Some(Approval {
        step: task.step,
        digest: artifact.digest.clone(),
        by: by.to_owned(),
        at: context.now,
    });
    next.task.run_after = None;
    Decision::changed(next.enter(Status::Pending, context).done())
}

/// Ends a task that waits for approval.
pub(super) fn discard(subject: &Subject, by: &str, context: &Context) -> Decision {
    let status = subject.task.status;
    if status.is_terminal() {
        return Decision::refused(Refusal::Terminal(status));
    }
    if status != Status::AwaitingApproval {
        return Decision::refused(Refusal::NotAwaitingApproval { status });
    }
    let mut next = Move::of(subject);
    next.task.cancel = Some(CancelRequest { at: context.now, by: by.to_owned(), force: false });
    Decision::changed(next.enter(Status::Cancelled, context).done())
}

/// Cancels: at once where nobody has the task in hand, else by asking its agent (incident 37).
pub(super) fn cancel(subject: &Subject, by: &str, force: bool, context: &Context) -> Decision {
    let task = &subject.task;
    if task.status.is_terminal() {
        return Decision::refused(Refusal::Terminal(task.status));
    }
    if let Some(earlier) = task.cancel.as_ref().filter(|earlier| earlier.force || !force) {
        return Decision::refused(Refusal::AlreadyCancelled { by: earlier.by.clone() });
    }
    let mut next = Move::of(subject);
    next.task.cancel = Some(CancelRequest { at: context.now, by: by.to_owned(), force });
    match task.status {
        Status::Blocked | Status::Pending | Status::AwaitingApproval => {
            Decision::changed(next.enter(Status::Cancelled, context).done())
        }
        Status::Running if !task.current_step().repeatable && !force => {
            Decision::refused(Refusal::NeedsForce)
        }
        Status::Assigned | Status::Running => {
            let asked = Subject { task: next.task, attempt: next.attempt };
            let decision = timers::revoke(&asked, RevokeReason::Cancel, context);
            match decision.verdict {
                Verdict::Changed(_) => decision,
                // A revoke is on its way already: the request itself must still be written.
                Verdict::Unchanged | Verdict::Refused(_) => Decision::changed(Move::of(&asked).done()),
            }
        }
        Status::Uncertain => Decision::refused(Refusal::Uncertain),
        status @ (Status::Succeeded | Status::Failed | Status::Cancelled) => {
            Decision::refused(Refusal::Terminal(status))
        }
    }
}

/// Ends an uncertain task by an operator's word (protocol H).
pub(super) fn resolve(
    subject: &Subject,
    by: &str,
    to: ResolveTo,
    session_over: bool,
    override_reason: Option<&str>,
    context: &Context,
) -> Decision {
    let status = subject.task.status;
    if status != Status::Uncertain {
        return Decision::refused(Refusal::NotUncertain { status });
    }
    if !session_over && override_reason.is_none_or(str::is_empty) {
        return Decision::refused(Refusal::SessionMayLive);
    }
    let next = Move::of(subject).close(AttemptOutcome::Resolved, context);
    Decision::changed(match to {
        ResolveTo::Succeeded => {
            let mut next = next;
            next.task.failure = None;
            next.enter(Status::Succeeded, context).done()
        }
        ResolveTo::Failed => {
            next.fail(FailureKind::AgentLost, &format!("resolved to failed by {by}"), context).done()
        }
    })
}

/// Ends the wait before the next try, or before `not_before`.
pub(super) fn retry_now(subject: &Subject, context: &Context) -> Decision {
    let task = &subject.task;
    if task.status != Status::Pending || task.run_after.is_none() {
        return Decision::refused(Refusal::NotNow(task.status));
    }
    let mut next = Move::of(subject);
    // The sweep that finds what is due takes it from here, so that an exclusive task gets its place under the lock.
    next.task.run_after = Some(context.now);
    Decision::changed(next.done())
}
