//! The AsyncAPI 3.0 document: the channels are the topology's exchanges and queues, the operations are the dispatcher's.

use serde_json::{Map, Value, json};

use super::{
    AGENT_MESSAGE_FILE, ANSWER_FILE, CONTROL_FILE, NOTIFICATION_FILE, REPORT_FILE, event_file,
    notification_types,
};
use crate::broker::topology::{ArgumentValue, BindingDecl, ExchangeDecl, QueueDecl, QueueKind, Topology};
use crate::contract::cloudevent::STRUCTURED_CONTENT_TYPE;
use crate::contract::event::EventType;
use crate::contract::ids::{AgentId, IdError, PoolId, ReplicaId};
use crate::contract::routing::ReportKind;
use crate::contract::topology::Namespace;

/// Stand-ins that are replaced by parameters in the document: labels, so that the topology's own functions make the names.
const POOL: &str = "pool-of-the-agent";
const AGENT: &str = "id-of-the-agent";
const REPLICA: &str = "id-of-the-replica";

/// How the document writes each of them.
const PARAMETERS: [(&str, &str, &str); 3] = [
    (POOL, "pool", "Id of the agent's pool."),
    (AGENT, "agent", "Id of the agent in its pool."),
    (REPLICA, "replica", "Id of the dispatcher replica."),
];

/// The document for the default namespace.
pub(super) fn document() -> Value {
    let namespace = Namespace::default();
    // The stand-ins are labels, a test holds it; without them the document would lack the agents' channels.
    let topology = topology(&namespace).unwrap_or_default();
    json!({
        "asyncapi": "3.0.0",
        "id": "urn:switchyard:contract",
        "info": {
            "title": "Switchyard",
            "version": "1.0.0",
            "description": "Messages between upstream services, the dispatcher and the worker agents over RabbitMQ. \
                Operations are the dispatcher's; agents do the opposite. Names are those of the default namespace `switchyard`.",
            "license": { "name": "Apache-2.0" },
        },
        "defaultContentType": "application/json",
        "channels": channels(&namespace, &topology),
        "operations": operations(),
        "components": { "messages": messages() },
    })
}

/// Everything that a dispatcher and an agent declare.
fn topology(namespace: &Namespace) -> Result<Topology, IdError> {
    let (pool, agent, replica) = (PoolId::new(POOL)?, AgentId::new(AGENT)?, ReplicaId::new(REPLICA)?);
    Ok(namespace
        .dispatcher_topology()
        .and(namespace.agent_queue_topology(&pool, &agent))
        .and(namespace.control_queue_topology(&pool, &agent))
        .and(namespace.presence_queue_topology(&replica)))
}

fn channels(namespace: &Namespace, topology: &Topology) -> Value {
    let mut channels = Map::new();
    for exchange in &topology.exchanges {
        let id = format!("{}-exchange", local(namespace, &exchange.name));
        channels.insert(id, exchange_channel(namespace, exchange));
    }
    for queue in &topology.queues {
        let bindings = topology.bindings.iter().filter(|binding| binding.queue == queue.name).collect();
        channels.insert(queue_id(namespace, &queue.name), queue_channel(namespace, queue, bindings));
    }
    channels.insert("answers".to_owned(), answers_channel());
    Value::Object(channels)
}

/// Where publishers wait for their answers: each names its own queue, or uses RabbitMQ's direct reply-to.
fn answers_channel() -> Value {
    json!({
        "address": null,
        "description": "The queue that the publisher named in reply_to.",
        "messages": { "answer": { "$ref": "#/components/messages/answer" } },
    })
}

/// A name without its namespace.
fn local<'a>(namespace: &Namespace, name: &'a str) -> &'a str {
    name.strip_prefix(namespace.as_str()).and_then(|rest| rest.strip_prefix('.')).unwrap_or(name)
}

/// `agent-queue`, `outcomes-queue` and so on: the first word of the name.
fn queue_id(namespace: &Namespace, name: &str) -> String {
    format!("{}-queue", local(namespace, name).split('.').next().unwrap_or_default())
}

/// Writes stand-ins as parameters, and says which parameters there are.
fn parametrised(text: &str) -> (String, Map<String, Value>) {
    let mut text = text.to_owned();
    let mut parameters = Map::new();
    for (stand_in, name, description) in PARAMETERS {
        if text.contains(stand_in) {
            text = text.replace(stand_in, &format!("{{{name}}}"));
            parameters.insert(name.to_owned(), json!({ "description": description }));
        }
    }
    (text, parameters)
}

