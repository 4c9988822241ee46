//! Agents that will not come back: each one's queue is consumed into settle, then deleted (protocol H). An expiring queue would drop
//! what is in it, and "only if empty" closes the connection on a quorum queue, so it is emptied first.

use std::time::Duration;

use switchyard_common::broker::{
    ConsumerEvent, ConsumerStream, DeclareError, Incoming, Subscription, delete_queue, queue_counts,
};
use switchyard_common::contract::assignment::{AgentMessage, Assignment};
use switchyard_common::contract::ids::AgentRef;
use switchyard_common::contract::report::{Claim, NotStarted, OutcomeEnd};
use switchyard_common::shutdown::Shutdown;
use switchyard_common::task::{Input, Reporter};

use crate::context::Context;
use crate::settle;
use crate::store::agents::{Retiring, is_still_gone, retired, retiring};
use crate::store::{Named, StoreError, apply};

/// How often agents to retire are looked for.
const PERIOD: Duration = Duration::from_secs(5);
/// Messages of a retired agent's queue that are in hand together.
const PREFETCH_COUNT: u16 = 64;
/// When nothing has come for so long, the broker is asked whether anything is left.
const QUIET: Duration = Duration::from_millis(500);

/// Why an agent could not be retired now; it is tried again.
#[derive(Debug, thiserror::Error)]
enum RetireError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Broker(#[from] DeclareError),
    #[error("there is no connection to the broker")]
    NoConnection,
    #[error("the agent is connected")]
    Connected,
    #[error("its queue cannot be consumed: {0}")]
    Lost(String),
}

/// Retires agents until shutdown.
pub async fn run(context: Context, shutdown: Shutdown) {
    while shutdown.sleep(PERIOD).await {
        run_once(&context).await;
    }
}

/// Looks for agents to retire, and retires them one after the other.
pub async fn run_once(context: &Context) {
    let found = match retiring(&context.db, context.config.agent_retire_after).await {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "agents to retire cannot be looked for");
            return;
        }
    };
    for one in found {
        let (agent, session) = (&one.agent, one.session);
        match retire(context, &one).await {
            Ok(Some(assignments)) => {
                metrics::counter!("switchyard_agents_retired_total").increment(1);
                tracing::info!(%agent, %session, assignments, "agent retired: its queue was emptied and deleted");
            }
            Ok(None) => tracing::info!(%agent, %session, "the agent came back and is not retired"),
            Err(error) => tracing::warn!(%agent, %session, %error, "the agent cannot be retired now"),
        }
    }
}

/// Gives the number of assignments that were found in the queue; none when the agent came back.
async fn retire(context: &Context, one: &Retiring) -> Result<Option<usize>, RetireError> {
    let session = context.consumers.session().ok_or(RetireError::NoConnection)?;
    let queue = context.namespace.agent_queue(&one.agent.pool, &one.agent.agent);
    let mut found = 0;
    if queue_counts(&session, &queue).await?.is_some() {
        found = empty(context, &one.agent, &queue).await?;
        if !is_still_gone(&context.db, one).await? {
            return Ok(None);
        }
        // Its control queue is there exactly while an agent of this id is connected.
        let control = context.namespace.control_queue(&one.agent.pool, &one.agent.agent);
        if !matches!(queue_counts(&session, &control).await, Ok(None)) {
            return Err(RetireError::Connected);
        }
        delete_queue(&session, &queue).await?;
    }
    Ok(retired(&context.db, one, found).await?.then_some(found))
}

/// Consumes the queue until the broker says that nothing is left.
async fn empty(context: &Context, agent: &AgentRef, queue: &str) -> Result<usize, RetireError> {
    let mut events = context.consumers.subscribe(Subscription::new(queue, PREFETCH_COUNT));
    let emptied = consume(context, agent, queue, &mut events).await;
    events.handle().cancel();
    emptied
}

async fn consume(
    context: &Context,
    agent: &AgentRef,
    queue: &str,
    events: &mut ConsumerStream,
) -> Result<usize, RetireError> {
    let mut found = 0;
    let mut consumes = false;
    loop {
        match tokio::time::timeout(QUIET, events.next()).await {
            Ok(Some(ConsumerEvent::Ready { .. })) => consumes = true,
            Ok(Some(ConsumerEvent::Delivery(incoming))) => {
                found += settle_one(context, agent, *incoming).await?
            }
            Ok(Some(ConsumerEvent::Lost { fault })) => return Err(RetireError::Lost(fault.to_string())),
            Ok(None) => return Err(RetireError::NoConnection),
            Err(_) if consumes => {
                let session = context.consumers.session().ok_or(RetireError::NoConnection)?;
                if queue_counts(&session, queue).await?.is_none_or(|counts| counts.messages == 0) {
                    return Ok(found);
                }
            }
            Err(_) => {}
        }
    }
}

/// Whoever consumes this queue now is not the session that the assignment is for: not started by anybody any more (protocol B6). Acked
/// after the commit.
async fn settle_one(context: &Context, agent: &AgentRef, incoming: Incoming) -> Result<usize, RetireError> {
    let assignment = match serde_json::from_slice::<AgentMessage>(&incoming.message.body) {
        Ok(AgentMessage::Assignment(assignment)) => assignment,
        Ok(AgentMessage::InputPart(_)) => {
            let _stale_ones_come_again = incoming.acker.ack().await;
            return Ok(0);
        }
        Err(error) => {
            tracing::warn!(%agent, %error, "a message in the queue of a retired agent cannot be read; it is dead-lettered");
            let _stale_ones_come_again = incoming.acker.nack(false).await;
            return Ok(0);
        }
    };
    let applied = apply(&context.db, &[not_started(agent, &assignment)]).await?;
    settle::wake(&context.wake, &applied);
    let _stale_ones_come_again = incoming.acker.ack().await;
    Ok(1)
}

/// What the agent would answer to a delivery for another session, on the proof that the assignment carries.
fn not_started(agent: &AgentRef, assignment: &Assignment) -> Named {
    let claim = Claim {
        task_id: assignment.task_id.clone(),
        attempt: assignment.attempt,
        session: assignment.session,
        lease: assignment.lease,
    };
    let reporter = Reporter { agent: agent.clone(), granted: true, epoch_is_current: true };
    let end = OutcomeEnd::NotStarted { reason: NotStarted::OtherSession };
    Named {
        task_id: assignment.task_id.clone(),
        attempt: Some(assignment.attempt),
        input: Input::Outcome { reporter, claim, end },
    }
}
