//! What a refused report means to an operator: a word to count it by, and how loudly it is logged. Pure.

use switchyard_common::contract::report::{Claim, OutcomeEnd};
use switchyard_common::failure::{Failure, FailureKind};
use switchyard_common::task::Refusal;

/// How loudly a refusal is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loudness {
    /// A copy of what was settled before: expected with an at-least-once broker.
    Benign,
    /// Late, foreign or forged: it changed nothing, and somebody may want to know.
    Suspicious,
    /// Something ran that was never allowed to.
    Alarm,
}

/// The word that a refusal is counted by: a small closed set.
#[must_use]
pub const fn word(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::UnknownAttempt => "unknown_attempt",
        Refusal::ForeignAgent => "foreign_agent",
        Refusal::WrongToken => "wrong_token",
        Refusal::OtherSession => "other_session",
        Refusal::PoolRevoked => "pool_revoked",
        Refusal::StaleEpoch => "stale_epoch",
        Refusal::Ended(_) => "ended",
        Refusal::Duplicate => "duplicate",
        Refusal::Terminal(_) => "terminal",
        Refusal::NeverAllowed => "never_allowed",
        Refusal::OtherPool => "other_pool",
        Refusal::NeedsForce => "needs_force",
        Refusal::Uncertain => "uncertain",
        Refusal::NotNow(_) => "not_now",
        Refusal::DigestMismatch { .. }
        | Refusal::NotAwaitingApproval { .. }
        | Refusal::AlreadyApproved { .. }
        | Refusal::AlreadyCancelled { .. }
        | Refusal::NotUncertain { .. }
        | Refusal::SessionMayLive
        | Refusal::NotApproved => "not_for_a_report",
    }
}

/// How loudly it is logged.
#[must_use]
pub const fn loudness(refusal: &Refusal) -> Loudness {
    match refusal {
        Refusal::Duplicate => Loudness::Benign,
        Refusal::NeverAllowed => Loudness::Alarm,
        Refusal::UnknownAttempt
        | Refusal::ForeignAgent
        | Refusal::WrongToken
        | Refusal::OtherSession
        | Refusal::PoolRevoked
        | Refusal::StaleEpoch
        | Refusal::Ended(_)
        | Refusal::Terminal(_)
        | Refusal::OtherPool
        | Refusal::NeedsForce
        | Refusal::Uncertain
        | Refusal::NotNow(_)
        | Refusal::DigestMismatch { .. }
        | Refusal::NotAwaitingApproval { .. }
        | Refusal::AlreadyApproved { .. }
        | Refusal::AlreadyCancelled { .. }
        | Refusal::NotUncertain { .. }
        | Refusal::SessionMayLive
        | Refusal::NotApproved => Loudness::Suspicious,
    }
}

/// Whether the report was proven to come from the attempt's own agent and session, so that a note of it in the task's timeline
/// cannot be forged.
#[must_use]
pub const fn is_proven(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::Ended(_)
        | Refusal::Duplicate
        | Refusal::Terminal(_)
        | Refusal::NeverAllowed
        | Refusal::NeedsForce
        | Refusal::Uncertain
        | Refusal::NotNow(_) => true,
        Refusal::UnknownAttempt
        | Refusal::ForeignAgent
        | Refusal::WrongToken
        | Refusal::OtherSession
        | Refusal::PoolRevoked
        | Refusal::StaleEpoch
        | Refusal::OtherPool
        | Refusal::DigestMismatch { .. }
        | Refusal::NotAwaitingApproval { .. }
        | Refusal::AlreadyApproved { .. }
        | Refusal::AlreadyCancelled { .. }
        | Refusal::NotUncertain { .. }
        | Refusal::SessionMayLive
        | Refusal::NotApproved => false,
    }
}