fn channel(address: String, parameters: Map<String, Value>, messages: &[&str], binding: Value) -> Value {
    let references: Map<String, Value> = messages
        .iter()
        .map(|name| ((*name).to_owned(), json!({ "$ref": format!("#/components/messages/{name}") })))
        .collect();
    let mut channel = Map::new();
    channel.insert("address".to_owned(), address.into());
    if !parameters.is_empty() {
        channel.insert("parameters".to_owned(), parameters.into());
    }
    channel.insert("messages".to_owned(), references.into());
    channel.insert("bindings".to_owned(), json!({ "amqp": binding }));
    Value::Object(channel)
}

fn exchange_channel(namespace: &Namespace, exchange: &ExchangeDecl) -> Value {
    let described = |name: &str, description: &str| (name.to_owned(), json!({ "description": description }));
    let events = event_names();
    let reports: Vec<&str> = ReportKind::ALL.map(report_name).to_vec();
    let (key, parameters, messages): (String, Map<String, Value>, Vec<&str>) =
        match local(namespace, &exchange.name) {
            "events" => {
                ("{type}".into(), [described("type", "Type of the event.")].into_iter().collect(), events)
            }
            "reports" => {
                let (rest, mut parameters) = parametrised(&format!("{POOL}.{AGENT}"));
                parameters.extend([described("report", "Type of the report.")]);
                (format!("{{report}}.{rest}"), parameters, reports)
            }
            "notifications" => {
                let parameter = described("type", "Type of the notification.");
                ("{type}".into(), [parameter].into_iter().collect(), vec!["notification"])
            }
            _ => {
                let parameter =
                    described("key", "Routing key with which the message was published at first.");
                ("{key}".into(), [parameter].into_iter().collect(), vec!["deadLetter"])
            }
        };
    let binding = json!({
        "is": "routingKey",
        "exchange": {
            "name": exchange.name, "type": exchange.kind.as_str(), "durable": true, "autoDelete": false, "vhost": "/",
        },
        "bindingVersion": "0.3.0",
    });
    channel(key, parameters, &messages, binding)
}

fn queue_channel(namespace: &Namespace, queue: &QueueDecl, bindings: Vec<&BindingDecl>) -> Value {
    let (name, parameters) = parametrised(&queue.name);
    let binding = json!({
        "is": "queue",
        "queue": {
            "name": name, "durable": queue.durable, "exclusive": queue.exclusive, "autoDelete": queue.auto_delete,
            "vhost": "/",
        },
        "bindingVersion": "0.3.0",
    });
    let messages = queue_messages(&queue_id(namespace, &queue.name));
    let mut channel = channel(name, parameters, &messages, binding);
    let arguments: Map<String, Value> = queue
        .arguments
        .iter()
        .map(|(name, value)| match value {
            ArgumentValue::Text(text) => (name.clone(), text.as_str().into()),
            ArgumentValue::Integer(number) => (name.clone(), (*number).into()),
        })
        .collect();
    let bound: Vec<Value> = bindings
        .into_iter()
        .map(|binding| json!({ "exchange": binding.exchange, "routingKey": parametrised(&binding.routing_key).0 }))
        .collect();
    channel["x-queue-arguments"] = arguments.into();
    channel["x-bound-to"] = bound.into();
    channel["description"] = match queue.kind {
        QueueKind::Quorum => "Quorum queue: replicated, durable.",
        QueueKind::Classic => "Classic queue of one connection: whatever it carries is said again.",
    }
    .into();
    channel
}

/// What travels on a queue.
fn queue_messages(id: &str) -> Vec<&'static str> {
    match id {
        "events-queue" => event_names(),
        "agent-queue" => vec!["assignment", "inputPart"],
        "control-queue" => vec!["control"],
        "outcomes-queue" => vec![report_name(ReportKind::Outcome), report_name(ReportKind::Artifact)],
        "starts-queue" => vec![report_name(ReportKind::Ask), report_name(ReportKind::Started)],
        "logs-queue" => vec![report_name(ReportKind::Log)],
        "presence-queue" => vec![report_name(ReportKind::Hello), report_name(ReportKind::Heartbeat)],
        _ => vec!["deadLetter"],
    }
}

fn event_names() -> Vec<&'static str> {
    EventType::ALL.map(event_name).to_vec()
}

