//! What intake assigns in its own transaction (protocol E5): when it may, and what follows.

use std::collections::BTreeSet;

use switchyard_common::broker::ConnectionState;
use switchyard_common::contract::ids::PoolId;
use tokio::sync::watch;

use super::narrate;
use super::once::Outcome;
use super::run::ToRoute;
use super::wake::Wake;
use crate::store::intake::AtOnce;

/// Lets intake assign. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Assigner {
    /// Knows where nothing waits, and asks for passes over what is left over.
    pub wake: Wake,
    /// Where committed assignments go.
    pub to_route: ToRoute,
    /// The connection on which they are sent.
    pub assignments: watch::Receiver<ConnectionState>,
}

impl Assigner {
    /// The pools for which it is worth a try: nothing was left waiting there, and what is assigned can be sent now. While it cannot,
    /// passes are left to other replicas, and so is this.
    #[must_use]
    pub fn idle_pools(&self) -> BTreeSet<PoolId> {
        if self.assignments.borrow().is_up() && self.to_route.capacity() > 0 {
            self.wake.idle()
        } else {
            BTreeSet::new()
        }
    }

    /// After the commit: leaves what may be scheduled in `pool` to a pass. Until one has found nothing, it is not worth a try.
    pub fn leave_to_pass(&self, pool: &PoolId) {
        self.wake.note_idle(pool, false);
        self.wake.pool(pool);
    }

    /// After the commit: the lines of a pass, and over to routing.
    pub async fn committed(&self, at_once: AtOnce) {
        let pool = at_once.pool.clone();
        narrate::begins_at_once(&pool);
        let outcome = Outcome::at_once(at_once);
        narrate::ends(&pool, &outcome);
        let assigned = outcome.into_report().assigned;
        if !assigned.is_empty() && self.to_route.send(assigned).await.is_err() {
            tracing::error!(%pool, "routing has ended; another replica will publish what was assigned");
        }
    }
}
