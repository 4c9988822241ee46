//! What a pass looks at: one pool, its agents with their open attempts, and the candidates that their capacity can serve.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use switchyard_common::contract::ids::{AgentId, HandlerName, PoolId, SessionId, TaskId, WorkspaceId};

/// Who paused something, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pause {
    /// Who.
    pub by: String,
    /// Why; may be empty.
    pub why: String,
    /// Since when.
    pub at: DateTime<Utc>,
}

/// The pool of a pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolView {
    /// Its id.
    pub id: PoolId,
    /// Paused by an operator.
    pub paused: Option<Pause>,
    /// Its grant is revoked (incident 63).
    pub revoked: bool,
    /// Sessions of it were fenced or revoked just now: no exclusive task is assigned before.
    pub quiet_until: Option<DateTime<Utc>>,
}

/// How long exclusive tasks wait after a fence or a revoked grant. Unlike a lost agent's, sessions that end so may have live handlers:
/// these are told to stop by the answer to the next heartbeat, or stop in silence, and are killed after their grace. A workspace
/// that was released meanwhile must not be entered before (invariant 4).
pub const QUIET_AFTER_FENCE: Duration = Duration::from_secs(30);

/// One agent of the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentView {
    /// Its id.
    pub id: AgentId,
    /// Its current session.
    pub session: SessionId,
    /// The pod's name.
    pub pod: String,
    /// Handlers that run at the same time at most.
    pub slots: u32,
    /// Attempts that may wait at the agent beyond its slots.
    pub credit: u32,
    /// Exclusive attempts at the same time at most.
    pub max_exclusive: u32,
    /// Handlers that it offers.
    pub handlers: BTreeSet<HandlerName>,
    /// Heard, and not declared lost (incidents 29, 30).
    pub live: bool,
    /// Takes no more work.
    pub draining: bool,
    /// Paused by an operator.
    pub paused: Option<Pause>,
    /// Open attempts of its current session: derived, never counted separately (invariant 8).
    pub open: u32,
    /// Those of them that are exclusive.
    pub open_exclusive: u32,
}

/// What decides which agents may take a task, and so which index range it is found in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class {
    /// The handler that the step asks for.
    pub handler: HandlerName,
    /// One at a time per workspace.
    pub exclusive: bool,
    /// May run again after a loss.
    pub repeatable: bool,
}

impl Class {
    /// Whether tasks of this class may be assigned ahead of free slots (protocol B10).
    #[must_use]
    pub const fn may_queue_at_agent(&self) -> bool {
        !self.exclusive && self.repeatable
    }
}

/// A task that may run now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The task.
    pub task_id: TaskId,
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// Its class.
    pub class: Class,
    /// Virtual time: lower goes first, whatever the priority (protocol E4).
    pub rank: i64,
    /// 9 goes first among equal ranks.
    pub priority: i16,
    /// Order of admission, among equals.
    pub seq: i64,
}

impl Candidate {
    /// The order in which candidates are served.
    #[must_use]
    pub const fn order(&self) -> (i64, i16, i64) {
        (self.rank, -self.priority, self.seq)
    }
}

/// One pool at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The pool.
    pub pool: PoolView,
    /// Its agents, live or not.
    pub agents: Vec<AgentView>,
    /// What may run now, of the classes that have capacity.
    pub candidates: Vec<Candidate>,
}

/// Why an agent does not get a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum SkipReason {
    /// Not heard for longer than the lost-timeout, or never.
    NotLive,
    /// Shuts down.
    Draining,
    /// Paused by an operator.
    Paused {
        /// By whom.
        by: String,
        /// Why.
        why: String,
    },
    /// Does not offer the handler.
    NoHandler {
        /// Which.
        handler: String,
    },
    /// Every slot, and every place of its credit that this task may use, is taken.
    NoFreeSlot {
        /// Open attempts.
        open: u32,
        /// Places that this task may use.
        of: u32,
    },
    /// As many exclusive attempts as it takes.
    ExclusiveLimit {
        /// Open exclusive attempts.
        open: u32,
        /// How many it takes.
        of: u32,
    },
    /// Could take it, but another has less to do.
    MoreLoaded,
}

impl SkipReason {
    /// One line for a person.
    #[must_use]
    pub fn sentence(&self) -> String {
        match self {
            Self::NotLive => "not heard for longer than the lost-timeout".into(),
            Self::Draining => "shuts down".into(),
            Self::Paused { by, why } if why.is_empty() => format!("paused by {by}"),
            Self::Paused { by, why } => format!("paused by {by} ({why})"),
            Self::NoHandler { handler } => format!("does not offer handler {handler}"),
            Self::NoFreeSlot { open, of } => format!("no free slot ({open} of {of} places taken)"),
            Self::ExclusiveLimit { open, of } => {
                format!("takes {of} exclusive tasks at a time and has {open}")
            }
            Self::MoreLoaded => "another has less to do".into(),
        }
    }
}

impl AgentView {
    /// Why this agent cannot take a task of `class` now; none when it can.
    #[must_use]
    pub fn refuses(&self, class: &Class) -> Option<SkipReason> {
        if !self.live {
            return Some(SkipReason::NotLive);
        }
        if self.draining {
            return Some(SkipReason::Draining);
        }
        if let Some(pause) = &self.paused {
            return Some(SkipReason::Paused { by: pause.by.clone(), why: pause.why.clone() });
        }
        if !self.handlers.contains(&class.handler) {
            return Some(SkipReason::NoHandler { handler: class.handler.to_string() });
        }
        if class.exclusive && self.open_exclusive >= self.max_exclusive {
            return Some(SkipReason::ExclusiveLimit { open: self.open_exclusive, of: self.max_exclusive });
        }
        let places = self.places(class);
        (self.open >= places).then_some(SkipReason::NoFreeSlot { open: self.open, of: places })
    }

    /// Attempts that may be open at this agent when one of `class` is added.
    #[must_use]
    pub const fn places(&self, class: &Class) -> u32 {
        if class.may_queue_at_agent() { self.slots.saturating_add(self.credit) } else { self.slots }
    }
}
