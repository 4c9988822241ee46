//! What agents tell the dispatcher. The routing key is `<type>.<pool>.<agent>`; pool and agent are read from it alone, because
//! the broker's topic permissions vouch for it (incidents 63, 64).

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::artifact::{ArtifactPart, Manifest};
use super::assignment::AttemptKey;
use super::ids::{HandlerName, LeaseToken, Nonce, SessionId};
use super::routing::ReportKind;
use crate::failure::Failure;

/// What an agent shows to speak for an attempt (protocol A5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The task.
    pub task_id: super::ids::TaskId,
    /// The attempt's number.
    pub attempt: u32,
    /// The session that the attempt was assigned to and that speaks.
    pub session: SessionId,
    /// The attempt's secret.
    pub lease: LeaseToken,
}

impl Claim {
    /// The attempt that is spoken for.
    #[must_use]
    pub fn key(&self) -> AttemptKey {
        AttemptKey { task_id: self.task_id.clone(), attempt: self.attempt }
    }
}

/// One report: an epoch and a body.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The newest restore epoch that the agent has seen (protocol G).
    pub epoch: i64,
    /// What is reported.
    pub body: ReportBody,
}

/// What is reported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ReportBody {
    /// First word of a session; otherwise the same as a heartbeat.
    Hello(Presence),
    /// Alive, every few seconds.
    Heartbeat(Presence),
    /// May this non-repeatable step start?
    Ask(Ask),
    /// These repeatable attempts run, for longer than a moment.
    Started(StartedBatch),
    /// These attempts have ended.
    Outcome(OutcomeBatch),
    /// A part of an artifact that an attempt leaves; every part is confirmed before the outcome is sent.
    Artifact(LeftPart),
    /// Log lines of a handler.
    Log(LogLines),
}

impl ReportBody {
    /// What it is: the first word of the routing key.
    #[must_use]
    pub const fn kind(&self) -> ReportKind {
        match self {
            Self::Hello(_) => ReportKind::Hello,
            Self::Heartbeat(_) => ReportKind::Heartbeat,
            Self::Ask(_) => ReportKind::Ask,
            Self::Started(_) => ReportKind::Started,
            Self::Outcome(_) => ReportKind::Outcome,
            Self::Artifact(_) => ReportKind::Artifact,
            Self::Log(_) => ReportKind::Log,
        }
    }

    /// The word for it in logs, metrics and routing keys.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.kind().as_str()
    }
}

/// A self-sufficient sign of life (protocol C2): whoever has the newest one knows all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Presence {
    /// The agent's session.
    pub session: SessionId,
    /// Number of this heartbeat in its session, from 1, so that reordered ones are told apart.
    pub sequence: u64,
    /// The pod's name, or the host's outside Kubernetes.
    pub pod: String,
    /// The node's name, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Version of the agent program.
    pub version: String,
    /// Handlers that run at the same time at most.
    pub slots: u32,
    /// Attempts that may wait at the agent beyond its slots (protocol B10).
    pub credit: u32,
    /// Exclusive attempts at the same time at most.
    pub max_exclusive: u32,
    /// Handlers that the agent offers.
    pub handlers: BTreeSet<HandlerName>,
    /// Takes no more work.
    pub draining: bool,
    /// Every attempt in hand, waiting or running, of this session and of ended ones.
    pub in_hand: Vec<InHand>,
}

/// One attempt that an agent has in hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InHand {
    /// The attempt.
    #[serde(flatten)]
    pub key: AttemptKey,
    /// The session that it was assigned to.
    pub session: SessionId,
    /// Its handler runs.
    pub running: bool,
}

/// Asks to start a non-repeatable step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// Who asks, for which attempt.
    pub claim: Claim,
    /// Drawn for this delivery, kept in memory only.
    pub nonce: Nonce,
}

/// Attempts whose handler has started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StartedBatch {
    /// One claim per attempt.
    pub claims: Vec<Claim>,
}

/// Several outcomes in one message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OutcomeBatch {
    /// One per attempt.
    pub outcomes: Vec<Outcome>,
}

