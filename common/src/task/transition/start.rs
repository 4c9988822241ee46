//! Starting: the two phases of a non-repeatable step (protocol B7) and the started report of a repeatable one.

use crate::contract::ids::Nonce;
use crate::contract::report::Claim;
use crate::task::model::Subject;
use crate::task::status::Status;

use super::proof::proven;
use super::types::{Context, Decision, Effect, Move, Refusal, Reporter};

/// May a non-repeatable step start? Every ask gets an answer: go for the one nonce that is stored, no-go for all others.
pub(super) fn ask(
    subject: &Subject,
    reporter: &Reporter,
    claim: &Claim,
    nonce: Nonce,
    context: &Context,
) -> Decision {
    let no_go = |refusal: Refusal| {
        let reason = refusal.to_string();
        Decision::refused(refusal).with(Effect::NoGo { nonce, reason })
    };
    let attempt = match proven(subject, reporter, claim) {
        Ok(attempt) => attempt,
        Err(refusal) => return no_go(refusal),
    };
    if let Some(end) = attempt.end {
        return no_go(Refusal::Ended(end.outcome));
    }
    if attempt.repeatable {
        return no_go(Refusal::NeverAllowed);
    }
    match (subject.task.status, attempt.nonce) {
        (Status::Running, Some(granted)) if granted == nonce => {
            Decision::unchanged().with(Effect::Go { nonce })
        }
        (Status::Assigned, None) if attempt.revoke.is_none() && !subject.task.step_started => {
            let mut next = Move::of(subject);
            if let Some(attempt) = &mut next.attempt {
                attempt.nonce = Some(nonce);
                attempt.started_at = Some(context.now);
            }
            next.task.step_started = true;
            Decision::changed(next.enter(Status::Running, context).done()).with(Effect::Go { nonce })
        }
        (status, _) => no_go(Refusal::NotNow(status)),
    }
}

/// A repeatable step runs.
pub(super) fn started(subject: &Subject, reporter: &Reporter, claim: &Claim, context: &Context) -> Decision {
    let attempt = match proven(subject, reporter, claim) {
        Ok(attempt) => attempt,
        Err(refusal) => return Decision::refused(refusal),
    };
    if let Some(end) = attempt.end {
        return Decision::refused(Refusal::Ended(end.outcome));
    }
    if !attempt.repeatable {
        return Decision::refused(Refusal::NeverAllowed);
    }
    if subject.task.status != Status::Assigned {
        return Decision::refused(Refusal::Duplicate);
    }
    let mut next = Move::of(subject);
    if let Some(attempt) = &mut next.attempt {
        attempt.started_at = Some(context.now);
    }
    Decision::changed(next.enter(Status::Running, context).done())
}
