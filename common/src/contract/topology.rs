//! The exchanges and queues of a namespace (design 5), as data.
//!
//! ```text
//! upstream ──> events ──────────> [events] ──────────────> dispatcher
//! dispatcher > (default) ───────> [agent.<pool>.<agent>] ─> agent: assignments
//! dispatcher > (default) ───────> [control.<pool>.<agent>] > agent: orders
//! agent ─────> reports ─────────> [outcomes] [starts] [logs] [presence.<replica>] ─> dispatcher
//! broker ────> dead-letters ────> [dead-letters] ────────> dispatcher
//! dispatcher > notifications ───> whatever upstream binds
//! ```
//!
//! An agent's queues are bound to no exchange of ours: who may bind its own queue may bind it to another pool's key, and who may
//! declare a name that it may also write to can reach any exchange that it may write to around the topic permissions
//! (docs/adr/agents-bind-nothing.md). The default exchange needs no binding and only the dispatcher may write to it.

use std::collections::BTreeMap;
use std::fmt;

use super::ids::{AgentId, IdError, PoolId, ReplicaId, check_label};
use super::limits::{DELIVERY_LIMIT_COUNT, LOG_QUEUE_MAX_BYTES, PRESENCE_QUEUE_MAX_COUNT};
use super::routing::{ReportKind, canary_key};
use crate::broker::topology::{
    ArgumentValue, BindingDecl, ExchangeDecl, ExchangeKind, QueueDecl, QueueKind, Topology,
};

/// The exchange that every broker has: a message goes to the queue that its routing key names.
pub const DEFAULT_EXCHANGE: &str = "";
/// The argument that names a queue's type.
pub const QUEUE_TYPE: &str = "x-queue-type";
/// The argument that limits deliveries of one message (protocol D1).
pub const DELIVERY_LIMIT: &str = "x-delivery-limit";
/// The argument that names where nacked messages go.
pub const DEAD_LETTER_EXCHANGE: &str = "x-dead-letter-exchange";
/// The argument that makes dead-lettering wait for the target's confirm.
pub const DEAD_LETTER_STRATEGY: &str = "x-dead-letter-strategy";
/// The argument that says what a full queue does; at-least-once dead-lettering needs `reject-publish`.
pub const OVERFLOW: &str = "x-overflow";
/// The argument that bounds a queue in messages.
pub const MAX_LENGTH: &str = "x-max-length";
/// The argument that bounds a queue in bytes.
pub const MAX_LENGTH_BYTES: &str = "x-max-length-bytes";

/// The prefix of every name at the broker: one Switchyard among others on the same virtual host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Namespace(String);

impl Default for Namespace {
    fn default() -> Self {
        Self(Self::DEFAULT.to_owned())
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names.
impl Namespace {
    /// The prefix when none is configured.
    pub const DEFAULT: &'static str = "switchyard";

    /// Checks a prefix: a label without dots, so that no two namespaces can share a name.
    pub fn new(prefix: impl Into<String>) -> Result<Self, IdError> {
        let prefix = prefix.into();
        check_label(&prefix, false)?;
        Ok(Self(prefix))
    }

    /// The prefix.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn name(&self, rest: &str) -> String {
        format!("{}.{rest}", self.0)
    }

    /// Exchange that upstream publishes events to; routing key = event type.
    #[must_use]
    pub fn events_exchange(&self) -> String {
        self.name("events")
    }

    /// Exchange of reports; routing key `<type>.<pool>.<agent>`.
    #[must_use]
    pub fn reports_exchange(&self) -> String {
        self.name("reports")
    }

    /// Exchange that the broker dead-letters to. The original routing key is kept; `x-death` names the queue.
    #[must_use]
    pub fn dead_letters_exchange(&self) -> String {
        self.name("dead-letters")
    }

    /// Exchange of notifications; routing key = notification type.
    #[must_use]
    pub fn notifications_exchange(&self) -> String {
        self.name("notifications")
    }

    /// Queue of events.
    #[must_use]
    pub fn events_queue(&self) -> String {
        self.name("events")
    }

    /// Queue of outcomes and artifacts.
    #[must_use]
    pub fn outcomes_queue(&self) -> String {
        self.name("outcomes")
    }

    /// Queue of asks and started reports, apart from outcomes so that no backlog of results delays a start (protocol B7).
    #[must_use]
    pub fn starts_queue(&self) -> String {
        self.name("starts")
    }

    /// Queue of log lines.
    #[must_use]
    pub fn logs_queue(&self) -> String {
        self.name("logs")
    }

    /// Queue of dead letters.
    #[must_use]
    pub fn dead_letters_queue(&self) -> String {
        self.name("dead-letters")
    }

    /// An agent's own queue of assignments.
    #[must_use]
    pub fn agent_queue(&self, pool: &PoolId, agent: &AgentId) -> String {
        self.name(&format!("agent.{pool}.{agent}"))
    }

    /// An agent's control queue, which is also the lock on its id (protocol A3).
    #[must_use]
    pub fn control_queue(&self, pool: &PoolId, agent: &AgentId) -> String {
        self.name(&format!("control.{pool}.{agent}"))
    }

    /// A dispatcher replica's own queue of signs of life.
    #[must_use]
    pub fn presence_queue(&self, replica: &ReplicaId) -> String {
        self.name(&format!("presence.{replica}"))
    }
}

/// What each participant declares.
impl Namespace {
    /// What every dispatcher replica declares: all exchanges, the shared queues and their bindings.
    #[must_use]
    pub fn dispatcher_topology(&self) -> Topology {
        let reports = self.reports_exchange();
        let outcomes = self.outcomes_queue();
        let starts = self.starts_queue();
        let logs = self.logs_queue();
        let mut log_queue = self.quorum_with_dead_letters(logs.clone());
        log_queue.arguments.insert(MAX_LENGTH_BYTES.to_owned(), ArgumentValue::Integer(LOG_QUEUE_MAX_BYTES));
        Topology {
            exchanges: self.exchanges(),
            queues: vec![
                self.quorum_with_dead_letters(self.events_queue()),
                self.quorum_with_dead_letters(outcomes.clone()),
                self.quorum_with_dead_letters(starts.clone()),
                log_queue,
                quorum(self.dead_letters_queue()),
            ],
            bindings: vec![
                // Every key, so that an event of an unknown type is rejected with a reason, not dropped by the broker.
                bind(self.events_exchange(), self.events_queue(), "#"),
                bind(reports.clone(), outcomes.clone(), every(ReportKind::Outcome)),
                bind(reports.clone(), outcomes, every(ReportKind::Artifact)),
                bind(reports.clone(), starts.clone(), every(ReportKind::Ask)),
                bind(reports.clone(), starts, every(ReportKind::Started)),
                bind(reports, logs, every(ReportKind::Log)),
                bind(self.dead_letters_exchange(), self.dead_letters_queue(), "#"),
            ],
        }
    }

