//! What a refused report means to an operator: a word to count it by, and how loudly it is logged. Pure.

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

#[cfg(test)]
mod tests {
    use switchyard_common::task::{AttemptOutcome, Status};

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
}
