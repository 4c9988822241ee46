//! Messages as they arrive on queues, and on the dead-letter queue after a nack.

use serde_json::{Value, json};
use switchyard_common::broker::headers::{HeaderValue, Headers};
use switchyard_common::broker::{Message, Properties};
use switchyard_common::contract::report::Claim;
use switchyard_common::contract::topology::Namespace;
use switchyard_dispatcher::dead_letters::arrival::Arrival;

/// The namespace of these messages.
#[must_use]
pub fn namespace() -> Namespace {
    Namespace::default()
}

/// A message on the events exchange.
#[must_use]
pub fn event(body: impl Into<Vec<u8>>) -> Message {
    message("switchyard.events", "switchyard.task.submitted.v1", body)
}

/// A message of any exchange.
#[must_use]
pub fn message(exchange: &str, routing_key: &str, body: impl Into<Vec<u8>>) -> Message {
    Message {
        exchange: exchange.to_owned(),
        routing_key: routing_key.to_owned(),
        redelivered: false,
        properties: Properties { message_id: Some("m-1".to_owned()), ..Properties::default() },
        headers_truncated: false,
        body: body.into(),
    }
}

/// The assignment that an agent has nacked, with the secret of `claim`.
#[must_use]
pub fn assignment(claim: &Claim, step: &str) -> Message {
    let body = json!({
        "type": "assignment", "epoch": 1, "task_id": claim.task_id, "attempt": claim.attempt, "lease": claim.lease,
        "session": claim.session, "pool": "default", "agent": "worker-0", "workspace_id": "w", "kind": "plan",
        "step": step, "handler": step, "exclusive": false, "repeatable": true, "run_timeout_ms": 1000, "parameters": {},
        "payload": {}, "approval": null, "inputs": [], "publish_no": 1, "traceparent": null,
    });
    message("", "switchyard.agent.default.worker-0", body.to_string())
}

/// The same message as the broker dead-letters it.
#[must_use]
pub fn nacked(message: &Message, queue: &str, reason: &str) -> Message {
    let death: Headers = [
        ("queue".to_owned(), HeaderValue::from(queue)),
        ("reason".to_owned(), HeaderValue::from(reason)),
        ("exchange".to_owned(), HeaderValue::from(message.exchange.as_str())),
        ("routing-keys".to_owned(), HeaderValue::List(vec![HeaderValue::from(message.routing_key.as_str())])),
        ("count".to_owned(), HeaderValue::Int(1)),
        ("time".to_owned(), HeaderValue::Timestamp(1_700_000_000)),
    ]
    .into();
    let mut nacked = message.clone();
    nacked.exchange = namespace().dead_letters_exchange();
    nacked.properties.headers.insert("x-death".into(), HeaderValue::List(vec![HeaderValue::Table(death)]));
    nacked.properties.headers.insert("x-first-death-reason".into(), reason.into());
    nacked
}

/// What the dispatcher makes of a nacked message.
#[must_use]
pub fn arrival(message: &Message) -> Arrival {
    Arrival::of(&namespace(), message)
}

/// An event of upstream, structured.
#[must_use]
pub fn submitted(source: &str, id: &str, data: &Value) -> Message {
    let body = json!({ "specversion": "1.0", "id": id, "source": source,
        "type": "switchyard.task.submitted.v1", "data": data });
    event(body.to_string())
}