/// How one attempt ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// Who speaks, for which attempt.
    pub claim: Claim,
    /// When the handler started, by the agent's clock: shown to people, never compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended, by the agent's clock.
    pub ended_at: DateTime<Utc>,
    /// Log lines that the handler wrote in total; the dispatcher compares it with what it has stored.
    pub log_lines: u64,
    /// The end.
    pub end: OutcomeEnd,
}

/// The closed set of ends that an agent can report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "outcome", rename_all = "snake_case", deny_unknown_fields)]
pub enum OutcomeEnd {
    /// The handler did what it was asked.
    Succeeded {
        /// False when there is nothing to change: the task ends here (design 4).
        changes: bool,
        /// What it left.
        artifacts: Manifest,
        /// Its optional JSON result.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        result: Option<Value>,
    },
    /// The handler failed.
    Failed {
        /// Why.
        failure: Failure,
    },
    /// The handler panicked, or a signal that the agent did not send ended it.
    Panicked {
        /// Why.
        failure: Failure,
    },
    /// The handler ran too long and was stopped.
    TimedOut {
        /// Why.
        failure: Failure,
    },
    /// The handler was stopped because the agent was told to, or drains, or fell silent.
    Cancelled {
        /// What stopped it.
        by: StoppedBy,
    },
    /// The handler was never started, and never will be by this attempt.
    NotStarted {
        /// Why.
        reason: NotStarted,
    },
}

impl OutcomeEnd {
    /// The word for it in logs, metrics and tables.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Succeeded { .. } => "succeeded",
            Self::Failed { .. } => "failed",
            Self::Panicked { .. } => "panicked",
            Self::TimedOut { .. } => "timed_out",
            Self::Cancelled { .. } => "cancelled",
            Self::NotStarted { .. } => "not_started",
        }
    }

    /// The failure, for the ends that nack their delivery.
    #[must_use]
    pub const fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed { failure } | Self::Panicked { failure } | Self::TimedOut { failure } => {
                Some(failure)
            }
            Self::Succeeded { .. } | Self::Cancelled { .. } | Self::NotStarted { .. } => None,
        }
    }
}

/// What stopped a handler that ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StoppedBy {
    /// A cancel or revoke of the dispatcher.
    Dispatcher,
    /// The end of the grace period after SIGTERM (protocol C6).
    Drain,
    /// The agent could not be heard for too long (protocol C3).
    Silence,
}

/// Why a handler was never started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NotStarted {
    /// The delivery was for a session that is not the agent's (protocol B6). It proves only that this session will not run it: an
    /// earlier process may have, so the dispatcher takes it as the end of the session that it was assigned to.
    OtherSession,
    /// The agent drains.
    Draining,
    /// The agent was told not to.
    Revoked,
    /// The dispatcher refused the ask, or granted it too late.
    NoGo,
    /// The agent fell silent and ended its session.
    Silence,
    /// The input artifacts did not arrive, or do not match what was approved.
    Inputs,
    /// The agent does not offer that handler.
    NoHandler,
    /// The attempt has ended, and what came of it was reported and confirmed; but it never arrived, and is no longer kept. The dispatcher
    /// takes it as lost: the agent is asked again until there is an answer, and this is the only one left.
    OutcomeForgotten,
}

/// A part of an artifact, with the claim of the attempt that leaves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LeftPart {
    /// Who speaks, for which attempt.
    pub claim: Claim,
    /// The part.
    pub part: ArtifactPart,
}

/// Log lines of one attempt, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogLines {
    /// Who speaks, for which attempt.
    pub claim: Claim,
    /// The lines.
    pub lines: Vec<LogLine>,
}

/// One log line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogLine {
    /// Number in its attempt, from 1, without gaps.
    pub sequence: u64,
    /// When it was read, by the agent's clock.
    pub at: DateTime<Utc>,
    /// Where it was written.
    pub stream: LogStream,
    /// The line, secrets masked, without its line end.
    pub text: String,
}

/// Where a log line was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The handler's own log call, or the agent.
    Agent,
}
