//! Which publish a returned message belongs to: a pure book of confirms and returns.
//!
//! The broker sends `basic.return` for an unroutable mandatory message before its confirm. The client library does
//! not match the two: it hands the oldest returned message to whichever publish is confirmed next, and it walks a
//! `multiple` confirm in random order. So a publish that was routed may carry another's return, and the returned one
//! looks acked. Each mandatory message therefore carries its own number in a header, which comes back with it, and
//! this book decides a mandatory publish only when its return can no longer be outstanding:
//!
//! - A confirm that carries nothing was resolved while the library held no undelivered return. Its own return, had
//!   there been one, was received before and handed to a publish that resolved before.
//! - So after all publishes that have resolved are entered ([`ConfirmBook::resolved`]), those confirmed without
//!   carrying anything are decided ([`ConfirmBook::settle`]).
//! - One that carries somebody else's return waits until a later batch shows a confirm that carries nothing, or
//!   until nothing is outstanding: then all returns before it have been seen.

use std::collections::{BTreeMap, BTreeSet};

/// The number of one publish, unique in the life of its publisher.
pub(super) type PublishNo = u64;

/// Why the broker returned a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Returned {
    pub(super) code: u16,
    pub(super) text: String,
}

/// What the confirm of one publish said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Confirmed {
    pub(super) no: PublishNo,
    pub(super) mandatory: bool,
    pub(super) ack: bool,
    /// The returned message that the library attached, with the number from its header.
    pub(super) carried: Option<(PublishNo, Returned)>,
}

/// What became of one publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Acked,
    Nacked,
    Returned(Returned),
}

/// Confirms and returns of one channel that are not decided yet.
#[derive(Debug, Default)]
pub(super) struct ConfirmBook {
    /// Returns that were seen and not yet claimed by the confirm of their own publish.
    returns: BTreeMap<PublishNo, Returned>,
    /// Confirmed in this batch without carrying anything, or with their own return seen.
    clear: Vec<(PublishNo, bool)>,
    /// Confirmed mandatory publishes that carried somebody else's return.
    doubtful: BTreeMap<PublishNo, bool>,
    /// The doubtful ones of this batch: they have to wait for a later one.
    fresh: BTreeSet<PublishNo>,
    /// Whether this batch had a confirm that carried nothing.
    emptied: bool,
    decided: Vec<(PublishNo, Verdict)>,
}

impl ConfirmBook {
    /// Enters one resolved confirm into the current batch.
    pub(super) fn resolved(&mut self, confirmed: Confirmed) {
        let Confirmed { no, mandatory, ack, carried } = confirmed;
        let carried_no = carried.as_ref().map(|(carried_no, _)| *carried_no);
        if let Some((carried_no, returned)) = carried {
            self.returns.insert(carried_no, returned);
        }
        self.emptied |= carried_no.is_none();
        match carried_no {
            _ if !mandatory => self.decided.push((no, plain(ack))),
            None => self.clear.push((no, ack)),
            Some(carried_no) if carried_no == no => self.clear.push((no, ack)),
            Some(_) => {
                self.doubtful.insert(no, ack);
                self.fresh.insert(no);
            }
        }
    }

    /// Ends the batch: call it when every publish that has resolved so far has been entered. `outstanding` is the
    /// number of publishes that have not resolved. Returns what is decided now.
    pub(super) fn settle(&mut self, outstanding: usize) -> Vec<(PublishNo, Verdict)> {
        let mut ready = std::mem::take(&mut self.clear);
        let all = outstanding == 0;
        let older_are_clear = std::mem::take(&mut self.emptied);
        let fresh = std::mem::take(&mut self.fresh);
        self.doubtful.retain(|no, ack| {
            let decide = all || self.returns.contains_key(no) || (older_are_clear && !fresh.contains(no));
            if decide {
                ready.push((*no, *ack));
            }
            !decide
        });
        let mut decided = std::mem::take(&mut self.decided);
        decided.extend(ready.into_iter().map(|(no, ack)| match self.returns.remove(&no) {
            Some(returned) => (no, Verdict::Returned(returned)),
            None => (no, plain(ack)),
        }));
        if all {
            // Nothing can claim these any more; the channel is quiet.
            self.returns.clear();
        }
        decided
    }
}

fn plain(ack: bool) -> Verdict {
    if ack { Verdict::Acked } else { Verdict::Nacked }
}

#[cfg(test)]
#[path = "confirms_tests.rs"]
mod tests;
