//! Who gets what: candidates in order, each to the least-loaded agent that may take it.

use switchyard_common::contract::ids::{
    AgentId, AgentRef, LeaseToken, PoolId, SessionId, TaskId, WorkspaceId,
};
use switchyard_common::task::AssignTo;

use super::snapshot::{AgentView, Candidate, SkipReason, Snapshot};

/// How much a plan explains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// The reason that each agent was skipped, for exclusive tasks: these are few, and operators follow them one by one.
    ExclusiveOnly,
    /// The reason that each agent was skipped, for every task.
    Everything,
}

/// A task and the agent that gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The task.
    pub task_id: TaskId,
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// Exclusive in it.
    pub exclusive: bool,
    /// The agent.
    pub agent: AgentId,
    /// The agent's session.
    pub session: SessionId,
    /// The agent's pod.
    pub pod: String,
    /// The task's rank.
    pub rank: i64,
    /// The other agents and why each was skipped, as far as [`Detail`] asks for it.
    pub skipped: Vec<(AgentId, SkipReason)>,
}

impl Placement {
    /// The assignment that this is in `pool`, under a new lease.
    #[must_use]
    pub fn to(&self, pool: &PoolId, lease: LeaseToken) -> AssignTo {
        AssignTo {
            agent: AgentRef { pool: pool.clone(), agent: self.agent.clone() },
            pod: self.pod.clone(),
            session: self.session,
            lease,
        }
    }
}

/// A candidate that no agent can take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unplaced {
    /// The task.
    pub task_id: TaskId,
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// Why each agent was skipped, as far as [`Detail`] asks for it.
    pub skipped: Vec<(AgentId, SkipReason)>,
}

/// What a pass decides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// In the order in which they are to be assigned.
    pub placements: Vec<Placement>,
    /// In the order in which they were looked at.
    pub unplaced: Vec<Unplaced>,
}

impl Plan {
    /// The highest rank that this plan serves: the pool's virtual time moves up to it.
    #[must_use]
    pub fn served_rank(&self) -> Option<i64> {
        self.placements.iter().map(|placement| placement.rank).max()
    }
}

/// Plans one pass over one pool. Nothing is placed while the pool is paused or its grant is revoked, and nothing exclusive while it is
/// quiet after a fence.
#[must_use]
pub fn plan(snapshot: &Snapshot, detail: Detail) -> Plan {
    let mut plan = Plan::default();
    if snapshot.pool.paused.is_some() || snapshot.pool.revoked {
        return plan;
    }
    let mut agents = snapshot.agents.clone();
    let may_go = |candidate: &&Candidate| !candidate.class.exclusive || snapshot.pool.quiet_until.is_none();
    let mut candidates: Vec<&Candidate> = snapshot.candidates.iter().filter(may_go).collect();
    candidates.sort_by_key(|candidate| candidate.order());
    for candidate in candidates {
        let explain = match detail {
            Detail::ExclusiveOnly => candidate.class.exclusive,
            Detail::Everything => true,
        };
        let chosen = least_loaded(&agents, candidate);
        let skipped = if explain { skipped(&agents, candidate, chosen) } else { Vec::new() };
        let Some(chosen) = chosen else {
            plan.unplaced.push(Unplaced {
                task_id: candidate.task_id.clone(),
                workspace: candidate.workspace.clone(),
                skipped,
            });
            continue;
        };
        let agent = &mut agents[chosen];
        agent.open += 1;
        agent.open_exclusive += u32::from(candidate.class.exclusive);
        plan.placements.push(Placement {
            task_id: candidate.task_id.clone(),
            workspace: candidate.workspace.clone(),
            exclusive: candidate.class.exclusive,
            agent: agent.id.clone(),
            session: agent.session,
            pod: agent.pod.clone(),
            rank: candidate.rank,
            skipped,
        });
    }
    plan
}

/// The agent with the smallest share of its slots in use; the first by id among equals, so that a plan is reproducible.
fn least_loaded(agents: &[AgentView], candidate: &Candidate) -> Option<usize> {
    let able = agents.iter().enumerate().filter(|(_, agent)| agent.refuses(&candidate.class).is_none());
    able.min_by(|(_, a), (_, b)| {
        let load_a = u64::from(a.open) * u64::from(b.slots);
        let load_b = u64::from(b.open) * u64::from(a.slots);
        load_a.cmp(&load_b).then_with(|| a.id.cmp(&b.id))
    })
    .map(|(index, _)| index)
}

fn skipped(agents: &[AgentView], candidate: &Candidate, chosen: Option<usize>) -> Vec<(AgentId, SkipReason)> {
    agents
        .iter()
        .enumerate()
        .filter(|(index, _)| Some(*index) != chosen)
        .map(|(_, agent)| {
            (agent.id.clone(), agent.refuses(&candidate.class).unwrap_or(SkipReason::MoreLoaded))
        })
        .collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
