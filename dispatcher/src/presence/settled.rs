//! Up to when has this replica settled whatever the broker handed to it? Pure: the clock is an argument (protocol C1).
//!
//! A report that another replica has in hand, unacked, is in no queue that can be counted. So every replica says up to when it has
//! settled what it was given, and whoever judges asks all of them. What a replica was given it knows by its canaries: one that was
//! sent at some moment came back on the very connection that outcomes take, behind whatever the broker had handed out before.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Most canaries that are remembered between two looks at an empty stream; the oldest say the least.
const HEARD_MAX_COUNT: usize = 64;

/// A canary that came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Heard {
    sent_at: Duration,
    heard_at: Duration,
}

/// What this replica knows of its own hands. Times are durations since any fixed moment, as those of the judge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    heard: VecDeque<Heard>,
    /// Canaries that were sent before this say nothing.
    not_before: Duration,
    through: Option<Duration>,
}

impl Settled {
    /// A canary that was sent at `sent_at` was heard at `heard_at`: what was handed out before it was sent has arrived.
    pub fn canary_heard(&mut self, sent_at: Duration, heard_at: Duration) {
        if sent_at < self.not_before {
            return;
        }
        if self.heard.len() == HEARD_MAX_COUNT {
            self.heard.pop_front();
        }
        self.heard.push_back(Heard { sent_at, heard_at });
    }

    /// The consumer of outcomes found nothing waiting at `at`, and has settled what it took before; `kept` is when the oldest of those
    /// arrived that it keeps for later.
    pub fn emptied(&mut self, at: Duration, kept: Option<Duration>) {
        let until = kept.map_or(at, |kept| kept.min(at));
        while let Some(heard) = self.heard.front().copied().filter(|heard| heard.heard_at < until) {
            self.heard.pop_front();
            self.through = self.through.max(Some(heard.sent_at));
        }
    }

    /// The connection is new: canaries of the old one say nothing about it.
    pub fn hearing_interrupted(&mut self) {
        self.heard.clear();
    }

    /// Outcomes are consumed anew since `at`: what was handed out before is back in their queue.
    pub fn began_anew(&mut self, at: Duration) {
        self.heard.clear();
        self.not_before = at;
    }

    /// Everything that the broker had handed out by then is settled; none while nothing is known.
    #[must_use]
    pub const fn through(&self) -> Option<Duration> {
        self.through
    }
}

/// The same, shared by the consumer of outcomes, by presence, and by this replica's sign of life.
#[derive(Debug, Clone, Default)]
pub struct SharedSettled(Arc<Mutex<Settled>>);

impl SharedSettled {
    /// Changes or reads it.
    pub fn with<T>(&self, act: impl FnOnce(&mut Settled) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_came_before_a_canary_is_settled_once_the_stream_was_empty_after_it() {
        let mut settled = Settled::default();
        settled.emptied(at(1), None);
        assert_eq!(settled.through(), None, "nothing was heard");
        settled.canary_heard(at(2), at(4));
        settled.emptied(at(4), None);
        assert_eq!(settled.through(), None, "it may have been empty before the canary came");
        settled.emptied(at(5), None);
        assert_eq!(settled.through(), Some(at(2)));
    }

    #[test]
    fn a_busy_or_waiting_consumer_says_nothing_new() {
        let mut settled = Settled::default();
        settled.canary_heard(at(1), at(2));
        settled.emptied(at(3), None);
        for n in 4..50 {
            settled.canary_heard(at(n), at(n + 1));
        }
        assert_eq!(settled.through(), Some(at(1)));
    }

    #[test]
    fn what_is_kept_holds_back_everything_that_came_after_it() {
        let mut settled = Settled::default();
        settled.canary_heard(at(1), at(2));
        settled.canary_heard(at(3), at(4));
        settled.emptied(at(9), Some(at(3)));
        assert_eq!(settled.through(), Some(at(1)));
        settled.emptied(at(10), None);
        assert_eq!(settled.through(), Some(at(3)));
    }

    #[test]
    fn canaries_from_before_outcomes_were_consumed_anew_do_not_count() {
        let mut settled = Settled::default();
        settled.canary_heard(at(1), at(2));
        settled.began_anew(at(4));
        settled.canary_heard(at(3), at(5));
        settled.emptied(at(6), None);
        assert_eq!(settled.through(), None);
        settled.canary_heard(at(4), at(7));
        settled.emptied(at(8), None);
        assert_eq!(settled.through(), Some(at(4)));
    }

    #[test]
    fn canaries_of_an_old_connection_do_not_count() {
        let mut settled = Settled::default();
        settled.canary_heard(at(1), at(2));
        settled.hearing_interrupted();
        settled.emptied(at(9), None);
        assert_eq!(settled.through(), None);
    }

    #[test]
    fn canaries_between_two_looks_are_bounded() {
        let mut settled = Settled::default();
        (0..=HEARD_MAX_COUNT as u64).for_each(|n| settled.canary_heard(at(n), at(n)));
        assert_eq!(settled.heard.len(), HEARD_MAX_COUNT);
        settled.emptied(at(1_000), None);
        assert_eq!(settled.through(), Some(at(HEARD_MAX_COUNT as u64)));
    }
}
