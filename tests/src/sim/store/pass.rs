//! What a scheduling pass reads and writes.

use std::collections::BTreeMap;

use switchyard_common::contract::ids::{AgentRef, PoolId};
use switchyard_common::task::Status;
use switchyard_dispatcher::schedule::{
    AgentView, Candidate, Class, PoolView, Snapshot, classes_with_capacity,
};

use crate::sim::agenda::Millis;

use super::tables::{AgentRow, Store, TaskRow};

impl Store {
    /// One pool as a pass sees it: its agents, and the first candidates of each class that has capacity.
    #[must_use]
    pub fn snapshot(&self, now: Millis, pool: &PoolId) -> Snapshot {
        let view = PoolView {
            id: pool.clone(),
            paused: self.pause(self.paused.pool),
            revoked: self.revoked,
            quiet_until: self.quiet_until(now),
        };
        let of_pool = self.agents.iter().filter(|(agent, _)| agent.pool == *pool);
        let agents: Vec<AgentView> = of_pool.map(|(agent, row)| self.agent_view(agent, row)).collect();
        let mut by_class: BTreeMap<Class, Vec<Candidate>> = BTreeMap::new();
        for row in self.tasks.values().filter(|row| row.task.pool == *pool && self.is_runnable(row)) {
            let candidate = candidate(row);
            by_class.entry(candidate.class.clone()).or_default().push(candidate);
        }
        let mut candidates = Vec::new();
        for limit in classes_with_capacity(&agents) {
            let mut found = by_class.remove(&limit.class).unwrap_or_default();
            found.sort_by_key(Candidate::order);
            candidates.extend(found.into_iter().take(usize::try_from(limit.limit).unwrap_or(usize::MAX)));
        }
        Snapshot { pool: view, agents, candidates }
    }

    /// Moves the pool's virtual time up to what was served.
    pub fn advance_rank(&mut self, pool: &PoolId, served: i64) {
        let rank = self.served_rank.entry(pool.clone()).or_default();
        *rank = (*rank).max(served);
    }

    /// Every pool.
    #[must_use]
    pub fn pools(&self) -> Vec<PoolId> {
        self.served_rank.keys().cloned().collect()
    }

    fn is_runnable(&self, row: &TaskRow) -> bool {
        let paused = self.paused.workspaces.contains(&row.task.workspace);
        row.task.status == Status::Pending && row.task.run_after.is_none() && !paused
    }

    fn agent_view(&self, agent: &AgentRef, row: &AgentRow) -> AgentView {
        let mine = || {
            self.open_attempts().map(|(_, open)| open).filter(|open| {
                open.attempt.assignee.agent == *agent && open.attempt.assignee.session == row.session
            })
        };
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        AgentView {
            id: agent.agent.clone(),
            session: row.session,
            pod: row.pod.clone(),
            slots: row.slots,
            credit: row.credit,
            max_exclusive: row.max_exclusive,
            handlers: row.handlers.clone(),
            live: row.live,
            draining: row.draining,
            paused: self.pause(self.paused.agents.contains(agent)),
            open: count(mine().count()),
            open_exclusive: count(mine().filter(|open| open.exclusive).count()),
        }
    }
}

fn candidate(row: &TaskRow) -> Candidate {
    let step = row.task.current_step();
    Candidate {
        task_id: row.task.id.clone(),
        workspace: row.task.workspace.clone(),
        class: Class {
            handler: step.handler.clone(),
            exclusive: row.task.exclusive,
            repeatable: step.repeatable,
        },
        rank: row.rank,
        priority: i16::from(row.priority),
        seq: row.seq,
    }
}
