//! Exchanges, bindings, queues, and who may do what with them.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use switchyard_common::broker::topology::{ArgumentValue, BindingDecl, Topology};
use switchyard_common::contract::topology::{DEAD_LETTER_EXCHANGE, DEFAULT_EXCHANGE, Namespace};

use super::message::Message;
use super::queue::{Queue, Rearrange, Tag};
use crate::sim::agenda::Millis;
use crate::sim::wire::ConnId;

/// The queue belongs to another connection: 405, the lock on an agent's id (protocol A3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InUse;

/// A delivery on its way to a consumer.
#[derive(Debug)]
pub struct Outgoing {
    /// The consumer's connection.
    pub conn: ConnId,
    /// For the ack.
    pub tag: Tag,
    /// The message.
    pub message: Message,
}

/// The broker.
#[derive(Debug)]
pub struct Broker {
    queues: BTreeMap<Rc<str>, Queue>,
    bindings: Vec<BindingDecl>,
    /// Deliveries that are out, and the queue of each.
    out: BTreeMap<(ConnId, Tag), Rc<str>>,
    tags: Tag,
    /// Queues in which something may be deliverable.
    stirred: BTreeSet<Rc<str>>,
    /// Where unacked messages go.
    pub rearrange: Rearrange,
    /// The time, set by whoever lets it pass.
    pub now: Millis,
}

impl Broker {
    /// A broker with the queues that all replicas share.
    #[must_use]
    pub fn new(namespace: &Namespace, rearrange: Rearrange) -> Self {
        let mut broker = Self {
            queues: BTreeMap::new(),
            bindings: Vec::new(),
            out: BTreeMap::new(),
            tags: 0,
            stirred: BTreeSet::new(),
            rearrange,
            now: 0,
        };
        broker.put(&namespace.dispatcher_topology(), None);
        broker
    }

    /// Declares queues and bindings on a connection.
    pub fn declare(&mut self, conn: ConnId, topology: &Topology) -> Result<(), InUse> {
        let taken = topology.queues.iter().any(|decl| {
            self.queues
                .get(decl.name.as_str())
                .is_some_and(|queue| queue.owner.is_some_and(|owner| owner != conn))
        });
        if taken {
            return Err(InUse);
        }
        self.put(topology, Some(conn));
        Ok(())
    }

    fn put(&mut self, topology: &Topology, conn: Option<ConnId>) {
        for decl in &topology.queues {
            let name: Rc<str> = decl.name.as_str().into();
            let owner = conn.filter(|_| decl.exclusive);
            self.queues.entry(name).or_insert_with(|| Queue::new(decl.clone(), owner));
        }
        for binding in &topology.bindings {
            if !self.bindings.contains(binding) {
                self.bindings.push(binding.clone());
            }
        }
    }

    /// Deletes a queue with all that is in it, as an administrator can.
    pub fn delete(&mut self, queue: &str) {
        self.queues.remove(queue);
        self.bindings.retain(|binding| binding.queue != queue);
        self.out.retain(|_, name| &**name != queue);
    }

    /// Starts consuming; without a prefetch, deliveries are acked as they are sent.
    pub fn consume(&mut self, conn: ConnId, queue: &str, prefetch: Option<usize>) {
        if let Some(consumed) = self.queues.get_mut(queue) {
            consumed.consume(conn, prefetch);
            self.stirred.insert(queue.into());
        }
    }

