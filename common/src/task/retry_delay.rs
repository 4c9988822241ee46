//! When a failed step is tried again.

use std::time::Duration;

use super::model::StepPolicy;

/// The wait before try number `charge + 1`: doubles from `backoff_initial_ms` to `backoff_max_ms`, half of it spread by `jitter`
/// (0 to 1), so that tasks that failed together do not come back together.
#[must_use]
pub fn retry_delay(policy: &StepPolicy, charge: u32, jitter: f64) -> Duration {
    const DOUBLINGS_MAX: u32 = 32;
    let doublings = charge.saturating_sub(1).min(DOUBLINGS_MAX);
    let full = policy.backoff_initial_ms.saturating_mul(1_u64 << doublings).min(policy.backoff_max_ms);
    let half = Duration::from_millis(full) / 2;
    half + half.mul_f64(jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_jitter_moves_the_upper_half() {
        let policy = StepPolicy { backoff_initial_ms: 1_000, backoff_max_ms: 3_000, ..StepPolicy::default() };
        assert_eq!(retry_delay(&policy, 1, 1.0), Duration::from_millis(1_000));
        assert_eq!(retry_delay(&policy, 1, 0.0), Duration::from_millis(500));
        assert_eq!(retry_delay(&policy, 2, 1.0), Duration::from_millis(2_000));
        assert_eq!(retry_delay(&policy, 3, 1.0), Duration::from_millis(3_000));
        assert_eq!(retry_delay(&policy, u32::MAX, 1.0), Duration::from_millis(3_000));
    }
}
