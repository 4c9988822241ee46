//! Messages that this replica cannot settle because it cannot read what is stored: kept for a while, then given back to the broker,
//! so that a replica that can read it gets them. Never nacked for good: the message is not at fault.

use std::time::Duration;

use switchyard_common::broker::{Acker, SubscriptionHandle};
use tokio::time::Instant;

/// Wait before a message goes back for the first time; doubles with each delivery.
const WAIT_INITIAL: Duration = Duration::from_secs(1);
/// Longest wait before it goes back. With the delivery limit of 1,000,000 a message outlives a year of it.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// How long a message that was delivered `deliveries` times before is kept.
#[must_use]
pub fn wait_before_return(deliveries: u64) -> Duration {
    const DOUBLINGS_MAX: u64 = 16;
    let doublings = u32::try_from(deliveries.min(DOUBLINGS_MAX)).unwrap_or(u32::MAX);
    (WAIT_INITIAL * 2_u32.saturating_pow(doublings)).min(WAIT_MAX)
}

#[derive(Debug)]
struct Kept {
    due: Instant,
    acker: Acker,
    /// Since boot.
    arrived_at: Duration,
}

/// Messages that wait to go back.
#[derive(Debug)]
pub struct PutBack {
    part: &'static str,
    waiting: Vec<Kept>,
    count_max: usize,
    subscription: SubscriptionHandle,
    paused: bool,
}

impl PutBack {
    /// Beyond `count_max` it takes no more messages: what the prefetch has room for waits here, and the rest is left to replicas that can read
    /// what is stored. There are never more than the prefetch.
    #[must_use]
    pub const fn new(part: &'static str, count_max: usize, subscription: SubscriptionHandle) -> Self {
        Self { part, waiting: Vec::new(), count_max, subscription, paused: false }
    }

    /// Keeps a message, and says so loudly: somebody must find out why a row cannot be read.
    pub fn keep(&mut self, acker: Acker, arrived_at: Duration, deliveries: u64, why: &str) {
        metrics::counter!("switchyard_unreadable_rows_total", "part" => self.part).increment(1);
        let wait = wait_before_return(deliveries);
        tracing::error!(
            part = self.part,
            error = why,
            deliveries,
            wait_ms = wait.as_millis(),
            "this replica cannot read a stored row; the message is kept and goes back to the broker for another replica"
        );
        let due = Instant::now() + wait;
        let place = self.waiting.partition_point(|kept| kept.due <= due);
        self.waiting.insert(place, Kept { due, acker, arrived_at });
        if self.waiting.len() > self.count_max {
            // Again each time: whoever else waits for something may have gone on meanwhile.
            self.paused = true;
            self.subscription.hold();
        }
    }

    fn resume_when_there_is_room(&mut self) {
        if self.waiting.len() <= self.count_max && std::mem::take(&mut self.paused) {
            self.subscription.resume();
        }
    }

    /// Whether any waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// When the oldest of them arrived, since boot.
    #[must_use]
    pub fn oldest(&self) -> Option<Duration> {
        self.waiting.iter().map(|kept| kept.arrived_at).min()
    }

    /// Gives back those whose time has come.
    pub async fn give_back_due(&mut self) {
        let now = Instant::now();
        let due = self.waiting.partition_point(|kept| kept.due <= now);
        for kept in self.waiting.drain(..due) {
            let _one_that_is_stale_is_back_already = kept.acker.nack(true).await;
        }
        self.resume_when_there_is_room();
    }

    /// The channel is gone: the broker has everything back already.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.resume_when_there_is_room();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_grows_with_each_delivery_up_to_its_limit() {
        assert_eq!(wait_before_return(0), WAIT_INITIAL);
        assert_eq!(wait_before_return(1), WAIT_INITIAL * 2);
        assert_eq!(wait_before_return(5), WAIT_INITIAL * 32);
        assert_eq!(wait_before_return(6), WAIT_MAX);
        assert_eq!(wait_before_return(u64::MAX), WAIT_MAX);
    }
}