    /// Stops the consumer of one queue. What it has out stays out until it is settled or the connection closes.
    pub fn cancel(&mut self, conn: ConnId, queue: &str) {
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.cancel(conn);
        }
    }

    /// The consumer timeout: what the consumer has out of a queue comes back, and it consumes it no longer. False when it did not.
    pub fn time_out(&mut self, conn: ConnId, queue: &str) -> bool {
        let consumes = self.queues.get(queue).is_some_and(|queue| queue.is_consumed_by(conn));
        if consumes {
            self.leave(conn, queue);
        }
        consumes
    }

    /// Routes a message; false when no queue took it.
    pub fn publish(&mut self, message: &Message) -> bool {
        let bound = self
            .bindings
            .iter()
            .filter(|binding| {
                *binding.exchange == *message.exchange && matches(&binding.routing_key, &message.key)
            })
            .map(|binding| binding.queue.as_str());
        let by_name = (*message.exchange == *DEFAULT_EXCHANGE).then_some(&*message.key);
        let targets: BTreeSet<&str> = bound.chain(by_name).collect();
        let mut routed = false;
        for target in targets {
            if let Some(queue) = self.queues.get_mut(target) {
                queue.push(self.now, message.clone());
                self.stirred.insert(target.into());
                routed = true;
            }
        }
        routed
    }

    /// The consumer has done with a delivery.
    pub fn ack(&mut self, conn: ConnId, tag: Tag) {
        self.settle(conn, tag);
    }

    /// The consumer refuses a delivery: the message on its way to the dead letters, where its queue has a dead-letter exchange.
    pub fn nack(&mut self, conn: ConnId, tag: Tag) -> Option<Message> {
        let (queue, mut message) = self.settle(conn, tag)?;
        let decl = &self.queues.get(&queue)?.decl;
        let ArgumentValue::Text(exchange) = decl.arguments.get(DEAD_LETTER_EXCHANGE)? else { return None };
        message.exchange = exchange.as_str().into();
        message.died_in = Some(queue);
        Some(message)
    }

    fn settle(&mut self, conn: ConnId, tag: Tag) -> Option<(Rc<str>, Message)> {
        let name = self.out.remove(&(conn, tag))?;
        let message = self.queues.get_mut(&name)?.settle(conn, tag)?;
        self.stirred.insert(Rc::clone(&name));
        Some((name, message))
    }

    /// The connection is gone: what it had comes back, its exclusive queues go.
    pub fn close(&mut self, conn: ConnId) {
        let names: Vec<Rc<str>> = self.queues.keys().cloned().collect();
        for name in names {
            self.leave(conn, &name);
            if self.queues.get(&name).is_some_and(|queue| queue.owner == Some(conn)) {
                self.delete(&name);
            }
        }
        self.out.retain(|(owner, _), _| *owner != conn);
    }

    fn leave(&mut self, conn: ConnId, name: &str) {
        let Some(queue) = self.queues.get_mut(name) else { return };
        let last = queue.leave(conn, self.rearrange);
        self.out.retain(|(owner, _), queue| *owner != conn || &**queue != name);
        self.stirred.insert(name.into());
        if last && self.queues.get(name).is_some_and(|queue| queue.decl.auto_delete) {
            self.delete(name);
        }
    }

    /// Everything that can be delivered now.
    pub fn deliver(&mut self) -> Vec<Outgoing> {
        let mut outgoing = Vec::new();
        for name in std::mem::take(&mut self.stirred) {
            let Some(queue) = self.queues.get_mut(&name) else { continue };
            while let Some((conn, message, stays_out)) = queue.deliver(self.tags + 1) {
                self.tags += 1;
                let tag = self.tags;
                if stays_out {
                    self.out.insert((conn, tag), Rc::clone(&name));
                }
                outgoing.push(Outgoing { conn, tag, message });
            }
        }
        outgoing
    }

    /// Messages that are ready in a queue: what the broker tells whoever asks.
    #[must_use]
    pub fn ready(&self, queue: &str) -> u32 {
        self.queues.get(queue).map_or(0, |queue| u32::try_from(queue.ready()).unwrap_or(u32::MAX))
    }

    /// Throws away what waits in a queue, as an administrator can.
    pub fn purge(&mut self, queue: &str) -> Vec<Message> {
        self.queues.get_mut(queue).map(Queue::purge).unwrap_or_default()
    }

    /// When the first message that `is` and that nobody has been handed came into a queue.
    #[must_use]
    pub fn waiting_since(&self, queue: &str, is: impl Fn(&Message) -> bool) -> Option<Millis> {
        self.queues.get(queue)?.waiting_since(is)
    }

    /// Messages in a queue, ready or out; none when there is no such queue.
    #[must_use]
    pub fn depth(&self, queue: &str) -> Option<usize> {
        self.queues.get(queue).map(Queue::len)
    }
}

/// Whether a routing key matches a binding key, where `#` stands for any words and `*` for one. A direct exchange's keys have neither.
fn matches(pattern: &str, key: &str) -> bool {
    match pattern.split_once('.') {
        None => pattern == "#" || pattern == key || (pattern == "*" && !key.contains('.')),
        Some((first, rest)) => match key.split_once('.') {
            Some((word, others)) => (first == word || first == "*") && matches(rest, others),
            None => first == key && rest == "#",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn binding_keys_match_as_topics_do() {
        assert!(matches("#", "a.b.c"));
        assert!(matches("outcome.#", "outcome.default.worker-0"));
        assert!(!matches("outcome.#", "ask.default.worker-0"));
        assert!(matches("default.worker-0", "default.worker-0"));
        assert!(!matches("default.worker-0", "default.worker-1"));
        assert!(matches("canary.one", "canary.one"));
    }
}
