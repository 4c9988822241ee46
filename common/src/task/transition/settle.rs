//! Settling: what an outcome makes of its task. Fenced by attempt, agent, session and lease (protocol A5, B4).

use std::time::Duration;

use crate::contract::artifact::Manifest;
use crate::contract::report::{Claim, NotStarted, OutcomeEnd, StoppedBy};
use crate::failure::{Failure, FailureKind};
use crate::task::model::{Approval, Attempt, AttemptOutcome, LatestArtifact, RevokeReason, Subject};
use crate::task::retry_delay::retry_delay;
use crate::task::status::Status;

use super::loss;
use super::proof::proven;
use super::types::{Context, Decision, LossReason, Move, Refusal, Reporter};

/// Wait before another agent is tried when one refused an attempt for a reason that may hold for a moment.
const REFUSED_DELAY: Duration = Duration::from_secs(1);

/// Name of the approver where a task approves itself (protocol F3).
const AUTO_APPROVER: &str = "auto_approve";

/// An attempt has ended, says its agent.
pub(super) fn outcome(
    subject: &Subject,
    reporter: &Reporter,
    claim: &Claim,
    end: &OutcomeEnd,
    context: &Context,
) -> Decision {
    let attempt = match proven(subject, reporter, claim) {
        Ok(attempt) => attempt,
        // Not proven: it changes nothing, and leaves no evidence that a stranger could forge.
        Err(refusal) => return Decision::refused(refusal),
    };
    // Evidence of a failure is kept even when fencing refuses the settle (protocol D2).
    let keep_evidence = |refusal: Refusal| {
        let decision = Decision::refused(refusal);
        match end.failure() {
            Some(failure) => decision.with_letter(failure.clone().bounded(), true),
            None => decision,
        }
    };
    let reported = stored_outcome(end);
    if let Some(ended) = attempt.end {
        let refusal =
            if ended.outcome == reported { Refusal::Duplicate } else { Refusal::Ended(ended.outcome) };
        return keep_evidence(refusal);
    }
    if subject.task.status.is_terminal() {
        return keep_evidence(Refusal::Terminal(subject.task.status));
    }
    let never_allowed = !attempt.repeatable && subject.task.status == Status::Assigned;
    if never_allowed && reported != AttemptOutcome::NotStarted {
        return keep_evidence(Refusal::NeverAllowed);
    }
    settle(subject, attempt, end, context)
}

fn settle(subject: &Subject, attempt: &Attempt, end: &OutcomeEnd, context: &Context) -> Decision {
    let next = Move::of(subject).close(stored_outcome(end), context);
    match end {
        OutcomeEnd::Succeeded { changes, artifacts, .. } => {
            succeeded(next, attempt, *changes, artifacts, context)
        }
        OutcomeEnd::Failed { failure }
        | OutcomeEnd::Panicked { failure }
        | OutcomeEnd::TimedOut { failure } => failed(next, attempt, failure, context),
        OutcomeEnd::Cancelled { by } => stopped(next, attempt, *by, context),
        // This session does not know what the one before it did with the attempt: it may have run (protocol B8, B9).
        OutcomeEnd::NotStarted { reason: NotStarted::OtherSession } => {
            loss::session_ended(subject, attempt.assignee.session, LossReason::Superseded, context)
        }
        OutcomeEnd::NotStarted { reason: NotStarted::OutcomeForgotten } => {
            loss::session_ended(subject, attempt.assignee.session, LossReason::OutcomeLost, context)
        }
        OutcomeEnd::NotStarted { reason } => not_started(next, attempt, *reason, context),
    }
}

fn succeeded(
    mut next: Move,
    attempt: &Attempt,
    changes: bool,
    artifacts: &Manifest,
    context: &Context,
) -> Decision {
    let digest = artifacts.digest();
    let keeps_older = artifacts.0.is_empty() && next.task.artifact.is_some();
    if !keeps_older {
        next.task.artifact = Some(LatestArtifact { attempt: attempt.number, digest: digest.clone() });
    }
    next.task.failure = None;
    let last = next.task.step + 1 >= next.task.steps.len();
    if last || !changes {
        return Decision::changed(next.enter(Status::Succeeded, context).done());
    }
    // Success wins over a cancel, but nothing further is started.
    if next.task.cancel.is_some() {
        return Decision::changed(next.enter(Status::Cancelled, context).done());
    }
    next.task.step += 1;
    next.task.charge = 0;
    next.task.losses = 0;
    next.task.step_started = false;
    next.task.approval = None;
    next.task.run_after = None;
    if !next.task.current_step().approval {
        return Decision::changed(next.enter(Status::Pending, context).done());
    }
    if next.task.auto_approve {
        let bound = next.task.artifact.as_ref().map_or(digest, |artifact| artifact.digest.clone());
        next.task.approval = Some(Approval {
            step: next.task.step,
            digest: bound,
            by: AUTO_APPROVER.to_owned(),
            at: context.now,
        });
        return Decision::changed(next.enter(Status::Pending, context).done());
    }
    Decision::changed(next.enter(Status::AwaitingApproval, context).done())
}

