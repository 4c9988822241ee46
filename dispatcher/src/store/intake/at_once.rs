//! Assigning what a batch brings in the very transaction that stores it (protocol E5): one commit less on the way to the handler.
//!
//! Only while nothing else waits that an agent could take, because whoever came first goes first. The pool's lock is taken when it is
//! free and never waited for, so it may come after those of workspaces (protocol E1): who waits for nothing closes no circle. It comes
//! that late because what holds it must not wait for others: passes would stand still meanwhile.

use std::collections::HashMap;

use switchyard_common::contract::ids::{LeaseToken, PoolId, TaskId};
use switchyard_common::task::{Context, Input, Status, Subject, Verdict, transition};
use uuid::Uuid;

use super::Batch;
use super::submit::Insert;
use crate::schedule::{
    AgentView, Candidate, Class, ClassLimit, Detail, Placement, Plan, PoolView, Snapshot,
    classes_with_capacity, plan,
};
use crate::store::route::{Committed, SAID_MAX_BYTES, Said};
use crate::store::save::{self, ChangedAttempt};
use crate::store::{StoreError, locks, pass};

/// What was assigned together with its being stored.
#[derive(Debug, Clone, PartialEq)]
pub struct AtOnce {
    /// Whose agents.
    pub pool: PoolId,
    /// How many these are, live or not.
    pub agents: usize,
    /// What was planned.
    pub plan: Plan,
    /// Committed with the batch.
    pub assigned: Vec<(Placement, Committed)>,
}

/// A pool whose lock this transaction has, and in which nothing waits.
pub(super) struct OpenPool {
    view: PoolView,
    agents: Vec<AgentView>,
    epoch: i64,
}

impl<'a> Batch<'a> {
    /// Takes the lock of the pool that all of it is for, if nothing waited there when last looked at, the lock is free, and nothing waits
    /// there now.
    pub(super) async fn open_pool(&self, inserts: &[Insert<'a>]) -> Result<Option<OpenPool>, StoreError> {
        let mut pools = inserts.iter().filter(|insert| insert.may_run()).map(|insert| &insert.task.pool);
        let Some(pool) = pools.next().filter(|pool| self.idle.contains(pool)) else { return Ok(None) };
        if pools.any(|other| other != pool) {
            return Ok(None);
        }
        // In this order: what the pool's lock keeps as it is must be read under it.
        let (view, agents, waiting, epoch) = futures::try_join!(
            pass::lock_pool(self.transaction, pool),
            pass::agents(self.transaction, pool),
            pass::waiting(self.transaction, pool),
            locks::epoch(self.transaction)
        )?;
        Ok(view.filter(|_| !waiting.any).map(|view| OpenPool { view, agents, epoch }))
    }

    /// Plans and decides, as a pass does. What is placed is inserted as assigned; none when nothing is.
    pub(super) fn assign(&self, inserts: &mut [Insert<'a>], open: OpenPool) -> Option<AtOnce> {
        let OpenPool { view, agents, epoch } = open;
        let (pool, count) = (view.id.clone(), agents.len());
        let candidates = candidates(inserts, &classes_with_capacity(&agents));
        let snapshot = Snapshot { pool: view, agents, candidates };
        let plan = plan(&snapshot, Detail::ExclusiveOnly);
        let by_id = inserts.iter().enumerate().map(|(place, insert)| (insert.task.id.clone(), place));
        let by_id: HashMap<TaskId, usize> = by_id.collect();
        let mut assigned = Vec::with_capacity(plan.placements.len());
        for placement in &plan.placements {
            let place = by_id.get(&placement.task_id);
            let Some(insert) = place.and_then(|place| inserts.get_mut(*place)) else { continue };
            let to = placement.to(&pool, LeaseToken(Uuid::new_v4()));
            let before = Subject { task: insert.task.clone(), attempt: None };
            let decision = transition(&before, &Input::Assign(to), &Context::new(self.now, rand::random()));
            // New tasks can be assigned; one that cannot is stored as it was, and a pass says why.
            let Verdict::Changed(after) = decision.verdict else { continue };
            let said = insert.said(epoch);
            let Some(committed) = Committed::of(&after, said, self.transaction.since()) else { continue };
            assigned.push((placement.clone(), committed));
            insert.task = after.task;
            insert.attempt = after.attempt;
        }
        (!assigned.is_empty()).then_some(AtOnce { pool, agents: count, plan, assigned })
    }

    /// Writes the attempts of what was inserted as assigned, and moves the pool's virtual time up to it.
    pub(super) async fn insert_attempts(
        &self,
        inserts: &[Insert<'a>],
        at_once: Option<&AtOnce>,
    ) -> Result<(), StoreError> {
        let Some((at_once, served)) =
            at_once.and_then(|at_once| Some((at_once, at_once.plan.served_rank()?)))
        else {
            return Ok(());
        };
        let new: Vec<ChangedAttempt<'_>> = inserts
            .iter()
            .filter_map(|insert| {
                Some(ChangedAttempt { task: &insert.task, attempt: insert.attempt.as_ref()? })
            })
            .collect();
        futures::try_join!(
            save::new_attempts(self.transaction, self.db.replica, &new),
            pass::advance_rank(self.transaction, &at_once.pool, served)
        )?;
        Ok(())
    }
}

/// What a pass would look at, if these were all that waits: of each class as many as could be placed, in the order in which they are served.
fn candidates(inserts: &[Insert<'_>], classes: &[ClassLimit]) -> Vec<Candidate> {
    let may_run = inserts.iter().enumerate().filter(|(_, insert)| insert.may_run());
    let mut candidates: Vec<Candidate> = may_run.map(candidate).collect();
    candidates.sort_by_key(Candidate::order);
    let mut left: HashMap<&Class, u32> = classes.iter().map(|limit| (&limit.class, limit.limit)).collect();
    candidates.retain(|candidate| match left.get_mut(&candidate.class) {
        Some(left) if *left > 0 => {
            *left -= 1;
            true
        }
        Some(_) | None => false,
    });
    candidates
}

/// The order of admission is the order in the batch: nothing else waits.
fn candidate((place, insert): (usize, &Insert<'_>)) -> Candidate {
    let task = &insert.task;
    let step = task.current_step();
    Candidate {
        task_id: task.id.clone(),
        workspace: task.workspace.clone(),
        class: Class {
            handler: step.handler.clone(),
            exclusive: task.exclusive,
            repeatable: step.repeatable,
        },
        rank: insert.rank,
        priority: i16::from(insert.new.priority),
        seq: i64::try_from(place).unwrap_or(i64::MAX),
    }
}

impl Insert<'_> {
    /// Whether a pass would look at it.
    fn may_run(&self) -> bool {
        self.task.status == Status::Pending && self.task.run_after.is_none() && !self.paused
    }

    /// What its assignment says beyond its state; none where that is large.
    fn said(&self, epoch: i64) -> Option<Said> {
        (self.payload.get().len() <= SAID_MAX_BYTES).then(|| Said {
            payload: self.new.payload.clone(),
            traceparent: self.event.traceparent.clone(),
            epoch,
        })
    }
}
