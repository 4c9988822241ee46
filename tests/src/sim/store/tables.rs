//! Rows, and the clock of the database.

use std::collections::{BTreeMap, BTreeSet};
use switchyard_dispatcher::intake::command::EventKey;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use switchyard_common::contract::answer::Accepted;
use switchyard_common::contract::artifact::Manifest;
use switchyard_common::contract::ids::{AgentRef, HandlerName, PoolId, SessionId, TaskId, WorkspaceId};
use switchyard_common::task::{Attempt, LossReason, Task};

use super::letters::Letter;
use super::operate::Paused;
use crate::sim::agenda::Millis;

/// A workspace.
#[derive(Debug, Clone)]
pub(super) struct WorkspaceRow {
    pub(super) pool: PoolId,
    pub(super) next_position: i64,
}

/// A task with what decisions do not need of it.
#[derive(Debug, Clone)]
pub struct TaskRow {
    /// The task.
    pub task: Task,
    /// Order of admission.
    pub seq: i64,
    /// Virtual time (protocol E4).
    pub rank: i64,
    /// 9 goes first.
    pub priority: u8,
    /// What the handlers get.
    pub payload: Value,
}

/// An attempt with what decisions do not need of it.
#[derive(Debug, Clone)]
pub struct AttemptRow {
    /// The attempt.
    pub attempt: Attempt,
    /// Of an exclusive task.
    pub exclusive: bool,
    /// The replica that published last.
    pub published_by: usize,
    /// When it did.
    pub published_at: Millis,
    /// When a confirm was recorded.
    pub confirmed_at: Option<Millis>,
    /// Heartbeats after the confirmation that did not list it.
    pub unlisted: u32,
    /// When its revoke was sent last.
    pub revoke_sent_at: Option<Millis>,
    /// How often.
    pub revoke_sends: u32,
}

/// An agent.
#[derive(Debug, Clone)]
pub struct AgentRow {
    /// Its current session.
    pub session: SessionId,
    /// The newest sign of life in it.
    pub sequence: u64,
    /// The pod's name.
    pub pod: String,
    /// See the presence report.
    pub slots: u32,
    /// See the presence report.
    pub credit: u32,
    /// See the presence report.
    pub max_exclusive: u32,
    /// Handlers that it offers.
    pub handlers: BTreeSet<HandlerName>,
    /// Takes no more work.
    pub draining: bool,
    /// Not declared lost.
    pub live: bool,
    /// By the database clock.
    pub last_seen: Millis,
    /// The attempts that the newest sign of life lists, of any session.
    pub in_hand: BTreeSet<(TaskId, u32)>,
}

/// A session that was seen once.
#[derive(Debug, Clone)]
pub struct SessionRow {
    /// Whose.
    pub agent: AgentRef,
    /// Why it is over, and never accepted again.
    pub ended: Option<LossReason>,
    /// When it was fenced or revoked.
    pub refused_at: Option<Millis>,
}

/// Source and id of an event.
pub(super) type EventId = (String, String);
/// A file and the number of a part of it.
pub(super) type PartId = (String, u32);

/// The database.
#[derive(Debug, Default)]
pub struct Store {
    pub(super) served_rank: BTreeMap<PoolId, i64>,
    pub(super) workspaces: BTreeMap<WorkspaceId, WorkspaceRow>,
    pub(super) lanes: BTreeMap<(WorkspaceId, u8), i64>,
    /// Agents by pool and id.
    pub agents: BTreeMap<AgentRef, AgentRow>,
    /// Every session ever seen.
    pub sessions: BTreeMap<SessionId, SessionRow>,
    pub(super) events: BTreeMap<EventId, Accepted>,
    /// Trials of events that did not end: which replica is in the middle of one, or was.
    pub trials: BTreeMap<EventKey, BTreeSet<usize>>,
    /// Tasks by id.
    pub tasks: BTreeMap<TaskId, TaskRow>,
    /// Attempts by task and number.
    pub attempts: BTreeMap<(TaskId, u32), AttemptRow>,
    pub(super) parts: BTreeMap<(TaskId, u32), BTreeMap<PartId, Vec<u8>>>,
    pub(super) manifests: BTreeMap<(TaskId, u32), Manifest>,
    /// Dead letters by key.
    pub letters: BTreeMap<String, Letter>,
    /// When each replica wrote its own row last.
    pub replicas: BTreeMap<usize, Millis>,
    /// The restore epoch (protocol G).
    pub epoch: i64,
    /// What is paused.
    pub(super) paused: Paused,
    /// The pool's grant is revoked.
    pub revoked: bool,
    /// Up to when each has settled what it was handed.
    pub settled: BTreeMap<usize, DateTime<Utc>>,
    pub(super) seq: i64,
    /// Broken constraints and invariants, in the order in which they were found.
    pub violations: Vec<String>,
}

/// The database's time.
#[must_use]
pub fn clock(now: Millis) -> DateTime<Utc> {
    // 2026-01-01; any day would do.
    const EPOCH_SECONDS: i64 = 1_767_225_600;
    let since = TimeDelta::try_milliseconds(i64::try_from(now).unwrap_or(i64::MAX)).unwrap_or_default();
    DateTime::from_timestamp(EPOCH_SECONDS, 0).unwrap_or_default() + since
}

/// Simulated milliseconds from `earlier` to `later`; negative when it is the other way round.
#[must_use]
pub fn millis_between(earlier: DateTime<Utc>, later: DateTime<Utc>) -> i64 {
    (later - earlier).num_milliseconds()
}

impl Store {
    /// A database with its pools.
    #[must_use]
    pub fn new(pools: &[PoolId]) -> Self {
        Self {
            served_rank: pools.iter().map(|pool| (pool.clone(), 0)).collect(),
            epoch: 1,
            ..Self::default()
        }
    }

    /// Notes that something is as it must never be.
    pub fn violated(&mut self, what: impl Into<String>) {
        self.violations.push(what.into());
    }

    /// The open attempt of a task.
    #[must_use]
    pub fn open_attempt(&self, task: &TaskId) -> Option<&AttemptRow> {
        let number = self.tasks.get(task)?.task.attempts;
        self.attempts.get(&(task.clone(), number)).filter(|row| row.attempt.end.is_none())
    }

    /// Every open attempt.
    pub fn open_attempts(&self) -> impl Iterator<Item = (&(TaskId, u32), &AttemptRow)> {
        self.attempts.iter().filter(|(_, row)| row.attempt.end.is_none())
    }
}
