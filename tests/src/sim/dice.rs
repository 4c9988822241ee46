//! Randomness that replays: one pinned generator, and draws made from its raw words here, so that no crate's change of a
//! distribution changes what a seed means.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng as _};
use uuid::Uuid;

/// A stream of draws.
#[derive(Debug, Clone)]
pub struct Dice(Xoshiro256PlusPlus);

impl Dice {
    /// The stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    /// A stream of its own, so that draws of one part do not shift those of another.
    pub fn fork(&mut self) -> Self {
        Self::new(self.word())
    }

    /// 64 random bits.
    pub fn word(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `end`; 0 when `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        // The high word of the product: uniform enough for any `end` that a scenario uses.
        let wide = u128::from(self.word()) * u128::from(end);
        u64::try_from(wide >> 64).unwrap_or_default()
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True in `per_mille` of a thousand cases.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1_000) < per_mille
    }

    /// A number from 0 to 1.
    pub fn unit(&mut self) -> f64 {
        let thousandths = u32::try_from(self.below(1_001)).unwrap_or_default();
        f64::from(thousandths) / 1_000.0
    }

    /// An index into a list of `len` things; none when it is empty.
    pub fn index(&mut self, len: usize) -> Option<usize> {
        usize::try_from(self.below(len as u64)).ok().filter(|index| *index < len)
    }

    /// One of `choices`, by weight; none when no weight is positive.
    pub fn weighted<T: Copy>(&mut self, choices: &[(u64, T)]) -> Option<T> {
        let total = choices.iter().map(|(weight, _)| weight).sum();
        let mut at = self.below(total);
        for (weight, choice) in choices {
            if at < *weight {
                return Some(*choice);
            }
            at -= weight;
        }
        None
    }

    /// An id of 128 random bits.
    pub fn uuid(&mut self) -> Uuid {
        Uuid::from_u64_pair(self.word(), self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_the_same_for_ever() {
        let mut dice = Dice::new(7);
        let draws: Vec<u64> = (0..4).map(|_| dice.below(1_000)).collect();
        assert_eq!(draws, [55, 172, 717, 427]);
    }

    #[test]
    fn draws_stay_within_their_bounds() {
        let mut dice = Dice::new(1);
        for _ in 0..1_000 {
            assert!((3..=5).contains(&dice.between(3, 5)));
            assert!((0.0..=1.0).contains(&dice.unit()));
            assert_eq!(dice.weighted(&[(0, 'a'), (2, 'b')]), Some('b'));
        }
        assert_eq!(dice.index(0), None);
        assert!(!dice.chance(0) && dice.chance(1_000));
    }
}
