//! What goes into the machine and what comes out of it: plain values, no I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use switchyard_common::contract::assignment::{AgentMessage, Assignment};
use switchyard_common::contract::control::Control;
use switchyard_common::contract::ids::{Nonce, SessionId};
use switchyard_common::contract::report::{Ask, Claim, LeftPart, Outcome, Presence, StoppedBy};
use switchyard_common::failure::Failure;

use super::attempt_id::AttemptId;
use super::note::Note;
use super::time::BootTime;

/// Names one delivery. Opaque to the machine; a tag of a channel that is gone means nothing, and is dropped by whoever acks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag {
    /// Which channel delivered it; never reused.
    pub channel: u64,
    /// The broker's delivery tag on that channel.
    pub number: u64,
}

/// Names one published report until it is confirmed or lost. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReportId(pub u64);

/// Where the machine gets its random ids.
pub trait IdSource: Send {
    /// Draws an id that no session had before.
    fn session(&mut self) -> SessionId;
    /// Draws a nonce that no ask had before.
    fn nonce(&mut self) -> Nonce;
}

/// Everything that can happen to an agent.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// The control queue is ours (it is the lock on the agent's id) and deliveries will follow.
    ConsumeReady,
    /// The consume connection or its channel is gone, and every tag with it.
    ConsumeLost,
    /// A message from the agent's own queue.
    Delivery {
        /// For its ack.
        tag: Tag,
        /// The message.
        message: AgentMessage,
    },
    /// A message from the control queue.
    Control(Control),
    /// A handler that was started has ended, and nothing of it is left.
    HandlerEnded {
        /// Which.
        attempt: AttemptId,
        /// How.
        end: HandlerEnd,
        /// Log lines that it wrote in total.
        log_lines: u64,
    },
    /// The broker has confirmed a report.
    Confirmed(ReportId),
    /// A report may not have arrived: nacked, returned, or its connection failed before the confirm.
    Lost(ReportId),
    /// Time passes. At least every [`TICK_MS`](super::limits::TICK_MS).
    Tick,
    /// The process wants to end: take no more work, and say when all is settled.
    DrainRequested,
    /// The grace of the drain is over: stop what still runs.
    DrainGraceOver,
}

/// How a handler ended, as far as the machine needs to know.
#[derive(Debug, Clone, PartialEq)]
pub enum HandlerEnd {
    /// It did what it was asked.
    Succeeded {
        /// False when there was nothing to change.
        changes: bool,
        /// What it left, by name.
        artifacts: BTreeMap<String, Vec<u8>>,
        /// Its optional result.
        result: Option<Value>,
    },
    /// It failed.
    Failed(Failure),
    /// It panicked, or a signal that the agent did not send ended it.
    Panicked(Failure),
    /// It ran longer than its run timeout and was stopped.
    TimedOut(Failure),
    /// It ended because it was told to stop.
    Stopped,
    /// Its own supervisor ended it when the keep-alive stopped, before the machine knew of its silence (protocol C3, C4).
    KeepAliveStopped,
}

impl HandlerEnd {
    /// The word that it is counted by.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Succeeded { .. } => "succeeded",
            Self::Failed(_) => "failed",
            Self::Panicked(_) => "panicked",
            Self::TimedOut(_) => "timed_out",
            Self::Stopped => "stopped",
            Self::KeepAliveStopped => "keep_alive_stopped",
        }
    }
}

/// What the shell has to do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Publish a report; answer with [`Input::Confirmed`] or [`Input::Lost`]. Nothing waits for the answer.
    Publish(Publish),
    /// Acknowledge a delivery.
    Ack(Tag),
    /// Reject a delivery without requeue: the broker dead-letters it.
    Nack(Tag),
    /// Run a handler; answer with [`Input::HandlerEnded`].
    Start(Box<Start>),
    /// Stop a handler: TERM, then KILL after its grace. It still ends with [`Input::HandlerEnded`].
    Stop {
        /// Which.
        attempt: AttemptId,
        /// Why.
        why: StoppedBy,
    },
    /// Exclusive repeatable handlers must be dead by this moment, whatever happens to the agent; it moves on with each
    /// confirmed heartbeat (protocol C3).
    KeepAlive {
        /// The moment.
        dead_by: BootTime,
    },
    /// The agent speaks under a new session from here on.
    SessionStarted(SessionId),
    /// Take no more deliveries; those that are on their way are still handled. The control queue stays.
    StopConsuming,
    /// A drain that the process asked for is over: everything is settled and confirmed.
    Drained,
    /// Something for the log.
    Note(Note),
}

/// One report to publish.
#[derive(Debug, Clone, PartialEq)]
pub struct Publish {
    /// For the answer.
    pub id: ReportId,
    /// The newest restore epoch that the agent has seen.
    pub epoch: i64,
    /// The report.
    pub body: Body,
}

/// The body of a report. Outcomes are single, so that the shell can batch what has queued up.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// First word of a session.
    Hello(Presence),
    /// Alive.
    Heartbeat(Presence),
    /// May this non-repeatable step start?
    Ask(Ask),
    /// These repeatable attempts run.
    Started(Vec<Claim>),
    /// This attempt has ended.
    Outcome(Arc<Outcome>),
    /// A part of an artifact.
    Artifact(Arc<LeftPart>),
}

/// What a handler is started with.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// The attempt.
    pub work: Arc<Assignment>,
    /// Its input artifacts, put together and verified.
    pub inputs: Arc<BTreeMap<String, Vec<u8>>>,
    /// For exclusive repeatable steps: see [`Effect::KeepAlive`]. Others run on in silence.
    pub dead_by: Option<BootTime>,
}
