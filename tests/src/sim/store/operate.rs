//! What operators do by hand: pause, resume, revoke and grant, fence (protocol G, H).

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use switchyard_common::contract::ids::{AgentRef, SessionId, WorkspaceId};
use switchyard_common::task::{Input, LossReason, Status};
use switchyard_dispatcher::schedule::{Pause, QUIET_AFTER_FENCE};
use switchyard_dispatcher::store::{Applied, Named};

use super::tables::{Store, clock};
use crate::sim::agenda::Millis;
use crate::sim::dice::Dice;

/// What is paused.
#[derive(Debug, Default)]
pub(super) struct Paused {
    pub(super) pool: bool,
    pub(super) agents: BTreeSet<AgentRef>,
    pub(super) workspaces: BTreeSet<WorkspaceId>,
}

impl Store {
    /// Pauses the pool, or resumes it.
    pub fn pause_pool(&mut self, paused: bool) {
        self.paused.pool = paused;
    }

    /// Pauses an agent.
    pub fn pause_agent(&mut self, agent: &AgentRef) {
        self.paused.agents.insert(agent.clone());
    }

    /// Pauses a workspace.
    pub fn pause_workspace(&mut self, workspace: &WorkspaceId) {
        self.paused.workspaces.insert(workspace.clone());
    }

    /// Resumes everything, and grants what was revoked.
    pub fn resume_all(&mut self) {
        self.paused = Paused::default();
        self.revoked = false;
    }

    /// The words of a pause, where there is one.
    pub(super) fn pause(&self, paused: bool) -> Option<Pause> {
        paused.then(|| Pause { by: "eve".to_owned(), why: String::new(), at: clock(0) })
    }

    /// Ends the sessions of a pool whose grant is revoked, at every sweep.
    pub fn end_revoked(&mut self, now: Millis) {
        if self.revoked {
            self.end_all(now, LossReason::PoolRevoked);
        }
    }

    /// Until when nothing exclusive is assigned, because of sessions that were fenced or revoked.
    pub(super) fn quiet_until(&self, now: Millis) -> Option<DateTime<Utc>> {
        let quiet = u64::try_from(QUIET_AFTER_FENCE.as_millis()).unwrap_or(u64::MAX);
        let last = self.sessions.values().filter_map(|row| row.refused_at).max()?;
        (last + quiet > now).then(|| clock(last + quiet))
    }

    /// After a restore: the epoch grows, every session is over, and so is what they had in hand, save what may have run and must not run
    /// twice.
    pub fn fence(&mut self, now: Millis, dice: &mut Dice) -> Vec<Applied> {
        self.epoch += 1;
        self.end_all(now, LossReason::Fenced);
        let certain = |task| self.tasks.get(task).is_some_and(|row| row.task.status != Status::Uncertain);
        let open = self.open_attempts().filter(|((task, _), _)| certain(task));
        let fenced: Vec<Named> = open
            .filter_map(|((task, _), row)| {
                let session = row.attempt.assignee.session;
                let reason = self.sessions.get(&session)?.ended.filter(|why| *why == LossReason::Fenced)?;
                let input = Input::SessionEnded { session, reason };
                Some(Named { task_id: task.clone(), attempt: None, input })
            })
            .collect();
        self.apply(now, 0, dice, &fenced)
    }

    /// Whether a session was fenced or revoked.
    #[must_use]
    pub fn was_refused(&self, session: SessionId) -> bool {
        self.sessions.get(&session).is_some_and(|row| row.refused_at.is_some())
    }

    /// Whether a session was fenced or revoked, and its handlers had all the time that they are given to go.
    #[must_use]
    pub fn was_waited_for(&self, now: Millis, session: SessionId) -> bool {
        let quiet = u64::try_from(QUIET_AFTER_FENCE.as_millis()).unwrap_or(u64::MAX);
        let refused_at = self.sessions.get(&session).and_then(|row| row.refused_at);
        refused_at.is_some_and(|at| at + quiet <= now)
    }

    fn end_all(&mut self, now: Millis, reason: LossReason) {
        for row in self.agents.values_mut().filter(|row| reason == LossReason::Fenced || row.live) {
            row.live = false;
            if let Some(session) = self.sessions.get_mut(&row.session)
                && session.ended.is_none()
            {
                (session.ended, session.refused_at) = (Some(reason), Some(now));
            }
        }
    }
}
