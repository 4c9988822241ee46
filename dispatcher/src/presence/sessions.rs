//! Which session of an agent is current: what a sign of life makes of what is known. Pure (protocol A2).
//!
//! A session never seen before supersedes the current one, and one that has ended is never accepted again. No clock is compared, so
//! an agent whose clock is wrong, or a process that was paused for a day, cannot come back by being "newer".

use std::collections::{BTreeMap, BTreeSet};

use switchyard_common::contract::ids::{AgentRef, PoolId, SessionId};

use super::beat::Beat;

/// A pool, as far as presence needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// Its agents may speak.
    Live,
    /// They may not any more (incident 63).
    Revoked,
}

/// An agent's current session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Current {
    /// Which.
    pub session: SessionId,
    /// Number of its newest sign of life.
    pub sequence: u64,
}

/// A session that was seen before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Whose.
    pub agent: AgentRef,
    /// It has ended, for whatever reason.
    pub ended: bool,
}

/// What is known of the pools, agents and sessions that a batch of signs of life names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Pools that exist.
    pub pools: BTreeMap<PoolId, Grant>,
    /// Agents whose current session has not ended.
    pub agents: BTreeMap<AgentRef, Current>,
    /// Sessions that were seen.
    pub sessions: BTreeMap<SessionId, Seen>,
}

/// What a sign of life comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A session never seen: it is current from now on, in place of another.
    NewSession {
        /// The one that it supersedes.
        supersedes: Option<SessionId>,
    },
    /// The newest sign of the current session.
    Fresh,
    /// An older one: ignored.
    Stale,
    /// The session has ended: its agent is told to take a new one.
    SessionOver,
    /// The session is another agent's: forged.
    ForeignSession,
    /// The pool's grant is revoked: not heard.
    PoolRevoked,
    /// Nobody has registered the pool.
    UnknownPool,
}

impl Verdict {
    /// The word for it in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NewSession { .. } => "new_session",
            Self::Fresh => "fresh",
            Self::Stale => "stale",
            Self::SessionOver => "session_over",
            Self::ForeignSession => "foreign_session",
            Self::PoolRevoked => "pool_revoked",
            Self::UnknownPool => "unknown_pool",
        }
    }

    /// Whether the sign counts as one.
    #[must_use]
    pub const fn is_accepted(self) -> bool {
        match self {
            Self::NewSession { .. } | Self::Fresh => true,
            Self::Stale
            | Self::SessionOver
            | Self::ForeignSession
            | Self::PoolRevoked
            | Self::UnknownPool => false,
        }
    }
}

/// What a batch changes: everything that is to be written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Sessions that were current and are superseded now.
    pub superseded: BTreeSet<SessionId>,
    /// New sessions, with their agents; those that were superseded in the same batch are in both.
    pub begun: BTreeMap<SessionId, AgentRef>,
}

/// Judges signs of life in order, and keeps what is known up to date between them.
pub fn judge(known: &mut Known, beats: &[Beat]) -> (Vec<Verdict>, Changes) {
    let mut changes = Changes::default();
    let verdicts = beats.iter().map(|beat| judge_one(known, beat, &mut changes)).collect();
    (verdicts, changes)
}

fn judge_one(known: &mut Known, beat: &Beat, changes: &mut Changes) -> Verdict {
    let (session, sequence) = (beat.presence.session, beat.presence.sequence);
    let current = known.agents.get(&beat.agent).copied();
    // An ended session is told so whatever became of its pool; a new one of a revoked pool is not, since it would come back at once.
    match known.sessions.get(&session) {
        Some(seen) if seen.agent != beat.agent => return Verdict::ForeignSession,
        Some(seen) if seen.ended => return Verdict::SessionOver,
        Some(_) | None => {}
    }
    match known.pools.get(&beat.agent.pool) {
        None => return Verdict::UnknownPool,
        Some(Grant::Revoked) => return Verdict::PoolRevoked,
        Some(Grant::Live) => {}
    }
    match known.sessions.get(&session) {
        Some(_)
            if current.is_some_and(|current| current.session == session && current.sequence < sequence) =>
        {
            known.agents.insert(beat.agent.clone(), Current { session, sequence });
            Verdict::Fresh
        }
        Some(_) => Verdict::Stale,
        None => {
            let supersedes = current.map(|current| current.session);
            if let Some(old) = supersedes {
                changes.superseded.insert(old);
                known.sessions.insert(old, Seen { agent: beat.agent.clone(), ended: true });
            }
            changes.begun.insert(session, beat.agent.clone());
            known.sessions.insert(session, Seen { agent: beat.agent.clone(), ended: false });
            known.agents.insert(beat.agent.clone(), Current { session, sequence });
            Verdict::NewSession { supersedes }
        }
    }
}

#[cfg(test)]
#[path = "sessions_tests.rs"]
mod tests;
