//! Orders to agents, each to its own control queue. Losing one is harmless: what must arrive is durable in the database and sent again
//! until it is answered, and an agent asks again until it hears (protocol B4, B7).

use std::time::Duration;

use switchyard_common::broker::{Outgoing, Properties, Publisher};
use switchyard_common::contract::control::{Control, Order};
use switchyard_common::contract::ids::AgentRef;
use switchyard_common::contract::report::Claim;
use switchyard_common::contract::topology::{DEFAULT_EXCHANGE, Namespace};
use switchyard_common::guard::spawn_guarded;
use switchyard_common::task::{Attempt, Effect, Input, RevokeReason, Subject};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::presence::beat::Beat;
use crate::presence::sessions::Verdict;
use crate::store::Applied;

/// Orders that wait for the broker; further ones are dropped and counted.
pub const ORDERS_WAITING_MAX_COUNT: usize = 4_096;
/// Orders that are published together.
const ORDERS_TOGETHER_MAX_COUNT: usize = 64;
/// Longest wait for the broker to take an order: later ones would only be stale.
const ORDER_WAIT_MAX: Duration = Duration::from_secs(2);

/// One order and its addressee.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The agent.
    pub to: AgentRef,
    /// The order.
    pub control: Control,
}

/// Sends orders, without waiting. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Orders {
    queue: mpsc::Sender<Told>,
}

impl Orders {
    /// Sends through `publisher` from a task of its own, which ends with the last clone.
    #[must_use]
    pub fn start(publisher: Publisher, namespace: &Namespace) -> Self {
        let (orders, received) = Self::channel(ORDERS_WAITING_MAX_COUNT);
        drop(spawn_guarded("orders", publish_all(received, publisher, namespace.clone())));
        orders
    }

    /// Orders that somebody else receives.
    #[must_use]
    pub fn channel(waiting_max: usize) -> (Self, mpsc::Receiver<Told>) {
        let (queue, received) = mpsc::channel(waiting_max);
        (Self { queue }, received)
    }

    /// Sends one order, or drops it when too many wait.
    pub fn send(&self, told: Told) {
        if self.queue.try_send(told).is_err() {
            metrics::counter!("switchyard_orders_dropped_total").increment(1);
        }
    }

    /// Sends what decisions ask for, after their commit.
    pub fn carry_out<'a>(&self, applied: impl IntoIterator<Item = &'a Applied>, epoch: i64) {
        for told in applied.into_iter().flat_map(|applied| orders_of(applied, epoch)) {
            self.send(told);
        }
    }
}

/// The orders that a decision asks for. Pure.
#[must_use]
pub fn orders_of(applied: &Applied, epoch: i64) -> Vec<Told> {
    let told = |to: &AgentRef, order: Order| Told { to: to.clone(), control: Control { epoch, order } };
    applied
        .effects()
        .filter_map(|effect| match (effect, &applied.named.input) {
            (Effect::Go { nonce }, Input::Ask { reporter, claim, .. }) => {
                Some(told(&reporter.agent, Order::Go { key: claim.key(), nonce: *nonce }))
            }
            (Effect::NoGo { nonce, reason }, Input::Ask { reporter, claim, .. }) => Some(told(
                &reporter.agent,
                Order::NoGo { key: claim.key(), nonce: *nonce, reason: reason.clone() },
            )),
            (Effect::SendRevoke, _) => {
                let (to, order) = revoke_order(applied.after()?)?;
                Some(told(&to, order))
            }
            // An answer without its ask cannot be; a letter is the store's.
            (Effect::Go { .. } | Effect::NoGo { .. } | Effect::Letter { .. }, _) => None,
        })
        .collect()
}

/// What a sign of life is answered with: a session that is over is told so, and ends what it still runs (protocol C5). Pure.
#[must_use]
pub fn answer_to_beat(beat: &Beat, verdict: Verdict, epoch: i64) -> Option<Told> {
    match verdict {
        Verdict::SessionOver => {
            let order = Order::EndSession { session: beat.presence.session };
            Some(Told { to: beat.agent.clone(), control: Control { epoch, order } })
        }
        Verdict::NewSession { .. }
        | Verdict::Fresh
        | Verdict::Stale
        | Verdict::ForeignSession
        | Verdict::PoolRevoked
        | Verdict::UnknownPool => None,
    }
}

