//! Were all outcomes settled at some moment? Pure: clocks are arguments (protocol C1).
//!
//! The queue was seen empty; and every replica has settled what it was handed up to that moment and a little beyond, for what was on
//! its way. A replica that is gone has handed everything back to the queue, so only later looks count for it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

/// What the broker hands out arrives within this time after the queue was seen empty; less where the lost-timeout is short.
pub const ON_ITS_WAY_MAX: Duration = Duration::from_millis(500);
/// Looks at an empty queue that wait to be confirmed; the oldest are given up.
const LOOKS_MAX_COUNT: usize = 64;

/// A look at the queue that found nothing ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmptyLook {
    /// When the broker was asked.
    pub asked_at: Duration,
    /// When it had answered.
    pub answered_at: Duration,
    /// The database's time after that.
    pub by_database: DateTime<Utc>,
}

/// What is known of another replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherReplica {
    /// Which.
    pub replica: Uuid,
    /// Up to when it has settled what it was handed, by the database clock; none while it does not know.
    pub settled_through: Option<DateTime<Utc>>,
    /// It has no connection to the broker.
    pub is_gone: bool,
}

/// Looks, and the newest that is confirmed.
#[derive(Debug, Clone)]
pub struct Drained {
    margin: Duration,
    looks: VecDeque<EmptyLook>,
    gone_since: BTreeMap<Uuid, Duration>,
    at: Option<Duration>,
}

impl Drained {
    /// Nothing was looked at yet. `margin`: within which what is on its way arrives.
    #[must_use]
    pub const fn new(margin: Duration) -> Self {
        Self { margin, looks: VecDeque::new(), gone_since: BTreeMap::new(), at: None }
    }

    /// The queue was seen empty.
    pub fn looked(&mut self, look: EmptyLook) {
        if self.looks.len() == LOOKS_MAX_COUNT {
            self.looks.pop_front();
        }
        self.looks.push_back(look);
    }

    /// What the replicas say at `now`: this one, and all the others.
    pub fn told(&mut self, now: Duration, own: Option<Duration>, others: &[OtherReplica]) {
        let was_gone = std::mem::take(&mut self.gone_since);
        for other in others.iter().filter(|other| other.is_gone) {
            let since = was_gone.get(&other.replica).copied().unwrap_or(now);
            self.gone_since.insert(other.replica, since);
        }
        let confirmed = self.looks.iter().rposition(|look| self.is_confirmed(look, own, others));
        if let Some(place) = confirmed {
            self.at = self.looks.drain(..=place).next_back().map(|look| look.asked_at);
        }
    }

    fn is_confirmed(&self, look: &EmptyLook, own: Option<Duration>, others: &[OtherReplica]) -> bool {
        let by_now = look.answered_at + self.margin;
        let margin = TimeDelta::from_std(self.margin).unwrap_or(TimeDelta::MAX);
        let by_database = look.by_database + margin;
        let says_so = |other: &OtherReplica| match self.gone_since.get(&other.replica) {
            Some(since) => *since < look.asked_at,
            None => other.settled_through.is_some_and(|through| through >= by_database),
        };
        own.is_some_and(|through| through >= by_now) && others.iter().all(says_so)
    }

    /// When the newest confirmed look was asked for.
    #[must_use]
    pub const fn at(&self) -> Option<Duration> {
        self.at
    }

    /// A look waits to be confirmed: nothing is ready, but somebody may have something in hand.
    #[must_use]
    pub fn has_unconfirmed_look(&self, since: Duration) -> bool {
        self.looks.back().is_some_and(|look| look.asked_at >= since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARGIN: Duration = Duration::from_millis(500);

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn by_database(seconds: u64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + at(1_000_000 + seconds)
    }

    fn look(seconds: u64) -> EmptyLook {
        EmptyLook { asked_at: at(seconds), answered_at: at(seconds), by_database: by_database(seconds) }
    }

    fn other(settled: Option<u64>, is_gone: bool) -> OtherReplica {
        OtherReplica { replica: Uuid::from_u128(7), settled_through: settled.map(by_database), is_gone }
    }

    #[test]
    fn an_empty_queue_is_drained_when_this_replica_has_settled_what_was_on_its_way_too() {
        let mut drained = Drained::new(MARGIN);
        drained.looked(look(10));
        for own in [None, Some(at(10)), Some(at(10) + MARGIN - Duration::from_nanos(1))] {
            drained.told(at(11), own, &[]);
            assert_eq!(drained.at(), None, "{own:?}");
        }
        drained.told(at(11), Some(at(10) + MARGIN), &[]);
        assert_eq!(drained.at(), Some(at(10)));
    }

    #[test]
    fn what_another_replica_has_in_hand_unacked_is_not_drained() {
        let mut drained = Drained::new(MARGIN);
        for seconds in 10..20 {
            drained.looked(look(seconds));
            for unsettled in [other(Some(9), false), other(None, false)] {
                drained.told(at(seconds), Some(at(30)), &[unsettled]);
            }
        }
        assert_eq!(drained.at(), None);
        drained.told(at(20), Some(at(30)), &[other(Some(15), false)]);
        assert_eq!(drained.at(), Some(at(14)), "the newest look that both confirm");
    }

    #[test]
    fn a_replica_that_is_gone_counts_only_for_looks_before_its_messages_were_back_in_the_queue() {
        let mut drained = Drained::new(MARGIN);
        drained.looked(look(10));
        drained.told(at(11), Some(at(30)), &[other(Some(5), true)]);
        assert_eq!(drained.at(), None, "when the queue was seen empty, its messages may not have been back");
        drained.looked(look(12));
        drained.told(at(13), Some(at(30)), &[other(Some(5), true)]);
        assert_eq!(drained.at(), Some(at(12)));
        drained.looked(look(14));
        drained.told(at(15), Some(at(30)), &[other(Some(5), false)]);
        assert_eq!(drained.at(), Some(at(12)), "it is back, with something in hand");
    }

    #[test]
    fn looks_that_nobody_confirms_are_bounded() {
        let mut drained = Drained::new(MARGIN);
        (0..=LOOKS_MAX_COUNT as u64).for_each(|n| drained.looked(look(n)));
        assert_eq!(drained.looks.len(), LOOKS_MAX_COUNT);
    }
}
