//! Destinations that one channel is refused, and when a new channel is worth a try.
//!
//! RabbitMQ keeps, for each channel, which member led a quorum queue when the channel first published to it. When the node of that member
//! is down, every publish of this channel to the queue is refused (`basic.nack`) until the node is back, although the queue has had a new
//! leader for long (seen with 3.10.8). A new channel finds the new leader. A queue that is full refuses in the same way, and there a
//! new channel changes nothing: so the wait for the next one doubles until something is taken again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::limits::{CHANNEL_RENEWED_AFTER_MAX_MILLIS, CHANNEL_RENEWED_AFTER_MILLIS, REFUSALS_MAX_COUNT};

/// Longest wait between two renewals of a channel.
const WAIT_MAX: Duration = Duration::from_millis(CHANNEL_RENEWED_AFTER_MAX_MILLIS);
/// Wait from the first refusal to the renewal.
const WAIT_INITIAL: Duration = Duration::from_millis(CHANNEL_RENEWED_AFTER_MILLIS);

/// What the current channel of a connection is refused.
#[derive(Debug)]
pub(super) struct Refusals {
    /// Exchange and routing key, with the time of the first refusal on this channel.
    since: BTreeMap<(String, String), Instant>,
    /// What a new channel was to help.
    hoped: BTreeSet<(String, String)>,
    wait: Duration,
}

impl Default for Refusals {
    fn default() -> Self {
        Self { since: BTreeMap::new(), hoped: BTreeSet::new(), wait: WAIT_INITIAL }
    }
}

impl Refusals {
    /// The broker has refused a publish. Destinations beyond the limit are not kept: one of them is enough.
    pub(super) fn refused(&mut self, exchange: &str, routing_key: &str, now: Instant) {
        if self.since.len() < REFUSALS_MAX_COUNT {
            self.since.entry((exchange.to_owned(), routing_key.to_owned())).or_insert(now);
        }
    }

    /// The broker has taken a publish. Where it refused one before, the queue was full and is no longer, or the new channel has helped.
    pub(super) fn taken(&mut self, exchange: &str, routing_key: &str) {
        // The usual case costs nothing.
        if self.since.is_empty() && self.hoped.is_empty() {
            return;
        }
        let destination = (exchange.to_owned(), routing_key.to_owned());
        if self.since.remove(&destination).is_some() | self.hoped.remove(&destination) {
            self.wait = WAIT_INITIAL;
        }
    }

    /// When the channel is to be made anew, if anything is refused.
    pub(super) fn renewal_due(&self) -> Option<Instant> {
        self.since.values().min().map(|first| *first + self.wait)
    }

    /// The channel is made anew; what was refused has a chance again. Returns it, for whoever says so.
    pub(super) fn renewal(&mut self) -> Vec<(String, String)> {
        self.wait = (self.wait * 2).min(WAIT_MAX);
        let refused: Vec<(String, String)> = std::mem::take(&mut self.since).into_keys().collect();
        self.hoped = refused.iter().cloned().collect();
        refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_made_anew_a_while_after_the_first_refusal() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        assert_eq!(refusals.renewal_due(), None);
        refusals.refused("x", "k", now);
        refusals.refused("x", "k", now + WAIT_INITIAL / 2);
        assert_eq!(refusals.renewal_due(), Some(now + WAIT_INITIAL));
        assert_eq!(refusals.renewal(), [("x".to_owned(), "k".to_owned())]);
        assert_eq!(refusals.renewal_due(), None);
    }

    #[test]
    fn what_is_taken_again_needs_no_new_channel() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        refusals.refused("x", "k", now);
        refusals.taken("x", "other");
        assert!(refusals.renewal_due().is_some());
        refusals.taken("x", "k");
        assert_eq!(refusals.renewal_due(), None);
    }

    #[test]
    fn a_queue_that_stays_full_costs_ever_fewer_channels_up_to_a_limit() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..9 {
            refusals.refused("x", "k", now);
            waits.push(refusals.renewal_due().unwrap().duration_since(now).as_secs());
            refusals.renewal();
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        // The queue has room again, on the newest channel.
        refusals.taken("x", "k");
        refusals.refused("x", "k", now);
        assert_eq!(refusals.renewal_due(), Some(now + WAIT_INITIAL));
    }

    #[test]
    fn a_new_channel_that_has_helped_makes_the_next_one_come_as_soon_as_the_first() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        refusals.refused("x", "k", now);
        refusals.renewal();
        refusals.taken("x", "other");
        refusals.taken("x", "k");
        refusals.refused("x", "k", now);
        assert_eq!(refusals.renewal_due(), Some(now + WAIT_INITIAL));
    }

    #[test]
    fn no_more_destinations_are_kept_than_the_limit() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        for number in 0..=REFUSALS_MAX_COUNT {
            refusals.refused("x", &number.to_string(), now);
        }
        assert_eq!(refusals.renewal().len(), REFUSALS_MAX_COUNT);
    }
}
