//! What the owner of a subscription and its task tell each other beside the events.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What the owner wants of a subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Control {
    pub(super) paused: bool,
    /// Nothing more is handed over.
    pub(super) held: bool,
    /// Counts the times that nothing more was to be handed over, or that everything was to go back.
    pub(super) holds: u64,
    /// Counts the wishes for a new channel.
    pub(super) restarts: u64,
}

/// Whether something may have come that is not handed over, for an owner that asks whether everything is.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// The last hold after which everything was handed over.
    caught_up: AtomicU64,
    /// The channel is being made anew: what was on its way on the old one comes again.
    renewing: AtomicBool,
}

impl Behind {
    /// `holds` is what the owner has asked for. To be asked before the stream is looked at: what is handed over is so before this turns false.
    pub(super) fn is(&self, holds: u64) -> bool {
        self.renewing.load(Ordering::Acquire) || self.caught_up.load(Ordering::Acquire) != holds
    }

    /// The channel ends now, for whatever reason, and another one takes its place.
    pub(super) fn renewing(&self) {
        self.renewing.store(true, Ordering::Release);
    }

    /// Everything that came after so many holds, and after the channel was made anew, is handed over.
    pub(super) fn caught_up(&self, holds: u64) {
        self.caught_up.store(holds, Ordering::Release);
        self.renewing.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_behind_until_what_came_after_the_last_hold_and_renewal_is_handed_over() {
        let behind = Behind::default();
        assert!(!behind.is(0));
        assert!(behind.is(1), "a hold that the task has not seen yet");
        behind.caught_up(1);
        assert!(!behind.is(1));
        behind.caught_up(1);
        assert!(behind.is(2), "catching up with an older hold says nothing of this one");
        behind.renewing();
        behind.caught_up(2);
        assert!(!behind.is(2));
        behind.renewing();
        assert!(behind.is(2));
    }
}
