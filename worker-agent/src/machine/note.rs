//! What the machine wants in the log. Values, so that a line costs nothing where its level is off.

use std::fmt;

use switchyard_common::contract::assignment::AttemptKey;
use switchyard_common::contract::ids::{SessionId, WorkspaceId};
use switchyard_common::contract::report::{NotStarted, StoppedBy};

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The attempt that it is about.
    pub key: Option<AttemptKey>,
    /// Its workspace, where known.
    pub workspace: Option<WorkspaceId>,
    /// What happened.
    pub what: What,
}

/// How loud a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For whoever follows one attempt.
    Debug,
    /// The normal course of things.
    Info,
    /// Somebody should know.
    Warn,
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnd {
    /// The agent could not be heard for too long.
    Silence,
    /// The dispatcher said so.
    Ordered,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A redelivery was joined to its attempt in hand.
    Reattached,
    /// A copy of an attempt in hand, or of a finished one, was acked without running.
    CopyDropped {
        /// Which publish it was.
        publish_no: u32,
    },
    /// The nack of a failed attempt had been lost, and was repeated.
    NackedAgain,
    /// An attempt will not be started.
    Refused(NotStarted),
    /// The handler was started.
    Started,
    /// The dispatcher is asked whether the step may start.
    Asked,
    /// The handler ended.
    Ended {
        /// The word for its outcome.
        outcome: &'static str,
    },
    /// The handler is told to stop.
    Stopping(StoppedBy),
    /// A stop was asked for, but the step is not repeatable and runs.
    NotStopped,
    /// The dispatcher refused the ask.
    NoGo {
        /// Why.
        reason: String,
    },
    /// A go that nobody waits for: late, or for another nonce.
    GoIgnored,
    /// The outcome of a finished attempt was asked for, and is sent again.
    OutcomeAgain,
    /// The outcome of a finished attempt was asked for, but is no longer kept.
    OutcomeForgotten,
    /// A stop was asked for an attempt of a session that is over; its end is the answer.
    NotOurs,
    /// A message of before a restore.
    StaleEpoch {
        /// Its epoch.
        epoch: i64,
    },
    /// The input artifacts are refused.
    BadInputs {
        /// Why.
        reason: String,
    },
    /// An input part was dropped.
    PartDropped {
        /// Why.
        reason: &'static str,
    },
    /// The assignment names another agent.
    Misrouted,
    /// A handler ended that the machine had not started.
    UnknownHandler,
    /// A session ended.
    SessionEnded {
        /// Which.
        session: SessionId,
        /// Why.
        why: SessionEnd,
    },
    /// A session began.
    SessionStarted {
        /// Which.
        session: SessionId,
    },
    /// No more work is taken.
    Draining,
}

impl Note {
    /// How loud the line is.
    #[must_use]
    pub const fn level(&self) -> Level {
        match self.what {
            What::Asked | What::CopyDropped { .. } | What::OutcomeAgain => Level::Debug,
            What::Reattached
            | What::Refused(_)
            | What::Started
            | What::Ended { .. }
            | What::Stopping(_)
            | What::NoGo { .. }
            | What::NotOurs
            | What::SessionStarted { .. }
            | What::Draining => Level::Info,
            What::NackedAgain
            | What::NotStopped
            | What::GoIgnored
            | What::OutcomeForgotten
            | What::StaleEpoch { .. }
            | What::BadInputs { .. }
            | What::PartDropped { .. }
            | What::Misrouted
            | What::UnknownHandler
            | What::SessionEnded { .. } => Level::Warn,
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reattached => f.write_str("redelivered while in hand: re-attached, not run again"),
            Self::CopyDropped { publish_no } => write!(f, "copy {publish_no} acked without running"),
            Self::NackedAgain => f.write_str("the nack of the failed attempt was lost: nacked once more"),
            Self::Refused(reason) => write!(f, "not started: {}", refusal(*reason)),
            Self::Started => f.write_str("handler started"),
            Self::Asked => f.write_str("asked the dispatcher whether the step may start"),
            Self::Ended { outcome } => write!(f, "handler ended: {outcome}"),
            Self::Stopping(why) => write!(f, "stopping the handler: {}", stop_reason(*why)),
            Self::NotStopped => f.write_str(
                "asked to stop, but the step is not repeatable and runs: it runs on without force",
            ),
            Self::NoGo { reason } => write!(f, "the dispatcher refused the start: {reason}"),
            Self::GoIgnored => f.write_str("a go that nobody waits for any more was ignored"),
            Self::OutcomeAgain => f.write_str("asked for a finished attempt: its outcome is sent again"),
            Self::OutcomeForgotten => {
                f.write_str("asked for a finished attempt whose outcome is no longer kept")
            }
            Self::NotOurs => {
                f.write_str("asked to stop an attempt of a session that is over: nothing to stop")
            }
            Self::StaleEpoch { epoch } => {
                write!(f, "a message of restore epoch {epoch}, which is over, was refused")
            }
            Self::BadInputs { reason } => write!(f, "the input artifacts are refused: {reason}"),
            Self::PartDropped { reason } => write!(f, "an input part was dropped: {reason}"),
            Self::Misrouted => f.write_str("an assignment for another agent was dropped"),
            Self::UnknownHandler => f.write_str("a handler ended that was not running"),
            Self::SessionEnded { session, why: SessionEnd::Silence } => {
                write!(f, "session {session} ended: this agent could not be heard for too long")
            }
            Self::SessionEnded { session, why: SessionEnd::Ordered } => {
                write!(f, "session {session} ended: the dispatcher had declared it lost")
            }
            Self::SessionStarted { session } => write!(f, "session {session} begins"),
            Self::Draining => f.write_str("draining: no more work is taken"),
        }
    }
}

const fn refusal(reason: NotStarted) -> &'static str {
    match reason {
        NotStarted::OtherSession => "it was assigned to another session",
        NotStarted::Draining => "the agent drains",
        NotStarted::Revoked => "the dispatcher wants it no longer",
        NotStarted::NoGo => "the start was refused, or granted too late",
        NotStarted::Silence => "the agent could not be heard for too long",
        NotStarted::Inputs => "its input artifacts did not arrive, or are not what was approved",
        NotStarted::NoHandler => "the agent does not offer its handler",
        NotStarted::OutcomeForgotten => "it has ended, and its outcome is no longer kept",
    }
}

const fn stop_reason(why: StoppedBy) -> &'static str {
    match why {
        StoppedBy::Dispatcher => "the dispatcher wants it no longer",
        StoppedBy::Drain => "the grace of the drain is over",
        StoppedBy::Silence => "the agent could not be heard for too long",
    }
}
