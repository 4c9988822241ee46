//! Acks and nacks that know whether they still mean anything.
//!
//! A delivery belongs to the channel that it came on. When that channel is gone the broker has requeued it, and an
//! ack would be for nothing or, worse, for another delivery with the same number. An [`Acker`] of an earlier
//! generation therefore does nothing and says [`AckResult::Stale`].

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use tokio_util::sync::CancellationToken;

/// What became of an ack or nack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a stale ack means that the message will be delivered again"]
pub enum AckResult {
    /// It was written to the connection. (AMQP does not confirm acks: a connection that dies now may lose it, and
    /// the message is then delivered again.)
    Sent,
    /// The channel of the delivery is gone; the broker delivers the message again.
    Stale,
}

/// What became of a batch of acks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use = "stale acks mean that the messages will be delivered again"]
pub struct AckCounts {
    /// Written.
    pub sent: usize,
    /// For deliveries of a channel that is gone.
    pub stale: usize,
}

/// The life of one consuming channel, shared by all deliveries that came on it.
#[derive(Debug)]
pub(super) struct Epoch {
    channel: Channel,
    generation: u64,
    ended: CancellationToken,
    /// Delivery tags that have been neither acked nor nacked.
    open: Mutex<BTreeSet<u64>>,
}

impl Epoch {
    pub(super) fn new(channel: Channel, generation: u64) -> Arc<Self> {
        let open = Mutex::new(BTreeSet::new());
        Arc::new(Self { channel, generation, ended: CancellationToken::new(), open })
    }

    pub(super) fn channel(&self) -> &Channel {
        &self.channel
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// From now on every acker of this epoch is stale.
    pub(super) fn end(&self) {
        self.ended.cancel();
    }

    pub(super) fn is_over(&self) -> bool {
        self.ended.is_cancelled() || !self.channel.status().connected()
    }

    /// Whether everything that came is acked or nacked.
    pub(super) fn is_idle(&self) -> bool {
        self.open().is_empty()
    }

    /// An acker for a delivery that has just come.
    pub(super) fn acker(self: &Arc<Self>, tag: u64, no_ack: bool) -> Acker {
        if !no_ack {
            self.open().insert(tag);
        }
        Acker { epoch: Arc::clone(self), tag, no_ack }
    }

    fn open(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ack(&self, tag: u64, multiple: bool) -> AckResult {
        if self.is_over() {
            return AckResult::Stale;
        }
        sent(self.channel.basic_ack(tag, BasicAckOptions { multiple }).await)
    }

    async fn nack(&self, tag: u64, requeue: bool) -> AckResult {
        if self.is_over() {
            return AckResult::Stale;
        }
        sent(self.channel.basic_nack(tag, BasicNackOptions { multiple: false, requeue }).await)
    }
}

fn sent(written: lapin::Result<()>) -> AckResult {
    match written {
        Ok(()) => AckResult::Sent,
        Err(error) => {
            tracing::debug!(%error, "an ack could not be written");
            AckResult::Stale
        }
    }
}

/// The right to settle one delivery, once. Dropping it settles nothing: the message stays with this consumer until
/// its channel ends and is then delivered again.
#[derive(Debug)]
#[must_use = "an unsettled delivery takes a place of the prefetch until its channel ends"]
pub struct Acker {
    epoch: Arc<Epoch>,
    tag: u64,
    no_ack: bool,
}

impl Acker {
    /// The message is done with.
    pub async fn ack(self) -> AckResult {
        if self.no_ack {
            return AckResult::Sent;
        }
        self.epoch.open().remove(&self.tag);
        self.epoch.ack(self.tag, false).await
    }

    /// The message is refused: with `requeue` the broker delivers it again, without it is dead-lettered where the
    /// queue says so, else dropped. A nack carries no reason: record the failure first.
    pub async fn nack(self, requeue: bool) -> AckResult {
        if self.no_ack {
            return AckResult::Sent;
        }
        self.epoch.open().remove(&self.tag);
        self.epoch.nack(self.tag, requeue).await
    }

    /// True when settling would do nothing any more. It may become true at any time.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.epoch.is_over()
    }

    /// True when the message will be delivered again whatever is done with this copy.
    pub(super) fn is_void(&self) -> bool {
        !self.no_ack && self.epoch.is_over()
    }

    /// The generation of the channel that the delivery came on.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.epoch.generation()
    }
}

