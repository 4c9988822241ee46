//! Assigning what a batch brings in the very transaction that stores it (protocol E5): one commit less on the way to the handler.
//!
//! Only while nothing else waits that an agent could take, because whoever came first goes first. The pool's lock is taken when it is
//! free, first of all, and never waited for (protocol E1).

use std::collections::HashMap;

use switchyard_common::contract::ids::{LeaseToken, PoolId, TaskId};
use switchyard_common::task::{Context, Input, Status, Subject, Verdict, transition};
use uuid::Uuid;

use super::Batch;
use super::submit::Insert;
use crate::schedule::{AgentView, Candidate, Class, Detail, Plan, PoolView, Snapshot, plan};
use crate::store::route::{Committed, SAID_MAX_BYTES, Said};
use crate::store::save::{self, ChangedAttempt};
use crate::store::{StoreError, Transaction, locks, pass};

/// What was assigned together with its being stored.
#[derive(Debug, Clone, PartialEq)]
pub struct AtOnce {
    /// Whose agents.
    pub pool: PoolId,
    /// How many these are, live or not.
    pub agents: usize,
    /// What was planned.
    pub plan: Plan,
    /// Committed with the batch, in the order of the plan's placements.
    pub assigned: Vec<Committed>,
}

/// A pool whose lock this transaction has, and in which nothing waits.
pub(super) struct OpenPool {
    view: PoolView,
    agents: Vec<AgentView>,
    epoch: i64,
}

/// Takes the lock of `pool` if it is free and nothing waits there.
pub(super) async fn open_pool(
    transaction: &Transaction,
    pool: Option<&PoolId>,
) -> Result<Option<OpenPool>, StoreError> {
    let Some(pool) = pool else { return Ok(None) };
    // In this order: what the pool's lock keeps as it is must be read under it.
    let (view, agents, waiting, epoch) = futures::try_join!(
        pass::lock_pool(transaction, pool),
        pass::agents(transaction, pool),
        pass::waiting(transaction, pool),
        locks::epoch(transaction)
    )?;
    Ok(view.filter(|_| !waiting.any).map(|view| OpenPool { view, agents, epoch }))
}

impl<'a> Batch<'a> {
    /// Plans and decides, as a pass does. What is placed is inserted as assigned. Nothing is, when any of it is for another pool.
    pub(super) fn assign(&mut self, inserts: &mut [Insert<'a>]) -> Option<AtOnce> {
        let OpenPool { view, agents, epoch } = self.open.take()?;
        if inserts.iter().any(|insert| insert.task.pool != view.id) {
            return None;
        }
        let (pool, count) = (view.id.clone(), agents.len());
        let candidates = inserts.iter().enumerate().filter(|(_, insert)| insert.may_run()).map(candidate);
        let snapshot = Snapshot { pool: view, agents, candidates: candidates.collect() };
        let plan = plan(&snapshot, Detail::ExclusiveOnly);
        let mut assigned = Vec::with_capacity(plan.placements.len());
        let by_id = inserts.iter().enumerate().map(|(place, insert)| (insert.task.id.clone(), place));
        let by_id: HashMap<TaskId, usize> = by_id.collect();
        for placement in &plan.placements {
            let insert = by_id.get(&placement.task_id).and_then(|place| inserts.get_mut(*place))?;
            let to = placement.to(&pool, LeaseToken(Uuid::new_v4()));
            let before = Subject { task: insert.task.clone(), attempt: None };
            let decision = transition(&before, &Input::Assign(to), &Context::new(self.now, rand::random()));
            // New tasks can be assigned; one that cannot is stored as it was, and a pass says why.
            let Verdict::Changed(after) = decision.verdict else { continue };
            let said = insert.said(epoch);
            assigned.extend(Committed::of(&after, said, self.transaction.since()));
            insert.task = after.task;
            insert.attempt = after.attempt;
        }
        Some(AtOnce { pool, agents: count, plan, assigned })
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
