//! What the machine is told about itself, checked once.

use std::collections::BTreeSet;
use std::time::Duration;

use switchyard_common::contract::ids::{AgentRef, HandlerName};
use switchyard_common::contract::limits::{HANDLERS_MAX_COUNT, SLOTS_MAX_COUNT};

/// Who the agent is, what it offers, and the times that it shares with the dispatcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Pool and agent id.
    pub agent: AgentRef,
    /// The pod's name, or the host's outside Kubernetes.
    pub pod: String,
    /// The node's name, where known.
    pub node: Option<String>,
    /// Version of the agent program.
    pub version: String,
    /// Handlers that run at the same time at most.
    pub slots: u32,
    /// Attempts that may wait beyond the slots (protocol B10).
    pub credit: u32,
    /// Exclusive attempts that run at the same time at most.
    pub max_exclusive: u32,
    /// Handlers that the agent offers.
    pub handlers: BTreeSet<HandlerName>,
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// Silence after which the dispatcher declares the agent lost.
    pub lost_timeout: Duration,
    /// How long before the lost timeout the session has ended.
    pub silence_margin: Duration,
    /// Longest time from TERM to KILL of any handler.
    pub kill_grace: Duration,
    /// How long after the first ask a go is acted on.
    pub start_window: Duration,
}

/// Why settings are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Nothing could run, or more than the contract allows.
    #[error("slots is {0}: 1 to {SLOTS_MAX_COUNT} are allowed")]
    Slots(u32),
    /// More than the contract allows.
    #[error("credit is {0}: 0 to {SLOTS_MAX_COUNT} are allowed")]
    Credit(u32),
    /// No exclusive task could run, or more than there are slots.
    #[error("max_exclusive is {max_exclusive}: 1 to slots ({slots}) are allowed")]
    MaxExclusive {
        /// What was set.
        max_exclusive: u32,
        /// The slots.
        slots: u32,
    },
    /// An agent without handlers, or with too many.
    #[error("{0} handlers: 1 to {HANDLERS_MAX_COUNT} are allowed")]
    Handlers(usize),
    /// A time of zero.
    #[error("{0} is zero")]
    Zero(&'static str),
    /// Two heartbeats must fit before handlers are stopped, else one late confirm ends the session.
    #[error(
        "lost timeout ({lost_ms} ms) is too short: it must hold two heartbeats of {heartbeat_ms} ms, the longest kill grace of a handler, {kill_grace_ms} ms, and a margin of {margin_ms} ms, together {needed_ms} ms: set heartbeat and the handlers' kill_grace_ms lower, or the lost timeout higher here and in the dispatcher"
    )]
    LostTimeout {
        /// The lost timeout, in milliseconds.
        lost_ms: u128,
        /// The time between heartbeats, in milliseconds.
        heartbeat_ms: u128,
        /// The longest kill grace of a handler, in milliseconds.
        kill_grace_ms: u128,
        /// How long before the lost timeout the session has ended, in milliseconds.
        margin_ms: u128,
        /// The least that would do, in milliseconds.
        needed_ms: u128,
    },
}

impl Settings {
    /// Deliveries that the broker may leave unacknowledged with the agent: slots and credit.
    #[must_use]
    pub fn prefetch(&self) -> u16 {
        u16::try_from(self.slots.saturating_add(self.credit)).unwrap_or(u16::MAX)
    }

    /// Silence after which the session has ended (protocol C3).
    #[must_use]
    pub fn session_limit(&self) -> Duration {
        self.lost_timeout.saturating_sub(self.silence_margin)
    }

    /// Silence after which exclusive repeatable handlers are told to stop, so that they are dead when the session ends.
    #[must_use]
    pub fn exclusive_limit(&self) -> Duration {
        self.session_limit().saturating_sub(self.kill_grace)
    }

    /// Checks every value and names all that are wrong.
    pub fn check(&self) -> Result<(), Vec<SettingsError>> {
        let mut errors = Vec::new();
        if self.slots == 0 || self.slots > SLOTS_MAX_COUNT {
            errors.push(SettingsError::Slots(self.slots));
        }
        if self.credit > SLOTS_MAX_COUNT {
            errors.push(SettingsError::Credit(self.credit));
        }
        if self.max_exclusive == 0 || self.max_exclusive > self.slots {
            let (max_exclusive, slots) = (self.max_exclusive, self.slots);
            errors.push(SettingsError::MaxExclusive { max_exclusive, slots });
        }
        if self.handlers.is_empty() || self.handlers.len() > HANDLERS_MAX_COUNT {
            errors.push(SettingsError::Handlers(self.handlers.len()));
        }
        for (name, time) in [("heartbeat", self.heartbeat), ("start window", self.start_window)] {
            if time.is_zero() {
                errors.push(SettingsError::Zero(name));
            }
        }
        let needed = self.heartbeat * 2 + self.kill_grace + self.silence_margin;
        if self.lost_timeout < needed {
            errors.push(SettingsError::LostTimeout {
                lost_ms: self.lost_timeout.as_millis(),
                heartbeat_ms: self.heartbeat.as_millis(),
                kill_grace_ms: self.kill_grace.as_millis(),
                margin_ms: self.silence_margin.as_millis(),
                needed_ms: needed.as_millis(),
            });
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }
}