/// Acks many deliveries with as few frames as possible: one `multiple` ack for the oldest of each channel as far as
/// nothing in between is still in somebody's hand, and single acks for the rest.
pub async fn ack_all(ackers: Vec<Acker>) -> AckCounts {
    let mut by_epoch: HashMap<usize, (Arc<Epoch>, BTreeSet<u64>)> = HashMap::new();
    let mut counts = AckCounts::default();
    for acker in ackers {
        if acker.no_ack {
            counts.sent += 1;
            continue;
        }
        let key = Arc::as_ptr(&acker.epoch).addr();
        by_epoch.entry(key).or_insert_with(|| (acker.epoch, BTreeSet::new())).1.insert(acker.tag);
    }
    for (epoch, tags) in by_epoch.into_values() {
        let plan = plan_acks(&mut epoch.open(), &tags);
        for AckFrame { tag, multiple, covers } in plan {
            match epoch.ack(tag, multiple).await {
                AckResult::Sent => counts.sent += covers,
                AckResult::Stale => counts.stale += covers,
            }
        }
    }
    counts
}

/// One ack to write.
#[derive(Debug, PartialEq, Eq)]
struct AckFrame {
    tag: u64,
    multiple: bool,
    /// How many deliveries it acks.
    covers: usize,
}

/// Takes `tags` out of `open` and returns the acks to write.
fn plan_acks(open: &mut BTreeSet<u64>, tags: &BTreeSet<u64>) -> Vec<AckFrame> {
    let (prefix, last) =
        open.iter().take_while(|tag| tags.contains(tag)).fold((0, None), |(n, _), tag| (n + 1, Some(*tag)));
    open.retain(|tag| !tags.contains(tag));
    let mut plan = Vec::new();
    if let Some(tag) = last {
        plan.push(AckFrame { tag, multiple: prefix > 1, covers: prefix });
    }
    let rest = tags.iter().filter(|tag| last.is_none_or(|last| **tag > last));
    plan.extend(rest.map(|tag| AckFrame { tag: *tag, multiple: false, covers: 1 }));
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(tag: u64, multiple: bool, covers: usize) -> AckFrame {
        AckFrame { tag, multiple, covers }
    }

    #[test]
    fn a_whole_prefix_takes_one_frame() {
        let mut open = BTreeSet::from([1, 2, 3, 4, 5]);
        assert_eq!(plan_acks(&mut open, &BTreeSet::from([1, 2, 3])), [frame(3, true, 3)]);
        assert_eq!(open, BTreeSet::from([4, 5]));
    }

    #[test]
    fn what_lies_behind_a_delivery_in_hand_is_acked_one_by_one() {
        let mut open = BTreeSet::from([1, 2, 3, 4, 5]);
        let plan = plan_acks(&mut open, &BTreeSet::from([1, 2, 4, 5]));
        assert_eq!(plan, [frame(2, true, 2), frame(4, false, 1), frame(5, false, 1)]);
        assert_eq!(open, BTreeSet::from([3]));
    }

    #[test]
    fn a_multiple_ack_never_covers_a_delivery_that_is_still_in_hand() {
        let mut open = BTreeSet::from([7, 8, 9]);
        let plan = plan_acks(&mut open, &BTreeSet::from([8, 9]));
        assert_eq!(plan, [frame(8, false, 1), frame(9, false, 1)]);
        assert_eq!(plan_acks(&mut open, &BTreeSet::from([7])), [frame(7, false, 1)]);
        assert!(open.is_empty());
    }
}
