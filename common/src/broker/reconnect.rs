//! The delays between connections of one owner.

use std::time::Duration;

use crate::retry::RetryPolicy;

/// A connection that lived this long was healthy: the next loss starts with short delays again.
const HEALTHY_SECONDS: u64 = 10;
/// Shortest delay, so that a connection that fails at once is not retried in a tight loop.
const DELAY_MIN_MILLIS: u64 = 20;

/// Counts the tries since the last healthy connection.
#[derive(Debug)]
pub(super) struct Reconnect {
    policy: RetryPolicy,
    attempt: u32,
}

impl Reconnect {
    pub(super) fn new(policy: RetryPolicy) -> Self {
        Self { policy, attempt: 0 }
    }

    /// The delay after a connection, or a try, that lived for `lived`.
    pub(super) fn delay_after(&mut self, lived: Duration, rng: &mut impl rand::Rng) -> Duration {
        if lived >= Duration::from_secs(HEALTHY_SECONDS) {
            self.attempt = 0;
        }
        let delay = self.policy.next_delay(self.attempt, rng);
        self.attempt = self.attempt.saturating_add(1);
        delay.max(Duration::from_millis(DELAY_MIN_MILLIS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    #[test]
    fn delays_grow_until_a_connection_was_healthy() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let mut reconnect = Reconnect::new(RetryPolicy::RECONNECT);
        for _ in 0..20 {
            let delay = reconnect.delay_after(Duration::ZERO, &mut rng);
            assert!(delay >= Duration::from_millis(DELAY_MIN_MILLIS) && delay <= RetryPolicy::RECONNECT.max);
        }
        assert_eq!(reconnect.attempt, 20);
        reconnect.delay_after(Duration::from_secs(HEALTHY_SECONDS), &mut rng);
        assert_eq!(reconnect.attempt, 1);
    }
}
