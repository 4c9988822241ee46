//! Why an attempt or an event failed: what an operator needs to understand it, bounded and safe to store.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::contract::limits::{BACKTRACE_MAX_CHARS, FAILURE_MESSAGE_MAX_CHARS, LOG_TAIL_MAX_LINES};

/// The closed list of reasons. The text form is stored and shown, so it never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The handler returned an error or a non-zero exit code.
    HandlerFailed,
    /// The handler panicked, or its process was killed by a signal that the agent did not send.
    HandlerPanicked,
    /// The handler ran longer than its run timeout.
    RunTimeout,
    /// The task waited longer than its queue timeout.
    QueueTimeout,
    /// The task's deadline passed.
    Deadline,
    /// An approval was not given in time.
    ApprovalExpired,
    /// The agent was lost more often than the limit allows, or while it ran the handler.
    AgentLost,
    /// A non-repeatable step was stopped in the middle.
    Interrupted,
    /// The input artifacts did not reach the agent, or do not match what was approved.
    InputsMissing,
    /// What the step left is not what its manifest says, or is over the limit.
    ArtifactsRefused,
    /// The event is not JSON, or JSON of the wrong shape.
    MalformedEvent,
    /// The event is larger than the limit.
    OversizedEvent,
    /// The event type is not known.
    UnknownType,
    /// The task kind is not known.
    UnknownKind,
    /// The workspace is not registered and the event names no pool.
    UnknownWorkspace,
    /// The task named by the event does not exist.
    UnknownTask,
    /// A value is outside its limits (id, priority, time, digest).
    InvalidValue,
    /// The same id was used before with another body.
    IdConflict,
    /// The state of the task does not allow what was asked.
    RejectedTransition,
    /// The dispatcher's own event handling panicked.
    DispatcherPanicked,
    /// The event was delivered again and again without being settled.
    Poison,
    /// The database refused this one row.
    PoisonRow,
    /// The report is not JSON of the right shape, or speaks for somebody else.
    MalformedReport,
    /// The broker dead-lettered the message by itself because of its delivery limit.
    BrokerDeliveryLimit,
    /// The broker dead-lettered the message by itself because it expired.
    BrokerExpired,
    /// The broker dead-lettered the message by itself because its queue was full.
    BrokerMaxlen,
    /// The message was rejected by its consumer, and no failure report came.
    BrokerRejected,
}

impl FailureKind {
    /// Every kind, for tables and schemas.
    pub const ALL: [Self; 27] = [
        Self::HandlerFailed,
        Self::HandlerPanicked,
        Self::RunTimeout,
        Self::QueueTimeout,
        Self::Deadline,
        Self::ApprovalExpired,
        Self::AgentLost,
        Self::Interrupted,
        Self::InputsMissing,
        Self::ArtifactsRefused,
        Self::MalformedEvent,
        Self::OversizedEvent,
        Self::UnknownType,
        Self::UnknownKind,
        Self::UnknownWorkspace,
        Self::UnknownTask,
        Self::InvalidValue,
        Self::IdConflict,
        Self::RejectedTransition,
        Self::DispatcherPanicked,
        Self::Poison,
        Self::PoisonRow,
        Self::MalformedReport,
        Self::BrokerDeliveryLimit,
        Self::BrokerExpired,
        Self::BrokerMaxlen,
        Self::BrokerRejected,
    ];

    /// The stored text form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HandlerFailed => "handler_failed",
            Self::HandlerPanicked => "handler_panicked",
            Self::RunTimeout => "run_timeout",
            Self::QueueTimeout => "queue_timeout",
            Self::Deadline => "deadline",
            Self::ApprovalExpired => "approval_expired",
            Self::AgentLost => "agent_lost",
            Self::Interrupted => "interrupted",
            Self::InputsMissing => "inputs_missing",
            Self::ArtifactsRefused => "artifacts_refused",
            Self::MalformedEvent => "malformed_event",
            Self::OversizedEvent => "oversized_event",
            Self::UnknownType => "unknown_type",
            Self::UnknownKind => "unknown_kind",
            Self::UnknownWorkspace => "unknown_workspace",
            Self::UnknownTask => "unknown_task",
            Self::InvalidValue => "invalid_value",
            Self::IdConflict => "id_conflict",
            Self::RejectedTransition => "rejected_transition",
            Self::DispatcherPanicked => "dispatcher_panicked",
            Self::Poison => "poison",
            Self::PoisonRow => "poison_row",
            Self::MalformedReport => "malformed_report",
            Self::BrokerDeliveryLimit => "broker_delivery_limit",
            Self::BrokerExpired => "broker_expired",
            Self::BrokerMaxlen => "broker_maxlen",
            Self::BrokerRejected => "broker_rejected",
        }
    }

    /// Reads the stored text form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Why something failed. Every text in it is bounded by [`Failure::bounded`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// The reason, from the closed list.
    pub kind: FailureKind,
    /// What happened, for a person; says what to do where that is known.
    pub message: String,
    /// Where a panic happened: file, line and column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The backtrace of a panic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backtrace: Option<String>,
    /// The exit code of the handler program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended the handler program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The last log lines of the handler, oldest first, secrets masked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_tail: Vec<String>,
}