/// The failure of a report that nobody who was given the attempt can have sent; none where the refusal has another cause. Such a
/// report has a dead letter of its own: it must not touch the attempt's, which a stranger could fill otherwise.
#[must_use]
pub fn forged(refusal: &Refusal, claim: &Claim) -> Option<Failure> {
    match refusal {
        Refusal::UnknownAttempt | Refusal::ForeignAgent | Refusal::WrongToken | Refusal::OtherSession => {
            Some(failure(FailureKind::MalformedReport, claim, refusal))
        }
        Refusal::PoolRevoked
        | Refusal::StaleEpoch
        | Refusal::Ended(_)
        | Refusal::Duplicate
        | Refusal::Terminal(_)
        | Refusal::NeverAllowed
        | Refusal::OtherPool
        | Refusal::NeedsForce
        | Refusal::Uncertain
        | Refusal::NotNow(_)
        | Refusal::DigestMismatch { .. }
        | Refusal::NotAwaitingApproval { .. }
        | Refusal::AlreadyApproved { .. }
        | Refusal::AlreadyCancelled { .. }
        | Refusal::NotUncertain { .. }
        | Refusal::SessionMayLive
        | Refusal::NotApproved => None,
    }
}

/// The failure of an outcome that came too late or out of turn: forged, or a success that the task could not use. A failure that came
/// too late is evidence in the attempt's own letter, and an attempt that never started has nothing to tell.
#[must_use]
pub fn unusable(refusal: &Refusal, claim: &Claim, end: &OutcomeEnd) -> Option<Failure> {
    if let Some(failure) = forged(refusal, claim) {
        return Some(failure);
    }
    let succeeded = matches!(end, OutcomeEnd::Succeeded { .. });
    let late = matches!(refusal, Refusal::Ended(_) | Refusal::Terminal(_) | Refusal::NeverAllowed);
    (succeeded && late).then(|| failure(FailureKind::RejectedTransition, claim, refusal))
}

fn failure(kind: FailureKind, claim: &Claim, refusal: &Refusal) -> Failure {
    let message = format!(
        "a report for task {}, attempt {} changed nothing: {refusal}; look at the task to see what became of it",
        claim.task_id, claim.attempt
    );
    Failure::new(kind, message)
}

#[cfg(test)]
mod tests {
    use switchyard_common::contract::ids::{LeaseToken, SessionId, TaskId};
    use switchyard_common::contract::report::NotStarted;
    use switchyard_common::task::{AttemptOutcome, Status};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn copies_are_quiet_and_a_start_without_permission_is_an_alarm() {
        assert_eq!(loudness(&Refusal::Duplicate), Loudness::Benign);
        assert_eq!(loudness(&Refusal::NeverAllowed), Loudness::Alarm);
        assert_eq!(loudness(&Refusal::Terminal(Status::Failed)), Loudness::Suspicious);
    }

    #[test]
    fn only_what_the_attempts_own_agent_said_may_be_noted() {
        assert!(is_proven(&Refusal::Ended(AttemptOutcome::Lost)));
        for forged in
            [Refusal::WrongToken, Refusal::ForeignAgent, Refusal::OtherSession, Refusal::UnknownAttempt]
        {
            assert!(!is_proven(&forged), "{forged}");
        }
    }

    #[test]
    fn a_forged_report_and_a_success_that_came_too_late_are_bad_input_and_an_ordinary_race_is_not() {
        let claim = Claim {
            task_id: TaskId::new("t").unwrap(),
            attempt: 1,
            session: SessionId(Uuid::nil()),
            lease: LeaseToken(Uuid::nil()),
        };
        let done = OutcomeEnd::Succeeded {
            changes: true,
            artifacts: switchyard_common::contract::artifact::Manifest::default(),
            result: None,
        };
        let never = OutcomeEnd::NotStarted { reason: NotStarted::Revoked };
        let kind =
            |refusal: &Refusal, end: &OutcomeEnd| unusable(refusal, &claim, end).map(|failure| failure.kind);
        for forged in
            [Refusal::WrongToken, Refusal::ForeignAgent, Refusal::OtherSession, Refusal::UnknownAttempt]
        {
            assert_eq!(kind(&forged, &never), Some(FailureKind::MalformedReport));
        }
        let ended = Refusal::Ended(AttemptOutcome::Lost);
        assert_eq!(kind(&ended, &done), Some(FailureKind::RejectedTransition));
        assert_eq!(kind(&Refusal::Terminal(Status::Failed), &done), Some(FailureKind::RejectedTransition));
        assert_eq!(kind(&ended, &never), None, "it only says that it obeyed");
        assert_eq!(kind(&Refusal::Duplicate, &done), None);
        assert_eq!(kind(&Refusal::PoolRevoked, &done), None);
    }
}