    /// An agent's own queue. It never expires: an expired queue drops its messages. It is drained, then deleted, on retirement.
    #[must_use]
    pub fn agent_queue_topology(&self, pool: &PoolId, agent: &AgentId) -> Topology {
        Topology {
            queues: vec![self.quorum_with_dead_letters(self.agent_queue(pool, agent))],
            ..Topology::default()
        }
    }

    /// An agent's control queue: exclusive, so that a second process with the same id is refused with 405.
    #[must_use]
    pub fn control_queue_topology(&self, pool: &PoolId, agent: &AgentId) -> Topology {
        let queue = classic_exclusive(self.control_queue(pool, agent), false, BTreeMap::new());
        Topology { queues: vec![queue], ..Topology::default() }
    }

    /// A replica's presence queue: hello and heartbeats of all agents, and the replica's own canary (protocol C1).
    #[must_use]
    pub fn presence_queue_topology(&self, replica: &ReplicaId) -> Topology {
        let queue = self.presence_queue(replica);
        let reports = self.reports_exchange();
        let bound = (MAX_LENGTH.to_owned(), ArgumentValue::Integer(PRESENCE_QUEUE_MAX_COUNT));
        Topology {
            exchanges: Vec::new(),
            queues: vec![classic_exclusive(queue.clone(), true, BTreeMap::from([bound]))],
            bindings: vec![
                bind(reports.clone(), queue.clone(), every(ReportKind::Hello)),
                bind(reports.clone(), queue.clone(), every(ReportKind::Heartbeat)),
                bind(reports, queue, canary_key(replica)),
            ],
        }
    }

    /// Every exchange.
    fn exchanges(&self) -> Vec<ExchangeDecl> {
        let topic = |name| ExchangeDecl { name, kind: ExchangeKind::Topic };
        vec![
            topic(self.events_exchange()),
            topic(self.reports_exchange()),
            topic(self.dead_letters_exchange()),
            topic(self.notifications_exchange()),
        ]
    }

    /// A quorum queue whose nacked messages reach the dead letters at least once. The broker falls back to at-most-once in silence
    /// when any of the three arguments is missing.
    fn quorum_with_dead_letters(&self, name: String) -> QueueDecl {
        let mut queue = quorum(name);
        for (argument, value) in [
            (DEAD_LETTER_EXCHANGE, self.dead_letters_exchange()),
            (DEAD_LETTER_STRATEGY, "at-least-once".to_owned()),
            (OVERFLOW, "reject-publish".to_owned()),
        ] {
            queue.arguments.insert(argument.to_owned(), ArgumentValue::Text(value));
        }
        queue
    }
}

fn quorum(name: String) -> QueueDecl {
    QueueDecl {
        name,
        kind: QueueKind::Quorum,
        durable: true,
        exclusive: false,
        auto_delete: false,
        arguments: BTreeMap::from([
            (QUEUE_TYPE.to_owned(), ArgumentValue::Text(QueueKind::Quorum.as_str().to_owned())),
            (DELIVERY_LIMIT.to_owned(), ArgumentValue::Integer(DELIVERY_LIMIT_COUNT)),
        ]),
    }
}

fn classic_exclusive(
    name: String,
    auto_delete: bool,
    mut arguments: BTreeMap<String, ArgumentValue>,
) -> QueueDecl {
    // Said, because a virtual host may make another type its default, and a quorum queue cannot be exclusive.
    let kind = ArgumentValue::Text(QueueKind::Classic.as_str().to_owned());
    arguments.insert(QUEUE_TYPE.to_owned(), kind);
    QueueDecl { name, kind: QueueKind::Classic, durable: false, exclusive: true, auto_delete, arguments }
}

fn bind(exchange: String, queue: String, routing_key: impl Into<String>) -> BindingDecl {
    BindingDecl { exchange, queue, routing_key: routing_key.into() }
}

fn every(kind: ReportKind) -> String {
    format!("{}.#", kind.as_str())
}

#[cfg(test)]
mod tests;
