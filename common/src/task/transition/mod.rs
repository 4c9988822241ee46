//! The one transition function: what an input makes of a task and its attempt.
//!
//! One file per family of inputs: [`assign`] (schedule and route), [`start`] (asks and started reports), [`settle`] (outcomes),
//! [`loss`] (ends of sessions), [`timers`] (deadlines, timeouts, revokes), [`people`] (approve, discard, cancel, resolve).

mod assign;
mod loss;
mod people;
mod proof;
mod settle;
mod start;
mod timers;
mod types;

#[cfg(test)]
mod tests;

pub use proof::prove;
pub use types::{
    AssignTo, Context, Decision, Effect, Input, LossReason, Refusal, Reporter, ResolveTo, Verdict,
};

use super::model::Subject;

/// Decides what `input` makes of `subject`. Pure: the caller holds the row locks, writes the result and carries out the effects
/// after its commit.
#[must_use]
pub fn transition(subject: &Subject, input: &Input, context: &Context) -> Decision {
    // A transaction that began first and then waited for the row has an older time than what it finds there.
    let context = &Context { now: context.now.max(subject.task.since), ..*context };
    match input {
        Input::Due { place } => assign::due(subject, *place, context),
        Input::Promote => assign::promote(subject, context),
        Input::Assign(to) => assign::assign(subject, to, context),
        Input::Returned { publish_no } => assign::returned(subject, *publish_no, context),
        Input::Ask { reporter, claim, nonce } => start::ask(subject, reporter, claim, *nonce, context),
        Input::Started { reporter, claim } => start::started(subject, reporter, claim, context),
        Input::Outcome { reporter, claim, end } => settle::outcome(subject, reporter, claim, end, context),
        Input::SessionEnded { session, reason } => loss::session_ended(subject, *session, *reason, context),
        Input::NotListed => loss::not_listed(subject, context),
        Input::Revoke { reason } => timers::revoke(subject, *reason, context),
        Input::DeadlinePassed => timers::deadline_passed(subject, context),
        Input::QueueTimeout => timers::queue_timeout(subject, context),
        Input::ApprovalExpired => timers::approval_expired(subject, context),
        Input::Approve { by, digest } => people::approve(subject, by, digest.as_ref(), context),
        Input::Discard { by } => people::discard(subject, by, context),
        Input::Cancel { by, force } => people::cancel(subject, by, *force, context),
        Input::Resolve { by, to, session_over, override_reason } => {
            people::resolve(subject, by, *to, *session_over, override_reason.as_deref(), context)
        }
        Input::RetryNow => people::retry_now(subject, context),
    }
}
