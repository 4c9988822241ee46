//! Agents and sessions (protocol A2, C1, C2): the production judgement of signs of life, written as the production store writes it.

use std::collections::BTreeSet;

use switchyard_common::contract::ids::{AgentRef, SessionId, TaskId};
use switchyard_common::contract::report::Presence;
use switchyard_common::task::{Input, LossReason};
use switchyard_dispatcher::presence::beat::Beat;
use switchyard_dispatcher::presence::sessions::{Current, Grant, Known, Seen, Verdict, judge};
use switchyard_dispatcher::store::Named;

use super::tables::{AgentRow, SessionRow, Store, clock, millis_between};
use crate::sim::agenda::Millis;

/// Signs of life that do not list an attempt before it is asked for (protocol C2).
const UNLISTED_MAX_COUNT: u32 = 2;

impl Store {
    /// Stores signs of life, the newest of each session.
    pub fn record_beats(&mut self, now: Millis, beats: &[Beat]) -> Vec<Verdict> {
        let mut known = self.known();
        let (verdicts, changes) = judge(&mut known, beats);
        for (session, agent) in &changes.begun {
            self.sessions
                .insert(*session, SessionRow { agent: agent.clone(), ended: None, refused_at: None });
        }
        for session in &changes.superseded {
            if let Some(row) = self.sessions.get_mut(session) {
                row.ended = Some(LossReason::Superseded);
            }
        }
        for (beat, verdict) in beats.iter().zip(&verdicts) {
            let current =
                known.agents.get(&beat.agent).is_some_and(|now| now.session == beat.presence.session);
            let older = self.agents.get(&beat.agent).is_some_and(|row| {
                row.session == beat.presence.session && row.sequence >= beat.presence.sequence
            });
            if verdict.is_accepted() && older {
                self.violated(format!(
                    "A2: an older sign of life of {} was taken for its newest",
                    beat.agent
                ));
            }
            if verdict.is_accepted() && current {
                self.agents.insert(beat.agent.clone(), row(now, &beat.presence));
            }
        }
        verdicts
    }

    fn known(&self) -> Known {
        let grant = if self.revoked { Grant::Revoked } else { Grant::Live };
        let pools = self.served_rank.keys().map(|pool| (pool.clone(), grant)).collect();
        let current = self.agents.iter().filter(|(_, row)| self.is_current(row.session));
        let agents = current
            .map(|(agent, row)| (agent.clone(), Current { session: row.session, sequence: row.sequence }))
            .collect();
        let seen = |row: &SessionRow| Seen { agent: row.agent.clone(), ended: row.ended.is_some() };
        let sessions = self.sessions.iter().map(|(session, row)| (*session, seen(row))).collect();
        Known { pools, agents, sessions }
    }

    fn is_current(&self, session: SessionId) -> bool {
        self.sessions.get(&session).is_some_and(|row| row.ended.is_none())
    }

    /// Compares what agents list with what they were given. An attempt counts as unlisted only when its publish was confirmed, and
    /// any start granted, longer than `margin` ago; without `silence_counts` nothing is counted, only forgiven.
    pub fn compare_in_hand(&mut self, now: Millis, beats: &[&Beat], margin: Millis, silence_counts: bool) {
        for beat in beats {
            let listed: BTreeSet<(TaskId, u32, SessionId)> = beat
                .presence
                .in_hand
                .iter()
                .map(|held| (held.key.task_id.clone(), held.key.attempt, held.session))
                .collect();
            for ((id, number), row) in &mut self.attempts {
                let assignee = &row.attempt.assignee;
                let mine = row.attempt.end.is_none()
                    && assignee.agent == beat.agent
                    && assignee.session == beat.presence.session;
                if !mine {
                    continue;
                }
                let old = |at: Millis| at + margin < now;
                let started = row.attempt.started_at.map(|at| millis_between(at, clock(now)));
                let settled_in =
                    started.is_none_or(|since| u64::try_from(since).is_ok_and(|since| since > margin));
                if listed.contains(&(id.clone(), *number, assignee.session)) {
                    row.unlisted = 0;
                } else if silence_counts && row.confirmed_at.is_some_and(old) && settled_in {
                    row.unlisted += 1;
                }
            }
        }
    }

    /// Attempts that two signs of life did not list.
    #[must_use]
    pub fn unlisted(&self) -> Vec<Named> {
        let unlisted = self.open_attempts().filter(|(_, row)| row.unlisted >= UNLISTED_MAX_COUNT);
        unlisted.map(|(key, _)| named(key, Input::NotListed)).collect()
    }

    /// Attempts whose session is not current, whatever left them behind: found by every sweep (protocol C2).
    #[must_use]
    pub fn left_behind(&self) -> Vec<Named> {
        let left = self.open_attempts().filter_map(|(key, row)| {
            let session = row.attempt.assignee.session;
            let reason = self.sessions.get(&session)?.ended?;
            Some(named(key, Input::SessionEnded { session, reason }))
        });
        left.collect()
    }

    /// Ends the sessions of agents that have been silent for `lost_after` by the database clock, whoever heard them last.
    pub fn declare_lost(&mut self, now: Millis, lost_after: Millis) -> Vec<(AgentRef, SessionId)> {
        let mut lost = Vec::new();
        for (agent, row) in &mut self.agents {
            if row.live && row.last_seen + lost_after < now {
                row.live = false;
                lost.push((agent.clone(), row.session));
                if let Some(session) = self.sessions.get_mut(&row.session) {
                    session.ended.get_or_insert(LossReason::Silent);
                }
            }
        }
        lost
    }

    /// Whether the process that had the open attempt of `task` can no longer run it: its session was superseded, and the newest sign
    /// of life of the agent does not list the attempt.
    #[must_use]
    pub fn session_is_over(&self, task: &TaskId) -> bool {
        let Some(open) = self.open_attempt(task) else { return true };
        let assignee = &open.attempt.assignee;
        let later = self.agents.get(&assignee.agent).filter(|row| row.session != assignee.session);
        later.is_some_and(|row| {
            self.is_current(row.session) && !row.in_hand.contains(&(task.clone(), open.attempt.number))
        })
    }
}

fn named(key: &(TaskId, u32), input: Input) -> Named {
    Named { task_id: key.0.clone(), attempt: Some(key.1), input }
}

fn row(now: Millis, presence: &Presence) -> AgentRow {
    AgentRow {
        session: presence.session,
        sequence: presence.sequence,
        pod: presence.pod.clone(),
        slots: presence.slots,
        credit: presence.credit,
        max_exclusive: presence.max_exclusive,
        handlers: presence.handlers.clone(),
        draining: presence.draining,
        live: true,
        last_seen: now,
        in_hand: presence.in_hand.iter().map(|held| (held.key.task_id.clone(), held.key.attempt)).collect(),
    }
}
