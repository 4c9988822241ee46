//! Queues that cannot be consumed although the connection is alive: found, said once, counted, and made anew where that is allowed.
//!
//! A quorum queue needs a leader. One that lost it for good answers nothing: RabbitMQ 3.10 writes the names of quorum queues to disk
//! some seconds after they were declared, and a queue whose name was not written when the broker was killed comes back empty, as a
//! follower that waits for an election which nobody starts. `queue.declare` succeeds on it; `basic.consume` and publishes to it are
//! held by the broker for a minute, each with its whole channel. Deleting it is the one remedy that a client has.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::declare::{DeclareError, declare, delete_queue};
use super::fault::{Fault, code};
use super::limits::QUEUE_SILENT_AFTER_MILLIS;
use super::session::Session;
use super::topology::Topology;

/// What is done about a silent queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum WhenSilent {
    /// It is said, and waited for: what is in it exists nowhere else.
    #[default]
    Wait,
    /// It is deleted with what is in it, and declared anew from this: for a queue whose content is known elsewhere and sent again.
    Rebuild(Topology),
}

/// The silent queues of one connection, for whoever tells whether all is well.
#[derive(Clone, Debug, Default)]
pub(super) struct SilentQueues(Arc<watch::Sender<BTreeSet<String>>>);

impl SilentQueues {
    pub(super) fn watch(&self) -> watch::Receiver<BTreeSet<String>> {
        self.0.subscribe()
    }

    fn add(&self, queue: &str) {
        metrics::gauge!("switchyard_broker_queue_silent", "queue" => queue.to_owned()).set(1.0);
        self.0.send_if_modified(|silent| silent.insert(queue.to_owned()));
    }

    fn remove(&self, queue: &str) {
        metrics::gauge!("switchyard_broker_queue_silent", "queue" => queue.to_owned()).set(0.0);
        self.0.send_if_modified(|silent| silent.remove(queue));
    }
}

/// Since when a queue could not be consumed, on one connection.
#[derive(Debug, Default)]
struct Tries {
    failing_since: Option<Instant>,
    generation: u64,
}

impl Tries {
    /// Enters a try that began at `begun` and failed; how long the queue has been failing by now.
    fn failed(&mut self, generation: u64, begun: Instant, now: Instant) -> Duration {
        if self.generation != generation {
            *self = Self { failing_since: None, generation };
        }
        now.duration_since(*self.failing_since.get_or_insert(begun))
    }
}

/// Watches over one queue.
pub(super) struct Watch {
    queue: String,
    policy: WhenSilent,
    all: SilentQueues,
    tries: Tries,
    silent: bool,
}

impl Watch {
    pub(super) fn new(queue: String, policy: WhenSilent, all: SilentQueues) -> Self {
        Self { queue, policy, all, tries: Tries::default(), silent: false }
    }

    /// The queue is consumed.
    pub(super) fn consumed(&mut self) {
        self.tries = Tries::default();
        if std::mem::take(&mut self.silent) {
            tracing::info!(queue = self.queue, "a queue that was silent is consumed again");
            self.all.remove(&self.queue);
        }
    }

    /// Consuming could not begin: says so when it has lasted, and makes the queue anew where that is allowed.
    pub(super) async fn refused(&mut self, session: &Session, fault: &Fault, begun: Instant) {
        if !is_the_queues(fault) {
            return;
        }
        let lasted = self.tries.failed(session.generation(), begun, Instant::now());
        if lasted < Duration::from_millis(QUEUE_SILENT_AFTER_MILLIS) {
            return;
        }
        self.say(fault, lasted);
        if let WhenSilent::Rebuild(topology) = &self.policy {
            let rebuilt = self.rebuild(session, topology).await;
            if let Err(error) = rebuilt {
                tracing::warn!(queue = self.queue, %error, "a silent queue could not be made anew, will try again");
            }
            self.tries = Tries::default();
        }
    }

    fn say(&mut self, fault: &Fault, lasted: Duration) {
        if std::mem::replace(&mut self.silent, true) {
            return;
        }
        self.all.add(&self.queue);
        let silent_ms = lasted.as_millis();
        match &self.policy {
            WhenSilent::Wait => tracing::error!(
                queue = self.queue, %fault, silent_ms,
                "a queue does not answer: it has no leader. It is waited for and never deleted, because what is in it exists nowhere \
                 else. Where its nodes are up and it stays so, elect a leader at the broker, or save what is in it and delete it: it is \
                 then declared anew"
            ),
            WhenSilent::Rebuild(_) => tracing::warn!(
                queue = self.queue, %fault, silent_ms,
                "a queue does not answer: it has no leader. It is deleted and declared anew; what was in it is sent again"
            ),
        }
    }

    async fn rebuild(&self, session: &Session, topology: &Topology) -> Result<(), DeclareError> {
        delete_queue(session, &self.queue).await?;
        declare(session, topology).await?;
        metrics::counter!("switchyard_broker_queues_rebuilt_total", "queue" => self.queue.clone())
            .increment(1);
        tracing::warn!(queue = self.queue, "a silent queue was deleted and declared anew");
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.silent {
            self.all.remove(&self.queue);
        }
    }
}

/// Whether a fault speaks of the queue itself: it gave no answer, or the broker finds no living process for it.
fn is_the_queues(fault: &Fault) -> bool {
    fault.no_answer || fault.is(code::NOT_FOUND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_time_on_one_connection_counts_from_the_begin_of_the_first_try() {
        let mut tries = Tries::default();
        let begun = Instant::now();
        let later = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(tries.failed(1, begun, later(5)), Duration::from_secs(5));
        assert_eq!(tries.failed(1, later(6), later(11)), Duration::from_secs(11));
        assert_eq!(tries.failed(2, later(60), later(65)), Duration::from_secs(5));
    }

    #[test]
    fn a_lost_connection_or_a_lock_is_no_fault_of_the_queue() {
        let coded = |code| Fault { code: Some(code), ..Fault::local("said") };
        assert!(is_the_queues(&Fault::no_answer(Duration::from_secs(5))));
        assert!(is_the_queues(&coded(code::NOT_FOUND)));
        assert!(!is_the_queues(&coded(code::RESOURCE_LOCKED)));
        assert!(!is_the_queues(&coded(code::ACCESS_REFUSED)));
        assert!(!is_the_queues(&Fault::local("the connection has ended")));
    }

    #[test]
    fn silent_queues_are_listed_until_they_are_consumed_or_given_up() {
        let all = SilentQueues::default();
        let mut watch = Watch::new("q".into(), WhenSilent::Wait, all.clone());
        let seen = all.watch();
        watch.say(&Fault::local("x"), Duration::ZERO);
        assert!(seen.borrow().contains("q"));
        watch.consumed();
        assert!(seen.borrow().is_empty());
        watch.say(&Fault::local("x"), Duration::ZERO);
        drop(watch);
        assert!(seen.borrow().is_empty());
    }
}
