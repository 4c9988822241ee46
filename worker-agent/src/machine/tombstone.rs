//! Finished attempts, remembered so that a copy never runs (protocol B5).
//!
//! The rule asks for them until the session ends. They are kept beyond it: they are told apart by their lease, so an old one can never
//! stand in the way of a new attempt, and a redelivery after the session's end is then still settled exactly.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use switchyard_common::contract::report::Outcome;

use super::attempt_id::AttemptId;
use super::limits::TOMBSTONES_MAX_COUNT;

/// What is left of a finished attempt.
#[derive(Debug, Clone)]
pub(super) struct Tombstone {
    /// The publish that was acked or nacked; 0 when no delivery was ever seen.
    pub(super) publish_no: u32,
    /// That publish is nacked, not acked.
    pub(super) nack: bool,
    /// To be sent again when asked for; forgotten before the tombstone itself.
    pub(super) outcome: Option<Arc<Outcome>>,
}

/// All of them, bounded twice: outcomes are large, tombstones small.
#[derive(Debug)]
pub(super) struct Tombstones {
    stones: HashMap<AttemptId, Tombstone>,
    oldest_first: VecDeque<AttemptId>,
    with_outcome: VecDeque<AttemptId>,
    outcomes_max: usize,
}

impl Tombstones {
    pub(super) fn new(outcomes_max: usize) -> Self {
        Self {
            stones: HashMap::new(),
            oldest_first: VecDeque::new(),
            with_outcome: VecDeque::new(),
            outcomes_max,
        }
    }

    pub(super) fn get(&self, attempt: AttemptId) -> Option<&Tombstone> {
        self.stones.get(&attempt)
    }

    /// Remembers a finished attempt. An attempt finishes once, so nothing is ever replaced.
    pub(super) fn remember(&mut self, attempt: AttemptId, stone: Tombstone) {
        if stone.outcome.is_some() {
            self.with_outcome.push_back(attempt);
        }
        if self.stones.insert(attempt, stone).is_none() {
            self.oldest_first.push_back(attempt);
        }
        while self.with_outcome.len() > self.outcomes_max {
            let forgotten = self.with_outcome.pop_front();
            if let Some(stone) = forgotten.and_then(|attempt| self.stones.get_mut(&attempt)) {
                stone.outcome = None;
            }
        }
        while self.oldest_first.len() > TOMBSTONES_MAX_COUNT {
            if let Some(attempt) = self.oldest_first.pop_front() {
                self.stones.remove(&attempt);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use switchyard_common::contract::ids::LeaseToken;
    use uuid::Uuid;

    use super::*;

    fn stone() -> Tombstone {
        Tombstone { publish_no: 1, nack: false, outcome: None }
    }

    #[test]
    fn tombstones_are_kept_up_to_the_limit_and_the_oldest_goes_one_over() {
        let mut stones = Tombstones::new(1);
        let lease = |n: usize| AttemptId::from(LeaseToken(Uuid::from_u128(n as u128)));
        for n in 0..TOMBSTONES_MAX_COUNT {
            stones.remember(lease(n), stone());
        }
        assert!(stones.get(lease(0)).is_some());
        stones.remember(lease(TOMBSTONES_MAX_COUNT), stone());
        assert!(stones.get(lease(0)).is_none());
        assert!(stones.get(lease(1)).is_some());
        assert_eq!(stones.stones.len(), stones.oldest_first.len());
    }
}
