//! Retry of what may work the next time: exponential backoff with full jitter.
//!
//! The only module that uses the `backoff` crate, so that replacing it touches one file. The crate draws its own
//! random numbers; here it only computes the growing ceiling, and the jitter comes from a generator that the
//! caller passes, so that a seeded test sees the same delays every time.

use std::future::Future;
use std::time::{Duration, Instant};

use backoff::backoff::Backoff as _;
use backoff::exponential::ExponentialBackoff;
use rand::{Rng, RngExt as _};

use crate::shutdown::Shutdown;

/// The exponent stops growing here; every sensible policy has reached its maximum long before.
const DOUBLINGS_MAX_COUNT: u32 = 64;

/// How the delays between tries grow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    /// The ceiling of the first delay.
    pub initial: Duration,
    /// The ceiling that no delay passes.
    pub max: Duration,
    /// The factor between one ceiling and the next; 1 or more.
    pub multiplier: f64,
}

impl RetryPolicy {
    /// For reconnecting to a broker or database: 100 ms doubling up to 2 s, so that work goes on within 5 s of its return.
    pub const RECONNECT: Self =
        Self { initial: Duration::from_millis(100), max: Duration::from_secs(2), multiplier: 2.0 };

    /// The largest delay that may follow the try with this number, where the first is 0.
    #[must_use]
    pub fn ceiling(&self, attempt: u32) -> Duration {
        let mut growth = ExponentialBackoff {
            current_interval: self.initial,
            initial_interval: self.initial,
            randomization_factor: 0.0,
            multiplier: self.multiplier.max(1.0),
            max_interval: self.max,
            start_time: Instant::now(),
            max_elapsed_time: None,
            clock: backoff::SystemClock::default(),
        };
        for _ in 0..attempt.min(DOUBLINGS_MAX_COUNT) {
            if growth.current_interval >= self.max {
                break;
            }
            // Called for its side effect, the growth of the interval: the value has the crate's own jitter.
            let _ = growth.next_backoff();
        }
        growth.current_interval.min(self.max)
    }

    /// The delay after the try with this number: uniform between nothing and [`ceiling`](Self::ceiling) (full
    /// jitter, so that many clients that failed together do not come back together). Pure: the same generator
    /// state gives the same delay.
    #[must_use]
    pub fn next_delay(&self, attempt: u32, rng: &mut impl Rng) -> Duration {
        self.ceiling(attempt).mul_f64(rng.random::<f64>())
    }
}

/// An error that knows whether another try may succeed.
pub trait Transient {
    /// True when the same call may succeed later without anybody changing anything.
    fn is_transient(&self) -> bool;
}

/// Why [`retry_transient`] gave up.
#[derive(Debug, thiserror::Error)]
pub enum RetryError<E: std::fmt::Display> {
    /// The operation failed in a way that another try cannot help.
    #[error("{0}")]
    Permanent(E),
    /// Shutdown was requested before a try succeeded; carries the last error when there was one.
    #[error("stopped by shutdown before it succeeded{}", last.as_ref().map(|e| format!("; last error: {e}")).unwrap_or_default())]
    Stopped {
        /// The error of the last try.
        last: Option<E>,
    },
}

/// Calls `op` until it succeeds, fails for good, or shutdown is requested. `op` receives the number of the try,
/// from 0. Every failed try is one WARN line with the delay before the next.
///
/// # Errors
/// [`RetryError::Permanent`] for an error that is not transient, [`RetryError::Stopped`] on shutdown.
pub async fn retry_transient<T, E, F>(
    policy: RetryPolicy,
    shutdown: &Shutdown,
    mut op: impl FnMut(u32) -> F,
) -> Result<T, RetryError<E>>
where
    E: Transient + std::fmt::Display,
    F: Future<Output = Result<T, E>>,
{
    let mut last = None;
    let mut attempt = 0_u32;
    loop {
        if shutdown.is_requested() {
            return Err(RetryError::Stopped { last });
        }
        match op(attempt).await {
            Ok(value) => return Ok(value),
            Err(error) if !error.is_transient() => return Err(RetryError::Permanent(error)),
            Err(error) => {
                let delay = policy.next_delay(attempt, &mut rand::rng());
                tracing::warn!(attempt, delay_ms = delay.as_millis(), %error, "failed, will try again");
                last = Some(error);
                shutdown.sleep(delay).await;
                attempt = attempt.saturating_add(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    const POLICY: RetryPolicy =
        RetryPolicy { initial: Duration::from_millis(100), max: Duration::from_secs(5), multiplier: 2.0 };

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Flaky(&'static str, bool);

    impl Transient for Flaky {
        fn is_transient(&self) -> bool {
            self.1
        }
    }

    #[test]
    fn the_ceiling_doubles_and_stops_at_the_maximum() {
        let ceilings: Vec<u128> = (0..8).map(|n| POLICY.ceiling(n).as_millis()).collect();
        assert_eq!(ceilings, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(POLICY.ceiling(u32::MAX), POLICY.max);
    }

    #[test]
    fn delays_stay_under_the_ceiling_and_repeat_with_the_seed() {
        let draw = |seed| {
            let mut rng = StdRng::seed_from_u64(seed);
            (0..200).map(|n| POLICY.next_delay(n, &mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        for (n, delay) in (0_u32..).zip(draw(7)) {
            assert!(delay <= POLICY.ceiling(n));
        }
    }

    #[test]
    fn a_multiplier_below_one_does_not_shrink_the_delay() {
        let policy = RetryPolicy { multiplier: 0.5, ..POLICY };
        assert_eq!(policy.ceiling(5), policy.initial);
    }

    #[tokio::test(start_paused = true)]
    async fn transient_errors_are_retried_until_success() {
        let shutdown = Shutdown::new(Duration::from_secs(1));
        let done = retry_transient(POLICY, &shutdown, |n| async move {
            if n < 3 { Err(Flaky("away", true)) } else { Ok(n) }
        });
        assert_eq!(done.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_permanent_error_ends_at_once() {
        let shutdown = Shutdown::new(Duration::from_secs(1));
        let ended =
            retry_transient(POLICY, &shutdown, |_| async { Err::<(), _>(Flaky("refused", false)) }).await;
        assert!(matches!(ended, Err(RetryError::Permanent(Flaky("refused", _)))));
    }

    #[tokio::test]
    async fn shutdown_interrupts_the_wait_between_tries() {
        let shutdown = Shutdown::new(Duration::from_secs(1));
        let policy =
            RetryPolicy { initial: Duration::from_secs(3600), max: Duration::from_secs(3600), ..POLICY };
        let inner = shutdown.clone();
        let ended = retry_transient(policy, &shutdown, |_| {
            inner.trigger("test");
            async { Err::<(), _>(Flaky("away", true)) }
        })
        .await;
        assert!(matches!(ended, Err(RetryError::Stopped { last: Some(Flaky("away", _)) })));
    }
}
