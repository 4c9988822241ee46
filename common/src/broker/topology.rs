//! Exchanges, queues and bindings as plain data: what is declared, without how.
//!
//! [`crate::contract::topology`] says which ones Switchyard has; the broker client declares them, documents and tests read them.

use std::collections::BTreeMap;

/// How an exchange routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExchangeKind {
    /// By the whole routing key.
    Direct,
    /// By patterns over the words of the routing key.
    Topic,
}

impl ExchangeKind {
    /// The word for it in AMQP.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Topic => "topic",
        }
    }
}

/// A durable exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExchangeDecl {
    /// Its name.
    pub name: String,
    /// How it routes.
    pub kind: ExchangeKind,
}

/// How a queue keeps its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QueueKind {
    /// Replicated and durable; for whatever must not be lost.
    Quorum,
    /// On one node; for whatever is said again.
    Classic,
}

impl QueueKind {
    /// The value of the argument `x-queue-type`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::Classic => "classic",
        }
    }
}

/// The value of a queue argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArgumentValue {
    /// A text.
    Text(String),
    /// A whole number; sent as a 64-bit one.
    Integer(i64),
}

/// A queue. A quorum queue is durable and shared; a classic one belongs to its connection and goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueDecl {
    /// Its name.
    pub name: String,
    /// How it keeps its messages.
    pub kind: QueueKind,
    /// Survives a restart of the broker.
    pub durable: bool,
    /// Only the connection that declared it may use it; deleted with that connection.
    pub exclusive: bool,
    /// Deleted when its last consumer goes.
    pub auto_delete: bool,
    /// Every `x-` argument, `x-queue-type` among them.
    pub arguments: BTreeMap<String, ArgumentValue>,
}

impl QueueDecl {
    /// The text of an argument, when it is set and a text.
    #[must_use]
    pub fn text_argument(&self, name: &str) -> Option<&str> {
        match self.arguments.get(name)? {
            ArgumentValue::Text(text) => Some(text),
            ArgumentValue::Integer(_) => None,
        }
    }

    /// The number of an argument, when it is set and a number.
    #[must_use]
    pub fn integer_argument(&self, name: &str) -> Option<i64> {
        match self.arguments.get(name)? {
            ArgumentValue::Integer(number) => Some(*number),
            ArgumentValue::Text(_) => None,
        }
    }
}

/// A queue's binding to an exchange.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BindingDecl {
    /// The exchange.
    pub exchange: String,
    /// The queue.
    pub queue: String,
    /// The routing key, or the pattern of a topic exchange.
    pub routing_key: String,
}

/// What one participant declares, in this order: exchanges, queues, bindings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Topology {
    /// Exchanges.
    pub exchanges: Vec<ExchangeDecl>,
    /// Queues.
    pub queues: Vec<QueueDecl>,
    /// Bindings.
    pub bindings: Vec<BindingDecl>,
}

impl Topology {
    /// Adds everything of `other`.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.exchanges.extend(other.exchanges);
        self.queues.extend(other.queues);
        self.bindings.extend(other.bindings);
        self
    }
}
