//! One queue: what is ready, who consumes, what is out unacked.

use std::collections::{BTreeMap, VecDeque};

use switchyard_common::broker::topology::QueueDecl;

use super::message::Message;
use crate::sim::agenda::Millis;
use crate::sim::wire::ConnId;

/// A delivery on a connection; never reused on it.
pub type Tag = u64;

/// Where a message goes that comes back unacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rearrange {
    /// To its old place: quorum queues with a delivery limit.
    Front,
    /// Behind all others: what other versions do.
    Back,
}

/// A message in a queue.
#[derive(Debug)]
pub(super) struct Stored {
    /// Its place in the queue's history.
    pub(super) number: u64,
    /// When it came.
    pub(super) since: Millis,
    pub(super) message: Message,
}

/// A consumer of a queue.
#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) conn: ConnId,
    /// Most deliveries out unacked; none = acked as soon as they are sent.
    prefetch: Option<usize>,
    unacked: BTreeMap<Tag, Stored>,
}

/// A queue.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) decl: QueueDecl,
    /// The connection that declared it, where it is exclusive.
    pub(super) owner: Option<ConnId>,
    ready: VecDeque<Stored>,
    consumers: Vec<Consumer>,
    stored: u64,
    turn: usize,
}

impl Queue {
    pub(super) fn new(decl: QueueDecl, owner: Option<ConnId>) -> Self {
        Self { decl, owner, ready: VecDeque::new(), consumers: Vec::new(), stored: 0, turn: 0 }
    }

    pub(super) fn push(&mut self, now: Millis, message: Message) {
        self.stored += 1;
        self.ready.push_back(Stored { number: self.stored, since: now, message });
    }

    /// Throws away what is ready.
    pub(super) fn purge(&mut self) -> Vec<Message> {
        self.ready.drain(..).map(|stored| stored.message).collect()
    }

    /// When the first ready message that `is` came.
    pub(super) fn waiting_since(&self, is: impl Fn(&Message) -> bool) -> Option<Millis> {
        self.ready.iter().filter(|stored| is(&stored.message)).map(|stored| stored.since).min()
    }

    pub(super) fn consume(&mut self, conn: ConnId, prefetch: Option<usize>) {
        self.consumers.push(Consumer { conn, prefetch, unacked: BTreeMap::new() });
    }

    /// The consumer takes no more.
    pub(super) fn cancel(&mut self, conn: ConnId) {
        for consumer in self.consumers.iter_mut().filter(|consumer| consumer.conn == conn) {
            consumer.prefetch = Some(0);
        }
    }

    /// Whether a connection consumes it.
    pub(super) fn is_consumed_by(&self, conn: ConnId) -> bool {
        self.consumers.iter().any(|consumer| consumer.conn == conn)
    }

    /// Messages that wait for a consumer.
    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Messages in it, ready or out.
    pub(super) fn len(&self) -> usize {
        self.ready.len() + self.consumers.iter().map(|consumer| consumer.unacked.len()).sum::<usize>()
    }

    /// The next message and the consumer whose turn it is. It stays out until it is settled, unless the consumer has no prefetch:
    /// the last value says so.
    pub(super) fn deliver(&mut self, tag: Tag) -> Option<(ConnId, Message, bool)> {
        if self.ready.is_empty() {
            return None;
        }
        let count = self.consumers.len();
        let has_room =
            |consumer: &Consumer| consumer.prefetch.is_none_or(|most| consumer.unacked.len() < most);
        let index =
            (0..count).map(|step| (self.turn + step) % count).find(|at| has_room(&self.consumers[*at]))?;
        let stored = self.ready.pop_front()?;
        self.turn = index + 1;
        let consumer = &mut self.consumers[index];
        let message = stored.message.clone();
        let stays_out = consumer.prefetch.is_some();
        if stays_out {
            consumer.unacked.insert(tag, stored);
        }
        Some((consumer.conn, message, stays_out))
    }

    /// Takes a delivery off the unacked ones.
    pub(super) fn settle(&mut self, conn: ConnId, tag: Tag) -> Option<Message> {
        let consumer = self.consumers.iter_mut().find(|consumer| consumer.conn == conn)?;
        consumer.unacked.remove(&tag).map(|stored| stored.message)
    }

    /// Removes a consumer; what it had comes back. True when it was the last one.
    pub(super) fn leave(&mut self, conn: ConnId, rearrange: Rearrange) -> bool {
        let Some(index) = self.consumers.iter().position(|consumer| consumer.conn == conn) else {
            return false;
        };
        let mut left = self.consumers.remove(index);
        left.unacked.values_mut().for_each(|stored| stored.message.deliveries += 1);
        self.turn = 0;
        match rearrange {
            Rearrange::Back => self.ready.extend(left.unacked.into_values()),
            Rearrange::Front => {
                self.ready.extend(left.unacked.into_values());
                self.ready.make_contiguous().sort_by_key(|stored| stored.number);
            }
        }
        self.consumers.is_empty()
    }
}