impl Failure {
    /// A failure with a message and nothing else.
    #[must_use]
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            location: None,
            backtrace: None,
            exit_code: None,
            signal: None,
            log_tail: Vec::new(),
        }
        .bounded()
    }

    /// Cuts every text to its limit, marks what was cut, and replaces NUL, which PostgreSQL refuses in text.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        self.message = bound(&self.message, FAILURE_MESSAGE_MAX_CHARS);
        self.location = self.location.map(|text| bound(&text, FAILURE_MESSAGE_MAX_CHARS));
        self.backtrace = self.backtrace.map(|text| bound(&text, BACKTRACE_MAX_CHARS));
        if self.log_tail.len() > LOG_TAIL_MAX_LINES {
            self.log_tail.drain(..self.log_tail.len() - LOG_TAIL_MAX_LINES);
        }
        for line in &mut self.log_tail {
            *line = bound(line, crate::contract::limits::LOG_LINE_MAX_CHARS);
        }
        self
    }

    /// Failures of one cause share a fingerprint: kind, place and the message with its digits folded. Used to group dead letters.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let place = self.location.as_deref().unwrap_or_default();
        let mut folded = String::new();
        let mut in_number = false;
        for c in self.message.lines().next().unwrap_or_default().chars() {
            let digit = c.is_ascii_digit();
            if digit && !in_number {
                folded.push('#');
            } else if !digit {
                folded.push(c);
            }
            in_number = digit;
        }
        let text = format!("{}|{place}|{:?}|{:?}|{folded}", self.kind.as_str(), self.exit_code, self.signal);
        let digest = crate::contract::ids::Digest::of(text.as_bytes());
        hex::encode(&digest.as_bytes()[..8])
    }
}

/// Cuts `text` to `chars_max` characters, says so at the end, and replaces NUL.
#[must_use]
pub fn bound(text: &str, chars_max: usize) -> String {
    const MARK: &str = " [cut]";
    let clean = |c: char| if c == '\0' { '\u{fffd}' } else { c };
    if text.chars().nth(chars_max).is_none() {
        return text.chars().map(clean).collect();
    }
    let keep = chars_max.saturating_sub(MARK.len());
    let mut cut: String = text.chars().take(keep).map(clean).collect();
    cut.push_str(MARK);
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_at_the_limit_is_kept_and_one_over_is_cut_and_says_so() {
        assert_eq!(bound(&"x".repeat(20), 20), "x".repeat(20));
        let cut = bound(&"x".repeat(21), 20);
        assert_eq!(cut.chars().count(), 20);
        assert!(cut.ends_with("[cut]"));
    }

    #[test]
    fn nul_is_replaced_because_postgresql_refuses_it() {
        assert_eq!(bound("a\0b", 10), "a\u{fffd}b");
    }

    #[test]
    fn failures_that_differ_in_numbers_only_share_a_fingerprint() {
        let one = Failure::new(FailureKind::HandlerFailed, "timeout after 31 s on host 7");
        let two = Failure::new(FailureKind::HandlerFailed, "timeout after 4 s on host 1234");
        let other = Failure::new(FailureKind::HandlerPanicked, "timeout after 4 s on host 1234");
        assert_eq!(one.fingerprint(), two.fingerprint());
        assert_ne!(one.fingerprint(), other.fingerprint());
    }

    #[test]
    fn every_kind_reads_back_from_its_stored_text() {
        for kind in FailureKind::ALL {
            assert_eq!(FailureKind::parse(kind.as_str()), Some(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
