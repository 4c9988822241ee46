//! Storing admitted events: one batch, one transaction, in order.
//!
//! [`remember`] tells copies from new events; [`workspaces`] registers and locks; [`submit`] inserts tasks; [`ask`] carries out
//! approvals, discards and cancels through the transition function.

mod ask;
mod remember;
mod submit;
mod workspaces;

pub use ask::answer_to_act;

use std::collections::BTreeSet;

use switchyard_common::contract::ids::{Digest, PoolId};

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
}

/// Rules of intake that are configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntakeRules {
    /// A pool that nobody has registered may come into being.
    pub allow_new_pools: bool,
}

/// Stores `events` in one transaction. After it, the caller acks and answers.
pub async fn store(db: &Db, events: &[Admitted], rules: IntakeRules) -> Result<Stored, StoreError> {
    store_tried(db, events, rules, None).await
}

/// The same; with the effect of an event that is handled alone, its trials are forgotten (protocol D4).
pub async fn store_tried(
    db: &Db,
    events: &[Admitted],
    rules: IntakeRules,
    trial: Option<&Digest>,
) -> Result<Stored, StoreError> {
    if events.is_empty() {
        return Ok(Stored::default());
    }
    db.transaction(|transaction| async move {
        let stored = Batch::new(db, &transaction, events, rules).await?.run().await?;
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
        rules: IntakeRules,
    ) -> Result<Self, StoreError> {
        let verdicts = vec![None; events.len()];
        let (now, known) = futures::try_join!(transaction.now(), remember::stored(transaction, events))?;
        let mut batch = Self {
            db,
            transaction,
            events,
            rules,
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
                    let inserts = self.submit(&std::mem::take(&mut run)).await?;
                    self.insert(&inserts).await?;
                    let verdict = self.carry_out(index).await?;
                    self.verdicts[index] = Some(verdict);
                }
            }
        }
        let inserts = self.submit(&run).await?;
        futures::try_join!(self.insert(&inserts), self.recheck_rejected(), self.remember())?;
        for (copy, first) in std::mem::take(&mut self.inner_copies) {
            self.verdicts[copy] = self.verdicts[first].clone();
        }
        let verdicts = self.verdicts.into_iter().flatten().collect();
        Ok(Stored { verdicts, pools: self.pools })
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
