//! What to do after a publish (protocol B2, B3). Pure.

use std::time::Duration;

/// Wait before the first repeat of a publish.
const RESEND_INITIAL: Duration = Duration::from_millis(100);
/// Longest wait between repeats.
const RESEND_MAX: Duration = Duration::from_secs(10);
/// A replica whose own heartbeat row is older than this no longer looks after what it published (protocol B2).
pub const REPLICA_STALE_AFTER: Duration = Duration::from_millis(1_500);
/// An assignment is written to the broker within this time of the moment at which the database made this replica its publisher, or not
/// at all: nobody else takes over a publish that is younger than [`REPLICA_STALE_AFTER`], so whoever writes is still the publisher.
pub const SEND_WITHIN: Duration = Duration::from_secs(1);
/// Confirms are recorded only for attempts that are still open after this time (protocol B2).
pub const CONFIRM_RECORD_AFTER: Duration = Duration::from_secs(1);
/// An own publish that is still unconfirmed after this time, and that the replica does not know of, was forgotten: the answer to its
/// commit was lost. Long enough for one that is only slow.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

/// What the broker said of one assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// It has the message.
    Acked,
    /// No queue took it: the agent's queue is gone.
    Returned,
    /// A queue refused it.
    Nacked,
    /// The connection failed before an answer.
    Unknown,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Remember it, and record the confirm if the attempt is still open later.
    Confirmed,
    /// Tell the transition function, which undoes the assignment or revokes it.
    TellReturned,
    /// Publish again after a wait, with a new number.
    Resend {
        /// The wait.
        after: Duration,
    },
}

/// What follows from the outcome of an assignment and of the parts ahead of it. `tries` counts publishes by this replica, from 1.
///
/// The assignment's own outcome rules: a returned part proves nothing about the assignment behind it, since the agent's queue may
/// have been declared in between.
#[must_use]
pub fn after_publish(assignment: Delivery, parts: &[Delivery], tries: u32, jitter: f64) -> Next {
    match assignment {
        Delivery::Returned => Next::TellReturned,
        Delivery::Acked if parts.iter().all(|part| *part == Delivery::Acked) => Next::Confirmed,
        Delivery::Acked | Delivery::Nacked | Delivery::Unknown => {
            Next::Resend { after: resend_delay(tries, jitter) }
        }
    }
}

/// How long a publish that the database made this replica's `age` ago may still be written; none when it must be claimed anew.
#[must_use]
pub fn may_send_for(age: Duration) -> Option<Duration> {
    SEND_WITHIN.checked_sub(age).filter(|left| !left.is_zero())
}

/// Doubles with each try; the upper half is spread by `jitter` (0 to 1).
#[must_use]
pub fn resend_delay(tries: u32, jitter: f64) -> Duration {
    const DOUBLINGS_MAX: u32 = 16;
    let full = (RESEND_INITIAL * (1 << tries.saturating_sub(1).min(DOUBLINGS_MAX))).min(RESEND_MAX);
    full / 2 + (full / 2).mul_f64(jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_assignments_own_return_undoes_it() {
        assert_eq!(after_publish(Delivery::Returned, &[], 1, 1.0), Next::TellReturned);
        let part_returned = after_publish(Delivery::Acked, &[Delivery::Returned], 1, 1.0);
        assert_eq!(part_returned, Next::Resend { after: RESEND_INITIAL });
        assert_eq!(after_publish(Delivery::Acked, &[Delivery::Acked], 1, 1.0), Next::Confirmed);
    }

    #[test]
    fn a_publish_may_be_written_only_while_nobody_else_can_take_it_over() {
        assert!(SEND_WITHIN < REPLICA_STALE_AFTER);
        assert_eq!(may_send_for(Duration::ZERO), Some(SEND_WITHIN));
        let moment = Duration::from_nanos(1);
        assert_eq!(may_send_for(SEND_WITHIN - moment), Some(moment));
        assert_eq!(may_send_for(SEND_WITHIN), None);
        assert_eq!(may_send_for(Duration::MAX), None);
    }

    #[test]
    fn a_negative_or_lost_confirm_is_repeated_with_growing_waits() {
        for delivery in [Delivery::Nacked, Delivery::Unknown] {
            assert!(matches!(after_publish(delivery, &[], 1, 0.5), Next::Resend { .. }));
        }
        assert_eq!(resend_delay(1, 1.0), RESEND_INITIAL);
        assert_eq!(resend_delay(3, 1.0), RESEND_INITIAL * 4);
        assert_eq!(resend_delay(u32::MAX, 1.0), RESEND_MAX);
    }
}
