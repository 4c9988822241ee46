//! Losing an agent: what becomes of its attempts (design 7, protocol B9, C2).

use std::time::Duration;

use crate::contract::ids::SessionId;
use crate::failure::{Failure, FailureKind};
use crate::task::model::{Attempt, AttemptOutcome, RevokeReason, Subject};
use crate::task::retry_delay::retry_delay;
use crate::task::status::Status;

use super::timers;
use super::types::{Context, Decision, LossReason, Move, Refusal};

/// The session of the attempt has ended: nobody will report for it any more, save an outcome that is already on its way.
pub(super) fn session_ended(
    subject: &Subject,
    session: SessionId,
    reason: LossReason,
    context: &Context,
) -> Decision {
    let Some(attempt) = subject.attempt.as_ref().filter(|attempt| attempt.end.is_none()) else {
        return Decision::refused(Refusal::Duplicate);
    };
    if attempt.assignee.session != session {
        return Decision::refused(Refusal::OtherSession);
    }
    if subject.task.status == Status::Uncertain {
        return Decision::refused(Refusal::Uncertain);
    }
    if !attempt.repeatable && subject.task.status == Status::Running {
        return uncertain(subject, attempt, &describe(attempt, reason), context);
    }
    lost(subject, attempt, &describe(attempt, reason), context)
}

/// Two heartbeats sent after the confirmation of an attempt do not list it.
pub(super) fn not_listed(subject: &Subject, context: &Context) -> Decision {
    let Some(attempt) = subject.attempt.as_ref().filter(|attempt| attempt.end.is_none()) else {
        return Decision::refused(Refusal::Duplicate);
    };
    if subject.task.status == Status::Uncertain {
        return Decision::refused(Refusal::Uncertain);
    }
    if !attempt.repeatable && subject.task.status == Status::Running {
        let message = format!(
            "agent {} no longer lists the attempt that it was allowed to start",
            attempt.assignee.agent
        );
        return uncertain(subject, attempt, &message, context);
    }
    timers::revoke(subject, RevokeReason::NotListed, context)
}

/// Never rerun by itself; keeps its workspace and its assignee; a late outcome or an operator resolves it (incident 73).
fn uncertain(subject: &Subject, attempt: &Attempt, message: &str, context: &Context) -> Decision {
    let mut next = Move::of(subject);
    next.task.failure = Some((FailureKind::AgentLost, message.to_owned()));
    debug_assert!(attempt.started_at.is_some());
    Decision::changed(next.enter(Status::Uncertain, context).done())
        .with_letter(Failure::new(FailureKind::AgentLost, message), false)
}

/// The attempt is over and proves nothing about the work: another agent gets it, up to the limit of losses.
fn lost(subject: &Subject, attempt: &Attempt, message: &str, context: &Context) -> Decision {
    let mut next = Move::of(subject).close(AttemptOutcome::Lost, context);
    if next.task.cancel.is_some() {
        return Decision::changed(next.enter(Status::Cancelled, context).done());
    }
    if let Some(kind) = super::settle::revoked_to_failure(attempt) {
        return Decision::changed(next.fail(kind, message, context).done())
            .with_letter(Failure::new(kind, message), false);
    }
    let may_have_run = attempt.started_at.is_some() || (attempt.repeatable && attempt.confirmed);
    if !may_have_run {
        return Decision::changed(next.requeue(Duration::ZERO, context).done());
    }
    let letter = Failure::new(FailureKind::AgentLost, message);
    next.task.losses += 1;
    next.task.failure = Some((FailureKind::AgentLost, message.to_owned()));
    if attempt.started_at.is_some() {
        next.task.charge += 1;
    }
    let policy = next.task.current_step().policy;
    if next.task.losses >= context.losses_max || next.task.charge >= policy.max_attempts {
        return Decision::changed(next.fail(FailureKind::AgentLost, message, context).done())
            .with_letter(letter, false);
    }
    let delay = if attempt.started_at.is_some() {
        retry_delay(&policy, next.task.charge, context.jitter)
    } else {
        Duration::ZERO
    };
    Decision::changed(next.requeue(delay, context).done()).with_letter(letter, false)
}

fn describe(attempt: &Attempt, reason: LossReason) -> String {
    let who = &attempt.assignee.agent;
    let what = match reason {
        LossReason::Silent => "was silent for longer than the lost-timeout",
        LossReason::Superseded => "started anew, which ended the session that had this attempt",
        LossReason::PoolRevoked => "belongs to a pool whose grant was revoked",
        LossReason::Fenced => "had this attempt before a restore",
        LossReason::OutcomeLost => {
            "reported an outcome that the broker confirmed and lost, and keeps it no longer"
        }
    };
    let then = if attempt.started_at.is_some() {
        "the handler was running"
    } else {
        "the handler had not been reported as running"
    };
    format!("agent {who} {what}; {then}")
}
