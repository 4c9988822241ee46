//! The lock on the agent's id, as far as its declaration tells: who holds it while it is refused, said once.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use switchyard_common::broker::DeclareError;
use tokio::time::Instant;

use super::limits::OWN_LOCK_MAX_MS;

/// What is known of the lock. Shared by the connections of one process, which follow each other.
#[derive(Debug, Default)]
pub(super) struct Lock(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// This process was granted it at least once.
    held: bool,
    /// Since when it has been refused without a break.
    refused_since: Option<Instant>,
    /// What was said of the refusal that lasts.
    said: Option<Holder>,
}

/// Who seems to hold the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// This process's earlier connection, which the broker has not let go of.
    Ourselves,
    /// Another process.
    Another,
}

impl Known {
    fn granted(&mut self) {
        *self = Self { held: true, ..Self::default() };
    }

    /// What is to be said of a refusal now; none when it was said.
    fn refused(&mut self, now: Instant) -> Option<Holder> {
        let since = *self.refused_since.get_or_insert(now);
        let own = self.held && now.duration_since(since) < Duration::from_millis(OWN_LOCK_MAX_MS);
        let holder = if own { Holder::Ourselves } else { Holder::Another };
        let news = self.said != Some(holder);
        self.said = Some(holder);
        news.then_some(holder)
    }
}

impl Lock {
    /// Enters how a declaration of the control queue ended.
    pub(super) fn tried(&self, declared: &Result<(), DeclareError>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match declared {
            Ok(()) => known.granted(),
            Err(error @ DeclareError::Locked { .. }) => say(known.refused(Instant::now()), error),
            Err(_) => {}
        }
    }
}

fn say(holder: Option<Holder>, error: &DeclareError) {
    match holder {
        Some(Holder::Ourselves) => {
            tracing::warn!(%error, "the broker still holds this agent's earlier connection: waiting until it lets go of the id");
        }
        Some(Holder::Another) => {
            tracing::error!(%error, "this agent id is in use by another process: waiting until it is free");
        }
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_this_process_has_held_is_its_own_for_a_while_then_anothers_each_said_once() {
        let mut known = Known::default();
        let begun = Instant::now();
        let limit = Duration::from_millis(OWN_LOCK_MAX_MS);
        assert_eq!(known.refused(begun), Some(Holder::Another));
        assert_eq!(known.refused(begun), None);
        known.granted();
        assert_eq!(known.refused(begun), Some(Holder::Ourselves));
        assert_eq!(known.refused(begun + limit - Duration::from_millis(1)), None);
        assert_eq!(known.refused(begun + limit), Some(Holder::Another));
        assert_eq!(known.refused(begun + limit), None);
    }
}
