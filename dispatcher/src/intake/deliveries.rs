//! What the number of its deliveries, and of its own trials, says of an event (protocol D4). Pure.
//!
//! The broker counts a delivery of every event that a dispatcher had in hand when it died, and of every one that was in hand when a
//! connection broke: up to the whole prefetch at a time, of which at most one is to blame. So an event that came back often is handled
//! alone, and that this was begun is committed first: a **trial**, forgotten when it has ended, however it ended, and at the orderly end of
//! the dispatcher. A trial counts against its event when the dispatcher that began it is gone: it died in the middle, of the event or of
//! something else. An event is poison when it came back too often *and* several of its own trials were left behind so.

/// An event that was delivered this often is handled alone.
pub const ALONE_FROM_DELIVERIES: u64 = 3;
/// An event that was delivered this often may be poison.
pub const POISON_FROM_DELIVERIES: u64 = 10;
/// With so many trials that were left behind, it is.
pub const POISON_FROM_TRIALS: u32 = 3;

/// Whether an event is handled in a transaction of its own, after the others: whoever had it before may have died of it.
#[must_use]
pub fn is_alone(deliveries: u64) -> bool {
    deliveries >= ALONE_FROM_DELIVERIES
}

/// Whether an event came back so often that something must be wrong, with it or with what surrounds it.
#[must_use]
pub fn may_be_poison(deliveries: u64) -> bool {
    deliveries >= POISON_FROM_DELIVERIES
}

/// Whether an event is not handled any more, but recorded and refused. `trials` are those that were left behind.
#[must_use]
pub fn is_poison(deliveries: u64, trials: u32) -> bool {
    may_be_poison(deliveries) && trials >= POISON_FROM_TRIALS
}

/// The order in which events are handled alone: those with the fewest trials first, so that all that can be handled are before the one
/// that kills.
#[must_use]
pub fn in_turn<T>(mut alone: Vec<T>, trials: impl Fn(&T) -> u32) -> Vec<T> {
    alone.sort_by_key(trials);
    alone
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn an_event_is_handled_alone_from_its_limit_on() {
        assert!(!is_alone(ALONE_FROM_DELIVERIES - 1));
        assert!(is_alone(ALONE_FROM_DELIVERIES));
    }

    #[test]
    fn an_event_is_poison_only_at_both_limits() {
        assert!(is_poison(POISON_FROM_DELIVERIES, POISON_FROM_TRIALS));
        assert!(!is_poison(POISON_FROM_DELIVERIES - 1, POISON_FROM_TRIALS));
        assert!(!is_poison(POISON_FROM_DELIVERIES, POISON_FROM_TRIALS - 1));
        assert!(!is_poison(u64::MAX, 0));
    }

    #[test]
    fn of_a_full_prefetch_beside_a_deadly_event_none_is_lost_and_the_deadly_one_is_found() {
        let mut left: Vec<usize> = (0..1_000).collect();
        let (deadly, mut trials) = (700, BTreeMap::new());
        let mut deliveries = ALONE_FROM_DELIVERIES;
        // Each life of the dispatcher handles what it can and dies of the deadly one.
        while !is_poison(deliveries, trials.get(&deadly).copied().unwrap_or_default()) {
            for event in in_turn(left.clone(), |event| trials.get(event).copied().unwrap_or_default()) {
                assert!(!is_poison(deliveries, trials.get(&event).copied().unwrap_or_default()));
                *trials.entry(event).or_default() += 1;
                if event == deadly {
                    break;
                }
                trials.remove(&event);
                left.retain(|one| *one != event);
            }
            deliveries += 1;
        }
        assert_eq!((left, deliveries), (vec![deadly], POISON_FROM_DELIVERIES));
    }
}
