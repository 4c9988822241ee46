//! What is known when everything has come to rest: the publisher's book, the handlers' ledger, the rows, the letters, the queues.

use std::collections::BTreeSet;

use serde::Serialize;

use super::book::Pages;
use super::fault::Silence;
use super::ledger::Run;

/// All of it. Plain values: the checker needs no broker and no database.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// What was published and confirmed.
    pub book: Pages,
    /// What handlers did.
    pub runs: Vec<Run>,
    /// Tasks, as stored.
    pub tasks: Vec<TaskRow>,
    /// Attempts, as stored.
    pub attempts: Vec<AttemptRow>,
    /// Dead letters, as stored.
    pub letters: Vec<LetterRow>,
    /// Ids of the events that are stored as accepted.
    pub events: BTreeSet<String>,
    /// Sessions that were ended for their silence.
    pub silent: Vec<SilentRow>,
    /// When the processes of agents ran.
    pub lives: Vec<Life>,
    /// Tasks that an operator had to resolve, with what they waited for until then.
    pub resolved: Vec<(String, String)>,
    /// What `dispatcher audit` found.
    pub audit: Vec<String>,
    /// Messages left in queues.
    pub queues: Vec<(String, u64)>,
    /// Attempts that agents still have in hand, by their own word.
    pub in_hand: Vec<(String, u64)>,
    /// What nobody did: processes that ended by themselves, panics, probes that did not run.
    pub surprises: Vec<String>,
    /// What the faults of the mix excuse.
    pub excused: Excused,
}

/// What the faults of a mix excuse.
#[derive(Debug, Clone, Copy, Default)]
pub struct Excused {
    /// Attempts that are lost.
    pub losses: bool,
    /// Agents that are declared silent.
    pub silence: Silence,
    /// Handlers that end badly although they were meant to do well.
    pub handler_deaths: bool,
}

/// A session that was ended for its silence.
#[derive(Debug, Clone, Serialize)]
pub struct SilentRow {
    /// Which.
    pub session: String,
    /// Whose.
    pub agent: String,
    /// When it was first heard, in milliseconds since the epoch.
    pub seen_ms: i64,
    /// When it was ended, in milliseconds since the epoch.
    pub at_ms: i64,
    /// The same, in nanoseconds since the machine booted, as the ledger has it.
    pub at_ns: u64,
}

/// One process of an agent. Times are in milliseconds since the epoch.
#[derive(Debug, Clone, Serialize)]
pub struct Life {
    /// The agent.
    pub agent: String,
    /// When it was started.
    pub from_ms: i64,
    /// When it was killed; none while it lives.
    pub to_ms: Option<i64>,
}

/// A task.
#[derive(Debug, Clone, Serialize)]
pub struct TaskRow {
    /// Its id.
    pub task: String,
    /// Its status.
    pub status: String,
    /// Whether nothing leaves that status.
    pub terminal: bool,
    /// Its current or last step.
    pub step: String,
    /// Why it failed.
    pub failure_kind: Option<String>,
    /// What it waits for, in words.
    pub waiting_for: String,
    /// Whether a cancel was accepted.
    pub cancel_requested: bool,
}

/// An attempt.
#[derive(Debug, Clone, Serialize)]
pub struct AttemptRow {
    /// Its task.
    pub task: String,
    /// Its number.
    pub attempt: u64,
    /// Its step.
    pub step: String,
    /// The session of the agent that it was assigned to.
    pub session: String,
    /// Whether the step may run again.
    pub repeatable: bool,
    /// How it ended; none while it is open.
    pub outcome: Option<String>,
    /// Whether it was asked to stop.
    pub revoked: bool,
    /// Whether it was assigned after a cancel of its task was accepted. An attempt that the cancel asked to stop was there before it.
    pub after_cancel: bool,
}

/// A dead letter.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LetterRow {
    /// Its key.
    pub key: String,
    /// The task.
    pub task: Option<String>,
    /// The event.
    pub event_id: Option<String>,
    /// Why.
    pub failure_kind: Option<String>,
    /// What of its context is missing.
    pub missing: Vec<String>,
}

impl AttemptRow {
    /// The key of its dead letter.
    #[must_use]
    pub fn letter_key(&self) -> String {
        format!("attempt:{}#{}", self.task, self.attempt)
    }

    /// Whether its delivery was nacked: then it has one dead letter.
    #[must_use]
    pub fn failed(&self) -> bool {
        matches!(self.outcome.as_deref(), Some("failed" | "panicked" | "timed_out"))
    }
}
