//! No pass without the broker: what a replica commits and cannot send would stand still while another replica could have sent it.

use std::time::Duration;

use switchyard_common::broker::ConnectionState;
use switchyard_common::shutdown::Shutdown;
use tokio::sync::watch;

/// A break of the connection that is shorter than this is not told.
const TELL_AFTER: Duration = Duration::from_secs(1);

/// Open while assignments can be sent.
#[derive(Debug, Clone)]
pub(super) struct BrokerGate {
    assignments: watch::Receiver<ConnectionState>,
    shutdown: Shutdown,
}

impl BrokerGate {
    pub(super) const fn new(assignments: watch::Receiver<ConnectionState>, shutdown: Shutdown) -> Self {
        Self { assignments, shutdown }
    }

    /// Waits until assignments can be sent. False when that never will be: the replica ends.
    pub(super) async fn opened(&mut self) -> bool {
        self.seen(ConnectionState::is_up).await
    }

    /// Says once that passes are left to others, and once that they go on, until shutdown.
    pub(super) async fn tell(mut self) {
        while self.seen(|state| !state.is_up()).await {
            match tokio::time::timeout(TELL_AFTER, self.opened()).await {
                Ok(true) => continue,
                Ok(false) => return,
                Err(_elapsed) => {}
            }
            tracing::warn!(
                "assignments cannot be sent: passes are left to other replicas while the broker is away"
            );
            if !self.opened().await {
                return;
            }
            tracing::info!("assignments can be sent again: passes go on");
        }
    }

    async fn seen(&mut self, is_wanted: impl FnMut(&ConnectionState) -> bool) -> bool {
        // An error means that the connection was closed for good, which happens at shutdown only.
        let seen = async { self.assignments.wait_for(is_wanted).await.is_ok() };
        self.shutdown.unless_requested(seen).await.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use futures::FutureExt;

    use super::*;

    fn down() -> ConnectionState {
        ConnectionState::Down { since: Utc::now(), reason: "cut".into() }
    }

    #[tokio::test]
    async fn the_gate_is_closed_while_assignments_cannot_be_sent() {
        let (sender, receiver) = watch::channel(down());
        let mut gate = BrokerGate::new(receiver, Shutdown::new(Duration::from_secs(1)));
        assert_eq!(gate.opened().now_or_never(), None, "down");
        sender.send_replace(ConnectionState::Up { generation: 1 });
        assert_eq!(gate.opened().now_or_never(), Some(true));
        sender.send_replace(ConnectionState::Blocked { generation: 1, reason: "low on memory".into() });
        assert_eq!(gate.opened().now_or_never(), None, "blocked");
    }

    #[tokio::test]
    async fn shutdown_ends_the_wait_at_the_gate() {
        let (_sender, receiver) = watch::channel(down());
        let shutdown = Shutdown::new(Duration::from_secs(1));
        let mut gate = BrokerGate::new(receiver, shutdown.clone());
        shutdown.trigger("test");
        assert!(!gate.opened().await);
    }
}