fn revoke_order(after: &Subject) -> Option<(AgentRef, Order)> {
    let attempt = after.attempt.as_ref()?;
    let revoke = attempt.revoke?;
    let to = attempt.assignee.agent.clone();
    Some((to, stop_order(claim_of(after, attempt), revoke.reason, revoke.force)))
}

fn claim_of(subject: &Subject, attempt: &Attempt) -> Claim {
    Claim {
        task_id: subject.task.id.clone(),
        attempt: attempt.number,
        session: attempt.assignee.session,
        lease: attempt.assignee.lease,
    }
}

/// The order that stops an attempt: a cancel where a person asked for it, a revoke otherwise.
#[must_use]
pub fn stop_order(claim: Claim, reason: RevokeReason, force: bool) -> Order {
    match reason {
        RevokeReason::Cancel => Order::Cancel { claim, force },
        RevokeReason::Deadline
        | RevokeReason::RunTimeout
        | RevokeReason::StartTimeout
        | RevokeReason::Returned
        | RevokeReason::NotListed
        | RevokeReason::BrokerLetter
        | RevokeReason::PoolRevoked => Order::Revoke { claim, reason: reason.as_str().to_owned(), force },
    }
}

async fn publish_all(mut received: mpsc::Receiver<Told>, publisher: Publisher, namespace: Namespace) {
    let mut together = Vec::new();
    while received.recv_many(&mut together, ORDERS_TOGETHER_MAX_COUNT).await > 0 {
        let deadline = Instant::now() + ORDER_WAIT_MAX;
        let publishing = together.drain(..).filter_map(|told| {
            let message = outgoing(&namespace, &told)?;
            Some(publisher.publish_until(message, deadline))
        });
        for outcome in futures::future::join_all(publishing).await {
            if !outcome.is_acked() {
                metrics::counter!("switchyard_orders_dropped_total").increment(1);
                tracing::debug!(outcome = outcome.label(), "an order to an agent may not have been sent");
            }
        }
    }
}

/// Neither persistent nor mandatory: an agent that is not there has no queue, and will be told again.
fn outgoing(namespace: &Namespace, told: &Told) -> Option<Outgoing> {
    let properties =
        Properties { content_type: Some("application/json".to_owned()), ..Properties::default() };
    let body = serde_json::to_vec(&told.control).ok()?;
    let queue = namespace.control_queue(&told.to.pool, &told.to.agent);
    match Outgoing::new(DEFAULT_EXCHANGE, &queue, properties, body, false) {
        Ok(message) => Some(message),
        Err(error) => {
            tracing::error!(agent = %told.to, %error, "an order cannot be sent");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use switchyard_common::contract::ids::{AgentId, LeaseToken, PoolId, SessionId, TaskId};
    use uuid::Uuid;

    use super::*;

    fn claim() -> Claim {
        Claim {
            task_id: TaskId::new("t").unwrap(),
            attempt: 1,
            session: SessionId(Uuid::nil()),
            lease: LeaseToken(Uuid::nil()),
        }
    }

    #[test]
    fn incident_37_a_cancel_reaches_the_agent_as_a_cancel_and_other_reasons_as_a_revoke() {
        for reason in RevokeReason::ALL {
            let order = stop_order(claim(), reason, true);
            let cancel = matches!(order, Order::Cancel { force: true, .. });
            assert_eq!(cancel, reason == RevokeReason::Cancel);
        }
    }

    #[test]
    fn orders_beyond_the_limit_are_dropped_instead_of_holding_up_the_rest() {
        let (orders, mut received) = Orders::channel(1);
        let to = AgentRef { pool: PoolId::new("p").unwrap(), agent: AgentId::new("a").unwrap() };
        for epoch in [1, 2] {
            orders.send(Told { to: to.clone(), control: Control { epoch, order: Order::Drain } });
        }
        assert_eq!(received.try_recv().unwrap().control.epoch, 1);
        assert!(received.try_recv().is_err());
    }
}
