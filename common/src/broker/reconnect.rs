//! The delays between connections of one owner.

use std::time::Duration;

use tokio::time::Instant;

use crate::retry::RetryPolicy;

/// A connection that was up for this long was healthy: after its loss the delays start short again.
const HEALTHY_MILLIS: u64 = 2_000;
/// Shortest delay, so that a connection that fails at once is not retried in a tight loop.
const DELAY_MIN_MILLIS: u64 = 20;

/// Counts the tries since the last healthy connection.
#[derive(Debug)]
pub(super) struct Reconnect {
    policy: RetryPolicy,
    attempt: u32,
    up_since: Option<Instant>,
}

impl Reconnect {
    pub(super) fn new(policy: RetryPolicy) -> Self {
        Self { policy, attempt: 0, up_since: None }
    }

    /// The connection is usable from now on.
    pub(super) fn came_up(&mut self, now: Instant) {
        self.up_since = Some(now);
    }

    /// The delay after a loss, or after a try that failed. The time that a try took does not count as health: one
    /// that hangs until its timeout is no better than one that is refused.
    pub(super) fn next_delay(&mut self, now: Instant, rng: &mut impl rand::Rng) -> Duration {
        let healthy = Duration::from_millis(HEALTHY_MILLIS);
        if self.up_since.take().is_some_and(|since| now.duration_since(since) >= healthy) {
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
        let begun = Instant::now();
        let later = |millis| begun + Duration::from_millis(millis);
        for n in 0..20 {
            let delay = reconnect.next_delay(later(n * 60_000), &mut rng);
            assert!(delay >= Duration::from_millis(DELAY_MIN_MILLIS) && delay <= RetryPolicy::RECONNECT.max);
        }
        assert_eq!(reconnect.attempt, 20, "slow tries are not health");
        reconnect.came_up(begun);
        reconnect.next_delay(later(HEALTHY_MILLIS - 1), &mut rng);
        assert_eq!(reconnect.attempt, 21, "too short to count");
        reconnect.came_up(begun);
        reconnect.next_delay(later(HEALTHY_MILLIS), &mut rng);
        assert_eq!(reconnect.attempt, 1);
    }
}