fn failed(mut next: Move, attempt: &Attempt, failure: &Failure, context: &Context) -> Decision {
    let failure = failure.clone().bounded();
    next.task.failure = Some((failure.kind, failure.message.clone()));
    let decide = |next: Move| {
        if next.task.cancel.is_some() {
            return next.enter(Status::Cancelled, context);
        }
        if let Some(kind) = revoked_to_failure(attempt) {
            return next.fail(kind, &failure.message, context);
        }
        // Once started, a non-repeatable step is never retried (protocol B8).
        if !attempt.repeatable {
            return next.fail(failure.kind, &failure.message, context);
        }
        charge(next, &failure, context)
    };
    let decision = Decision::changed(decide(next).done());
    decision.with_letter(failure, true)
}

/// Counts a try against the step's limit: another one later, or the end of the task.
fn charge(mut next: Move, failure: &Failure, context: &Context) -> Move {
    next.task.failure = Some((failure.kind, failure.message.clone()));
    next.task.charge += 1;
    let policy = next.task.current_step().policy;
    if next.task.charge >= policy.max_attempts {
        return next.fail(failure.kind, &failure.message, context);
    }
    let delay = retry_delay(&policy, next.task.charge, context.jitter);
    next.requeue(delay, context)
}

/// The handler ran and was stopped from outside.
fn stopped(next: Move, attempt: &Attempt, by: StoppedBy, context: &Context) -> Decision {
    if next.task.cancel.is_some() {
        return Decision::changed(next.enter(Status::Cancelled, context).done());
    }
    if let Some(kind) = revoked_to_failure(attempt) {
        let message = "the handler was stopped because the task's deadline passed";
        return Decision::changed(next.fail(kind, message, context).done())
            .with_letter(Failure::new(kind, message), false);
    }
    if attempt.revoke.is_some_and(|revoke| revoke.reason == RevokeReason::RunTimeout) {
        return overran(next, attempt, context);
    }
    if !attempt.repeatable {
        let message = match by {
            StoppedBy::Drain => {
                "the agent shut down and killed a non-repeatable step at the end of its grace period"
            }
            StoppedBy::Dispatcher => "a non-repeatable step was stopped while it ran",
            StoppedBy::Silence => "the agent fell silent and stopped a non-repeatable step",
        };
        let kind = FailureKind::Interrupted;
        return Decision::changed(next.fail(kind, message, context).done())
            .with_letter(Failure::new(kind, message), false);
    }
    // Uncharged: the work did nothing wrong (protocol C6).
    Decision::changed(next.requeue(Duration::ZERO, context).done())
}

/// The agent did not stop the handler at its run timeout, so the dispatcher had it stopped: the same as the agent's `timed_out`.
fn overran(next: Move, attempt: &Attempt, context: &Context) -> Decision {
    let kind = FailureKind::RunTimeout;
    let failure =
        Failure::new(kind, "the handler ran past its run timeout until the dispatcher had it stopped");
    let next = if attempt.repeatable {
        charge(next, &failure, context)
    } else {
        next.fail(kind, &failure.message, context)
    };
    Decision::changed(next.done()).with_letter(failure, false)
}

/// The handler never started, so the step may be given to anyone.
fn not_started(mut next: Move, attempt: &Attempt, reason: NotStarted, context: &Context) -> Decision {
    // The agent that was allowed to start says that it did not, and its tombstone keeps it from ever doing so.
    next.task.step_started = false;
    if next.task.cancel.is_some() {
        return Decision::changed(next.enter(Status::Cancelled, context).done());
    }
    if attempt.revoke.is_some_and(|revoke| revoke.reason == RevokeReason::Deadline) {
        let message = "the deadline passed before the step started";
        return Decision::changed(next.fail(FailureKind::Deadline, message, context).done())
            .with_letter(Failure::new(FailureKind::Deadline, message), false);
    }
    if reason == NotStarted::Inputs {
        // A missing input is a failed try, never a default (incident 65); else wrong bytes would be sent for ever.
        let message = "the input artifacts did not reach the agent, or do not match what was approved";
        let failure = Failure::new(FailureKind::InputsMissing, message);
        return Decision::changed(charge(next, &failure, context).done()).with_letter(failure, false);
    }
    let delay = match reason {
        NotStarted::OtherSession
        | NotStarted::Draining
        | NotStarted::Revoked
        | NotStarted::Silence
        | NotStarted::OutcomeForgotten => Duration::ZERO,
        NotStarted::NoGo | NotStarted::Inputs | NotStarted::NoHandler => REFUSED_DELAY,
    };
    Decision::changed(next.requeue(delay, context).done())
}

/// The failure that the reason of a revoke makes of any end of its attempt but success.
pub(super) fn revoked_to_failure(attempt: &Attempt) -> Option<FailureKind> {
    match attempt.revoke?.reason {
        RevokeReason::Deadline => Some(FailureKind::Deadline),
        RevokeReason::Cancel
        | RevokeReason::RunTimeout
        | RevokeReason::StartTimeout
        | RevokeReason::Returned
        | RevokeReason::NotListed
        | RevokeReason::BrokerLetter
        | RevokeReason::PoolRevoked => None,
    }
}

const fn stored_outcome(end: &OutcomeEnd) -> AttemptOutcome {
    match end {
        OutcomeEnd::Succeeded { .. } => AttemptOutcome::Succeeded,
        OutcomeEnd::Failed { .. } => AttemptOutcome::Failed,
        OutcomeEnd::Panicked { .. } => AttemptOutcome::Panicked,
        OutcomeEnd::TimedOut { .. } => AttemptOutcome::TimedOut,
        OutcomeEnd::Cancelled { .. } => AttemptOutcome::Cancelled,
        OutcomeEnd::NotStarted { .. } => AttemptOutcome::NotStarted,
    }
}