const fn event_name(event_type: EventType) -> &'static str {
    match event_type {
        EventType::WorkspaceRegistered => "workspaceRegistered",
        EventType::TaskSubmitted => "taskSubmitted",
        EventType::TaskApproved => "taskApproved",
        EventType::TaskDiscarded => "taskDiscarded",
        EventType::TaskCancelRequested => "taskCancelRequested",
    }
}

const fn report_name(kind: ReportKind) -> &'static str {
    match kind {
        ReportKind::Hello => "hello",
        ReportKind::Heartbeat => "heartbeat",
        ReportKind::Ask => "ask",
        ReportKind::Started => "started",
        ReportKind::Outcome => "outcome",
        ReportKind::Artifact => "artifact",
        ReportKind::Log => "log",
    }
}

/// What the dispatcher sends and receives.
fn operations() -> Value {
    let operation = |action: &str, channel: &str, summary: &str| json!({ "action": action, "channel": { "$ref": format!("#/channels/{channel}") }, "summary": summary });
    let mut events = operation("receive", "events-queue", "Take events from upstream; ack after the commit.");
    events["reply"] = json!({
        "address": {
            "description": "Where the publisher set reply_to: accepted or rejected, after the commit.",
            "location": "$message.header#/reply_to",
        },
        "channel": { "$ref": "#/channels/answers" },
    });
    json!({
        "receiveEvents": events,
        "sendAssignments": operation("send", "agent-queue", "Give an attempt to one agent, through the default exchange; mandatory and confirmed."),
        "sendControl": operation("send", "control-queue", "Go, no-go, cancel, revoke, drain, end of session; through the default exchange."),
        "receiveOutcomes": operation("receive", "outcomes-queue", "Take outcomes and artifacts; ack after the commit."),
        "receiveStarts": operation("receive", "starts-queue", "Take asks and started reports; ack after the commit."),
        "receiveLogs": operation("receive", "logs-queue", "Take log lines; they never change a task."),
        "receivePresence": operation("receive", "presence-queue", "Take signs of life; each is self-sufficient."),
        "receiveDeadLetters": operation("receive", "dead-letters-queue", "Take dead letters into the database; ack after the commit."),
        "sendNotifications": operation("send", "notifications-exchange", "Tell upstream what became of a task, in order per task."),
    })
}

fn messages() -> Value {
    let mut messages = Map::new();
    for event_type in EventType::ALL {
        let file = event_file(event_type);
        let mut event = message(event_type.as_str(), &reference(&file), STRUCTURED_CONTENT_TYPE);
        event["headers"]["properties"]["reply_to"] = json!({
            "description": "The AMQP property of that name: direct reply-to, or a queue under the configured prefix.",
            "type": "string",
        });
        messages.insert(event_name(event_type).to_owned(), event);
    }
    for kind in ReportKind::ALL {
        let body =
            json!({ "properties": { "body": { "properties": { "type": { "const": kind.as_str() } } } } });
        let payload = json!({ "allOf": [reference(REPORT_FILE), body] });
        messages.insert(report_name(kind).to_owned(), message(kind.as_str(), &payload, "application/json"));
    }
    for (name, kind) in [("assignment", "assignment"), ("inputPart", "input_part")] {
        let payload = json!({ "allOf": [reference(AGENT_MESSAGE_FILE), { "properties": { "type": { "const": kind } } }] });
        messages.insert(name.to_owned(), message(kind, &payload, "application/json"));
    }
    let mut notification = message("notification", &reference(NOTIFICATION_FILE), STRUCTURED_CONTENT_TYPE);
    notification["summary"] = format!("Types: {}.", notification_types().join(", ")).into();
    messages.insert("notification".into(), notification);
    messages.insert("control".into(), message("control", &reference(CONTROL_FILE), "application/json"));
    messages.insert("answer".into(), message("answer", &reference(ANSWER_FILE), "application/json"));
    let any = json!({ "description": "Whatever was nacked, byte for byte." });
    messages.insert("deadLetter".into(), message("dead letter", &any, "application/octet-stream"));
    Value::Object(messages)
}

fn reference(file: &str) -> Value {
    json!({ "$ref": format!("./{file}") })
}

fn message(title: &str, payload: &Value, content_type: &str) -> Value {
    json!({
        "title": title,
        "contentType": content_type,
        "headers": {
            "type": "object",
            "properties": { "traceparent": { "description": "W3C trace context.", "type": "string" } },
        },
        "payload": payload,
    })
}

#[cfg(test)]
mod tests;
