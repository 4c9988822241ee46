//! Acks and nacks. They are written by a task of their own, because writing may wait for the network; what has queued up is acked with
//! as few frames as possible.

use std::collections::HashMap;

use switchyard_common::broker::{AckResult, Acker, ack_all};
use switchyard_common::guard::{GuardedTask, spawn_guarded};
use tokio::sync::mpsc;

use super::limits::TURN_MAX_COUNT;
use crate::machine::Tag;

/// The name of the task that writes.
pub(super) const TASK: &str = "agent-settler";

enum Settle {
    Ack(Acker),
    Nack(Acker),
}

/// The deliveries that are neither acked nor nacked, by the tag that the machine knows them by.
pub(super) struct Settler {
    open: HashMap<Tag, Acker>,
    tags: u64,
    queue: mpsc::UnboundedSender<Settle>,
    task: GuardedTask<()>,
}

impl Settler {
    pub(super) fn start() -> Self {
        let (queue, settles) = mpsc::unbounded_channel();
        let task = spawn_guarded(TASK, write(settles));
        Self { open: HashMap::new(), tags: 0, queue, task }
    }

    /// Keeps a delivery until it is settled; returns its tag.
    pub(super) fn keep(&mut self, acker: Acker) -> Tag {
        self.tags += 1;
        let tag = Tag { channel: acker.generation(), number: self.tags };
        self.open.insert(tag, acker);
        tag
    }

    /// Acks a delivery. One of a channel that is gone comes again, which the machine is told by that channel's loss.
    pub(super) fn ack(&mut self, tag: Tag) {
        if let Some(acker) = self.open.remove(&tag) {
            let _ = self.queue.send(Settle::Ack(acker));
        }
    }

    /// Nacks a delivery without requeue.
    pub(super) fn nack(&mut self, tag: Tag) {
        if let Some(acker) = self.open.remove(&tag) {
            let _ = self.queue.send(Settle::Nack(acker));
        }
    }

    /// The channel is gone: the broker has every delivery back.
    pub(super) fn forget(&mut self) {
        self.open.clear();
    }

    /// The task that writes. It ends only when the process does, or when it panics.
    pub(super) const fn task(&mut self) -> &mut GuardedTask<()> {
        &mut self.task
    }

    /// Ends when everything that was settled is written.
    pub(super) fn finish(self) -> GuardedTask<()> {
        self.task
    }
}

async fn write(mut settles: mpsc::UnboundedReceiver<Settle>) {
    let mut taken = Vec::with_capacity(TURN_MAX_COUNT);
    while settles.recv_many(&mut taken, TURN_MAX_COUNT).await > 0 {
        let (mut acks, mut nacks) = (Vec::with_capacity(taken.len()), Vec::new());
        for settle in taken.drain(..) {
            match settle {
                Settle::Ack(acker) => acks.push(acker),
                Settle::Nack(acker) => nacks.push(acker),
            }
        }
        let mut stale = ack_all(acks).await.stale;
        for acker in nacks {
            stale += usize::from(acker.nack(false).await == AckResult::Stale);
        }
        if stale > 0 {
            tracing::debug!(stale, "deliveries of a channel that is gone were not settled: they come again");
        }
    }
}
