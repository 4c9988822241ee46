//! Stop requests, durable in the database, sent again with growing waits until their agent answers (protocol B4, incident 37).

use switchyard_common::contract::control::Control;

use super::Sweeper;
use crate::control::{Told, stop_order};
use crate::store::StoreError;
use crate::store::sweep::{StopRequest, claim_stops, note_unanswered};

/// A request that was sent this often without an answer is told to people: about a minute.
pub const UNANSWERED_FROM_SENDS: u32 = 8;

impl Sweeper {
    /// Sends the requests that are due, each from one replica.
    pub async fn stops(&self) -> Result<usize, StoreError> {
        let stops = claim_stops(&self.db).await?;
        for stop in &stops {
            self.orders.send(told(stop));
        }
        let unanswered: Vec<&StopRequest> =
            stops.iter().filter(|stop| stop.sends == UNANSWERED_FROM_SENDS).collect();
        for stop in &unanswered {
            metrics::counter!("switchyard_stops_unanswered_total").increment(1);
            tracing::warn!(task_id = %stop.claim.task_id, attempt = stop.claim.attempt, agent = %stop.to,
                reason = stop.reason.as_str(), sends = stop.sends,
                "the agent does not answer a request to stop; it is asked again until it does, or its session ends");
        }
        if !unanswered.is_empty() {
            note_unanswered(&self.db, &unanswered).await?;
        }
        Ok(stops.len())
    }
}

fn told(stop: &StopRequest) -> Told {
    let order = stop_order(stop.claim.clone(), stop.reason, stop.force);
    Told { to: stop.to.clone(), control: Control { epoch: stop.epoch, order } }
}
