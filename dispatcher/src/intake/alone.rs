//! What is handled alone, because it came back again and again (protocol D4; see [`super::deliveries`]).

use switchyard_common::contract::ids::Digest;
use switchyard_common::failure::FailureKind;
use switchyard_common::shutdown::Shutdown;

use super::command::Rejection;
use super::deliveries::{in_turn, is_poison, may_be_poison};
use super::run::{Event, Intake};
use super::trials::Trials;
use crate::dead_letters::kept::fingerprint;

impl Intake {
    /// Each in a trial of its own, which is committed before the event is so much as read, and forgotten when it has ended: what one of
    /// them does to this process is held against that one alone.
    pub(super) async fn handle_alone(&mut self, alone: Vec<Event>, shutdown: &Shutdown) {
        let keyed: Vec<(Digest, Event)> =
            alone.into_iter().map(|event| (fingerprint(&event.message), event)).collect();
        let keys: Vec<Digest> = keyed.iter().map(|(key, _)| key.clone()).collect();
        let trials = Trials::new(self.context.db.clone(), shutdown);
        let Some(left) = trials.left_behind(&keys).await else { return };
        let left_of = |key: &Digest| left.get(key).copied().unwrap_or_default();
        for (key, mut event) in in_turn(keyed, |(key, _)| left_of(key)) {
            if shutdown.is_requested() {
                return;
            }
            let deliveries = event.deliveries();
            // Asked again: another replica may have come to the end of it since.
            let Some(left) = trials.left_behind(std::slice::from_ref(&key)).await else { return };
            let died = left.get(&key).copied().unwrap_or_default();
            if is_poison(deliveries, died) {
                // Its trials are kept: should the nack be lost, it must not be tried again.
                self.reject(event, poison(deliveries, died), shutdown).await;
                continue;
            }
            if may_be_poison(deliveries) {
                metrics::counter!("switchyard_events_returning_total").increment(1);
                tracing::error!(
                    deliveries,
                    died,
                    routing_key = event.message.routing_key,
                    "an event comes back again and again; it is poison when dispatchers die of it"
                );
            }
            if trials.begin(&key).await.is_none() {
                return;
            }
            event.trial = Some(key.clone());
            self.handle_together(vec![event], shutdown).await;
            if trials.end(&key).await.is_none() {
                return;
            }
        }
    }
}

fn poison(deliveries: u64, trials: u32) -> Rejection {
    Rejection::new(
        FailureKind::Poison,
        format!(
            "the event was delivered {deliveries} times without being settled, and {trials} times a dispatcher that had begun to \
             handle it alone ended without a word"
        ),
        "look at what the dispatchers logged before they ended, then replay it",
    )
}
