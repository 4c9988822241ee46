//! Storing admitted events: one batch, one transaction, in order.
//!
//! [`ahead`] asks for what many submissions need in one go; [`at_once`] assigns new tasks while nothing waits; [`remember`] tells copies from new events; [`workspaces`] registers and locks; [`submit`] inserts tasks; [`ask`] carries out
//! approvals, discards and cancels through the transition function.

mod ahead;
mod ask;
mod at_once;
mod remember;
mod submit;
mod workspaces;

pub use ask::answer_to_act;
pub use at_once::AtOnce;

use std::collections::BTreeSet;

use switchyard_common::contract::ids::{Digest, PoolId};

use self::ahead::Ahead;
use super::db::{Db, Transaction};
use super::error::StoreError;
use super::trials;
use crate::intake::command::{Admitted, Command, EventKey, Verdict};

/// What a batch of events has done.
#[derive(Debug, Default)]
pub struct Stored {
    /// One verdict per event, in order.
    pub verdicts: Vec<Verdict>,
    /// Pools in which there may be something to schedule.
    pub pools: BTreeSet<PoolId>,
    /// What was assigned at once.
    pub at_once: Option<AtOnce>,
}

/// Rules of intake that are configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntakeRules {
    /// A pool that nobody has registered may come into being.
    pub allow_new_pools: bool,
}

/// Stores `events` in one transaction. After it, the caller acks and answers.
pub async fn store(db: &Db, events: &[Admitted], rules: IntakeRules) -> Result<Stored, StoreError> {
    store_with(db, events, rules, &BTreeSet::new(), None).await
}

/// The same. What comes into a pool that is `idle`, where nothing waited when last looked at, is assigned at once if nothing waits there
/// now (protocol E5). With the effect of an event that is handled alone, its trials are forgotten (protocol D4).
pub async fn store_with(
    db: &Db,
    events: &[Admitted],
    rules: IntakeRules,
    idle: &BTreeSet<PoolId>,
    trial: Option<&Digest>,
) -> Result<Stored, StoreError> {
    if events.is_empty() {
        return Ok(Stored::default());
    }
    db.transaction(|transaction| async move {
        let stored = Batch::new(db, &transaction, events, (rules, idle)).await?.run().await?;
        let has_effect = |verdict: &Verdict| matches!(verdict, Verdict::Accepted(_));
        if let Some(key) = trial.filter(|_| stored.verdicts.iter().all(has_effect)) {
            trials::end_with_effect(&transaction, key).await?;
        }
        Ok(stored)
    })
    .await
}

/// A batch in the middle of its transaction: copies are answered, the rest is to be carried out.
struct Batch<'a> {
    db: &'a Db,
    transaction: &'a Transaction,
    events: &'a [Admitted],
    rules: IntakeRules,
    idle: &'a BTreeSet<PoolId>,
    ahead: Option<Ahead>,
    now: chrono::DateTime<chrono::Utc>,
    verdicts: Vec<Option<Verdict>>,
    /// Events that are answered from an earlier copy: not remembered again.
    copies: BTreeSet<EventKey>,
    /// Copies inside the batch, each with the first of its kind: they get its verdict.
    inner_copies: Vec<(usize, usize)>,
    pools: BTreeSet<PoolId>,
}

impl<'a> Batch<'a> {
    async fn new(
        db: &'a Db,
        transaction: &'a Transaction,
        events: &'a [Admitted],
        (rules, idle): (IntakeRules, &'a BTreeSet<PoolId>),
    ) -> Result<Self, StoreError> {
        let verdicts = vec![None; events.len()];
        let (now, ahead, known) = futures::try_join!(
            transaction.now(),
            ahead::read(transaction, events),
            remember::stored(transaction, events)
        )?;
        let mut batch = Self {
            db,
            transaction,
            events,
            rules,
            idle,
            ahead,
            now,
            verdicts,
            copies: BTreeSet::new(),
            inner_copies: Vec::new(),
            pools: BTreeSet::new(),
        };
        batch.answer_copies(known);
        Ok(batch)
    }

    /// What is no copy is carried out in order, submissions that follow each other together.
    async fn run(mut self) -> Result<Stored, StoreError> {
        let mut run: Vec<usize> = Vec::new();
        let later: BTreeSet<usize> = self.inner_copies.iter().map(|(copy, _)| *copy).collect();
        for index in 0..self.events.len() {
            if self.verdicts[index].is_some() || later.contains(&index) {
                continue;
            }
            match &self.events[index].command {
                Command::Submit(_) => run.push(index),
                Command::Register(_) | Command::Approve(_) | Command::Discard(_) | Command::Cancel(_) => {
                    let submitted = self.submit(&std::mem::take(&mut run)).await?;
                    let ranks = self.stand(&submitted).await?;
                    let inserts = submitted.ranked(ranks);
                    self.insert(&inserts).await?;
                    self.pools.extend(inserts.into_iter().map(|insert| insert.task.pool));
                    let verdict = self.carry_out(index).await?;
                    self.verdicts[index] = Some(verdict);
                }
            }
        }
        let submitted = self.submit(&run).await?;
        // The pool's lock after everything that may be waited for.
        let (ranks, open) = futures::try_join!(self.stand(&submitted), self.open_pool(&submitted.inserts))?;
        let mut inserts = submitted.ranked(ranks);
        let at_once = open.and_then(|open| self.assign(&mut inserts, open));
        futures::try_join!(
            self.insert(&inserts),
            self.insert_attempts(&inserts, at_once.as_ref()),
            self.recheck_rejected(),
            self.remember()
        )?;
        let waiting = inserts.into_iter().filter(|insert| insert.attempt.is_none());
        self.pools.extend(waiting.map(|insert| insert.task.pool));
        for (copy, first) in std::mem::take(&mut self.inner_copies) {
            self.verdicts[copy] = self.verdicts[first].clone();
        }
        let verdicts = self.verdicts.into_iter().flatten().collect();
        Ok(Stored { verdicts, pools: self.pools, at_once })
    }

    async fn carry_out(&mut self, index: usize) -> Result<Verdict, StoreError> {
        let event = &self.events[index];
        match &event.command {
            Command::Register(registered) => self.register(event, registered).await,
            Command::Approve(approved) => self.approve(event, approved).await,
            Command::Discard(discarded) => self.discard(event, discarded).await,
            Command::Cancel(cancel) => self.cancel(event, cancel).await,
            // Submissions go through `submit`, together.
            Command::Submit(_) => Err(StoreError::Statement("a submission was carried out alone".into())),
        }
    }
}
