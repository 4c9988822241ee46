//! An assignment as messages: its input parts, then itself, on one channel, so that they arrive in this order.

use switchyard_common::broker::headers::HeaderValue;
use switchyard_common::broker::{Outgoing, OutgoingError, Properties};
use switchyard_common::contract::assignment::AgentMessage;
use switchyard_common::contract::topology::{DEFAULT_EXCHANGE, Namespace};

use crate::store::route::Dispatch;

/// Header that carries the attempt's number, for the join of dead letters.
pub const ATTEMPT_HEADER: &str = "switchyard-attempt";
/// Header that carries the task's id.
pub const TASK_HEADER: &str = "switchyard-task";

/// Why an assignment cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// Its JSON form cannot be made.
    #[error("the assignment cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// It is over a limit of the broker.
    #[error("the assignment cannot be sent: {0}")]
    Outgoing(#[from] OutgoingError),
}

/// The messages of `dispatch`, the assignment last.
pub fn messages(namespace: &Namespace, dispatch: Dispatch) -> Result<Vec<Outgoing>, MessageError> {
    let assignment = &dispatch.assignment;
    let queue = namespace.agent_queue(&assignment.pool, &assignment.agent);
    let mut properties = Properties::persistent("application/json");
    properties.headers.insert(TASK_HEADER.to_owned(), HeaderValue::Text(assignment.task_id.to_string()));
    properties.headers.insert(ATTEMPT_HEADER.to_owned(), HeaderValue::Int(i64::from(assignment.attempt)));
    if let Some(traceparent) = &assignment.traceparent {
        properties.headers.insert("traceparent".to_owned(), HeaderValue::Text(traceparent.clone()));
    }
    properties.message_id = Some(format!("{}#{}", assignment.task_id, assignment.attempt));
    let outgoing = |message: AgentMessage, properties: Properties| -> Result<Outgoing, MessageError> {
        Ok(Outgoing::new(DEFAULT_EXCHANGE, &queue, properties, serde_json::to_vec(&message)?, true)?)
    };
    let mut messages = Vec::with_capacity(dispatch.parts.len() + 1);
    for part in dispatch.parts {
        messages.push(outgoing(AgentMessage::InputPart(part), properties.clone())?);
    }
    messages.push(outgoing(AgentMessage::Assignment(Box::new(dispatch.assignment)), properties)?);
    Ok(messages)
}
