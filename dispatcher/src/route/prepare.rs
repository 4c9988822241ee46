//! What is ready to be written to the broker, and until when it may be.
//!
//! Large inputs may take longer to read and to write down than an assignment may wait for its turn. Then the database is asked once more
//! before anything is sent; without that, work with large inputs could never be sent on a slow machine.

use std::collections::HashSet;

use switchyard_common::broker::Outgoing;
use switchyard_common::contract::assignment::Assignment;
use tokio::time::Instant;

use super::decide::SEND_WITHIN;
use crate::store::route::Publish;

/// Below this part of [`SEND_WITHIN`] that is left, the database is asked once more.
const LATE_DIVISOR: u32 = 2;

/// An assignment on its way to the broker.
pub(super) struct Span {
    pub(super) assignment: Assignment,
    /// How often this replica has published it, this time included.
    pub(super) tries: u32,
    /// Its messages: parts of its inputs, then itself; none when it cannot be written down.
    pub(super) count: usize,
}

impl Span {
    pub(super) fn publish(&self) -> Publish {
        publish_of(&self.assignment)
    }
}

/// The publish that an assignment is sent as.
pub(super) fn publish_of(assignment: &Assignment) -> Publish {
    Publish { key: assignment.key(), publish_no: assignment.publish_no }
}

/// A batch that is ready to be written.
pub(super) struct Prepared {
    pub(super) spans: Vec<Span>,
    /// The messages of all spans, in order.
    pub(super) outgoing: Vec<Outgoing>,
    /// Nothing is written after this.
    pub(super) write_by: Instant,
}

impl Prepared {
    /// Whether so little time is left that the broker client may not come round to all of it.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        !self.spans.is_empty() && now + SEND_WITHIN / LATE_DIVISOR > self.write_by
    }

    pub(super) fn publishes(&self) -> Vec<Publish> {
        self.spans.iter().map(Span::publish).collect()
    }

    /// What is still this replica's `own`, to be written by another time.
    pub(super) fn only(self, own: &[Publish], write_by: Instant) -> Self {
        let own: HashSet<_> = own.iter().map(|publish| (&publish.key, publish.publish_no)).collect();
        let mut messages = self.outgoing.into_iter();
        let mut kept = Self { spans: Vec::new(), outgoing: Vec::new(), write_by };
        for span in self.spans {
            let of_span = messages.by_ref().take(span.count);
            if own.contains(&(&span.assignment.key(), span.assignment.publish_no)) {
                kept.outgoing.extend(of_span);
                kept.spans.push(span);
            } else {
                of_span.for_each(drop);
            }
        }
        kept
    }
}
