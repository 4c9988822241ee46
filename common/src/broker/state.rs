//! What a supervised connection says about itself.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::sync::watch;

use super::fault::{Fault, code};

/// While a connection stays down for the same reason, the log says so again after this long.
const REMIND_SECONDS: u64 = 30;

/// The state of a supervised connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// Usable. The generation grows with every reconnection.
    Up {
        /// Which connection of this owner it is, from 1.
        generation: u64,
    },
    /// Connected, but the broker does not read (memory or disk alarm): publishes wait.
    Blocked {
        /// Which connection of this owner it is.
        generation: u64,
        /// The broker's reason.
        reason: String,
    },
    /// Not usable; a reconnection is under way.
    Down {
        /// Since when.
        since: DateTime<Utc>,
        /// Why.
        reason: String,
    },
    /// Closed by its owner; final.
    Closed,
}

impl ConnectionState {
    /// True when messages can pass.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Up { .. })
    }
}

/// The writing side: one per supervised connection. Logs and counts each change.
#[derive(Debug)]
pub(super) struct StateSender {
    role: &'static str,
    url: String,
    sender: watch::Sender<ConnectionState>,
    /// What was last said about being down, and when.
    said: Option<(Fault, Instant)>,
}

impl StateSender {
    pub(super) fn new(role: &'static str, url: String) -> (Self, watch::Receiver<ConnectionState>) {
        let down = ConnectionState::Down { since: Utc::now(), reason: "not connected yet".to_owned() };
        let (sender, receiver) = watch::channel(down);
        gauge(role, false);
        (Self { role, url, sender, said: None }, receiver)
    }

    pub(super) fn up(&mut self, generation: u64) {
        gauge(self.role, true);
        if generation > 1 {
            metrics::counter!("switchyard_broker_reconnects_total", "role" => self.role).increment(1);
        }
        if self.lacks_something() {
            tracing::debug!(role = self.role, broker = self.url, generation, "broker connection is up");
        } else {
            self.said = None;
            tracing::info!(role = self.role, broker = self.url, generation, "broker connection is up");
        }
        self.sender.send_replace(ConnectionState::Up { generation });
    }

    pub(super) fn blocked(&self, generation: u64, reason: String) {
        tracing::warn!(role = self.role, broker = self.url, reason, "the broker has blocked this connection");
        self.sender.send_replace(ConnectionState::Blocked { generation, reason });
    }

    pub(super) fn unblocked(&self, generation: u64) {
        tracing::info!(role = self.role, broker = self.url, "the broker reads from this connection again");
        self.sender.send_replace(ConnectionState::Up { generation });
    }

    /// Down, or still down for another reason; `since` is kept in the second case.
    pub(super) fn down(&mut self, fault: &Fault, next_try: Duration) {
        gauge(self.role, false);
        if self.is_news(fault, Instant::now()) {
            tracing::warn!(
                role = self.role,
                broker = self.url,
                reason = %fault,
                next_try_ms = next_try.as_millis(),
                "broker connection is down"
            );
        } else {
            tracing::debug!(role = self.role, reason = %fault, "broker connection is still down");
        }
        self.sender.send_modify(|state| {
            let since = match state {
                ConnectionState::Down { since, .. } => *since,
                ConnectionState::Up { .. } | ConnectionState::Blocked { .. } | ConnectionState::Closed => {
                    Utc::now()
                }
            };
            *state = ConnectionState::Down { since, reason: fault.to_string() };
        });
    }

    /// Whether it was down last because something does not exist at the broker. Being up proves nothing then: that is found out only when
    /// it is used, and coming up and going down would be said each time.
    fn lacks_something(&self) -> bool {
        self.said.as_ref().is_some_and(|(fault, _)| fault.is(code::NOT_FOUND))
    }

    /// Whether being down for this reason should be said (again), and remembers that it was.
    fn is_news(&mut self, fault: &Fault, now: Instant) -> bool {
        let remind = Duration::from_secs(REMIND_SECONDS);
        let news =
            self.said.as_ref().is_none_or(|(said, at)| said != fault || now.duration_since(*at) >= remind);
        if news {
            self.said = Some((fault.clone(), now));
        }
        news
    }

    pub(super) fn closed(&self) {
        gauge(self.role, false);
        self.sender.send_replace(ConnectionState::Closed);
    }
}

fn gauge(role: &'static str, up: bool) {
    metrics::gauge!("switchyard_broker_connected", "role" => role).set(f64::from(u8::from(up)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staying_down_keeps_the_time_and_updates_the_reason() {
        let (mut sender, receiver) = StateSender::new("test", String::new());
        sender.up(1);
        assert!(receiver.borrow().is_up());
        sender.down(&Fault::local("cut"), Duration::ZERO);
        let ConnectionState::Down { since: first, .. } = receiver.borrow().clone() else {
            panic!("not down")
        };
        sender.down(&Fault::local("refused"), Duration::ZERO);
        let state = receiver.borrow().clone();
        assert_eq!(state, ConnectionState::Down { since: first, reason: "refused".to_owned() });
    }

    #[test]
    fn the_same_reason_is_repeated_only_after_a_while() {
        let (mut sender, _receiver) = StateSender::new("test", String::new());
        let begun = Instant::now();
        let (cut, refused) = (Fault::local("cut"), Fault::local("refused"));
        assert!(sender.is_news(&cut, begun));
        assert!(!sender.is_news(&cut, begun + Duration::from_secs(REMIND_SECONDS - 1)));
        assert!(sender.is_news(&refused, begun));
        assert!(sender.is_news(&refused, begun + Duration::from_secs(REMIND_SECONDS)));
        sender.up(1);
        assert!(sender.is_news(&refused, begun));
    }

    #[test]
    fn what_does_not_exist_is_said_once_although_the_connection_comes_up_in_between() {
        let (mut sender, _receiver) = StateSender::new("test", String::new());
        let begun = Instant::now();
        let missing = Fault { code: Some(code::NOT_FOUND), ..Fault::local("no exchange 'x'") };
        assert!(sender.is_news(&missing, begun));
        sender.up(2);
        assert!(!sender.is_news(&missing, begun));
        assert!(sender.is_news(&Fault::local("cut"), begun));
        sender.up(3);
        assert!(sender.is_news(&missing, begun));
    }

    #[test]
    fn a_blocked_connection_is_not_up() {
        let (mut sender, receiver) = StateSender::new("test", String::new());
        sender.up(3);
        sender.blocked(3, "low on memory".to_owned());
        assert!(!receiver.borrow().is_up());
        sender.unblocked(3);
        assert_eq!(*receiver.borrow(), ConnectionState::Up { generation: 3 });
    }
}
