//! The outcomes consumer: artifact parts, and the ends of attempts (design 6.6).

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use switchyard_common::contract::limits::BROKER_MESSAGE_MAX_BYTES;
use switchyard_common::contract::report::{NotStarted, Outcome, OutcomeBatch, OutcomeEnd, ReportBody};
use switchyard_common::contract::routing::ReportKind;
use switchyard_common::failure::Failure;
use switchyard_common::shutdown::Shutdown;
use switchyard_common::task::Verdict;

use super::consume::{Fate, Settler, consume};
use super::manifest::{StoredFile, Verified, verify};
use super::narrate;
use super::outcome::{Settling, admitted, manifest};
use super::read::Heard;
use crate::context::Context;
use crate::control::Orders;
use crate::pass::Wake;
use crate::presence::settled::SharedSettled;
use crate::store::artifacts::{self, PartEnd, SentPart};
use crate::store::reports::{ClaimColumns, Standing};
use crate::store::{Applied, Applier, Db, Named, StoreError, Transaction, notes, presence};

/// Reports that the broker hands out ahead of their acks, in messages.
pub const PREFETCH_COUNT: u16 = 256;
/// Most bytes that this can put into memory, since a queue can only be asked for a number of messages (protocol F2).
pub const IN_HAND_MAX_BYTES: usize = PREFETCH_COUNT as usize * BROKER_MESSAGE_MAX_BYTES;

/// Consumes outcomes and artifacts until shutdown.
pub async fn run(context: Context, shutdown: Shutdown) {
    let outcomes = Outcomes {
        db: context.db.clone(),
        wake: context.wake.clone(),
        orders: Orders::start(context.publisher.clone(), &context.namespace),
        artifacts_total_max_bytes: context.config.artifacts_total_max_bytes,
        settled: context.settled.clone(),
    };
    let queue = context.namespace.outcomes_queue();
    consume(outcomes, context.db, &context.consumers, queue, PREFETCH_COUNT, shutdown).await;
}

/// Makes outcomes into states of tasks.
#[derive(Clone)]
pub struct Outcomes {
    /// The store.
    pub db: Db,
    /// Asks for passes where room or work has come.
    pub wake: Wake,
    /// Orders to agents.
    pub orders: Orders,
    /// Total of the artifacts of one attempt, in bytes.
    pub artifacts_total_max_bytes: u64,
    /// Up to when everything is settled that was handed to this replica.
    pub settled: SharedSettled,
}

impl Settler for Outcomes {
    const NAME: &'static str = "outcomes";
    const KINDS: &'static [ReportKind] = &[ReportKind::Outcome, ReportKind::Artifact];

    async fn settle(&self, batch: &[&Heard]) -> Result<Vec<Fate>, StoreError> {
        self.store_parts(batch).await?;
        let reported = reported(batch);
        let verified = self.verify(&reported).await?;
        let mut ready: Vec<Settling<'_>> = Vec::with_capacity(reported.len());
        let mut messages = Vec::with_capacity(reported.len());
        let mut waiting: HashMap<usize, Vec<Outcome>> = HashMap::new();
        for (one, verified) in reported.iter().zip(verified) {
            match admitted(&one.heard.sender, one.heard.epoch, one.outcome, verified, one.heard.waited) {
                Some(settling) => {
                    ready.push(settling);
                    messages.push(one.message);
                }
                None => waiting.entry(one.message).or_default().push(one.outcome.clone()),
            }
        }
        let mut bad = HashMap::new();
        if !ready.is_empty() {
            let (applied, epoch) = self.commit(&ready).await?;
            self.after_commit(&ready, &applied, epoch);
            let judged = messages.iter().zip(ready.iter().zip(&applied));
            bad.extend(
                judged.filter_map(|(message, (one, applied))| Some((*message, one.unusable(applied)?))),
            );
        }
        Ok(fates(batch, waiting, bad))
    }

    fn emptied(&self, at: Duration, kept: Option<Duration>) {
        self.settled.with(|settled| settled.emptied(at, kept));
    }

    fn began_anew(&self, at: Duration) {
        self.settled.with(|settled| settled.began_anew(at));
    }
}

/// One outcome of a batch.
struct Reported<'a> {
    /// Place of its message in the batch.
    message: usize,
    heard: &'a Heard,
    outcome: &'a Outcome,
}

fn reported<'a>(batch: &[&'a Heard]) -> Vec<Reported<'a>> {
    let mut reported = Vec::new();
    for (message, heard) in batch.iter().enumerate() {
        if let ReportBody::Outcome(OutcomeBatch { outcomes }) = &heard.body {
            reported.extend(outcomes.iter().map(|outcome| Reported { message, heard, outcome }));
        }
    }
    reported
}

/// Messages of which something waits are held with just that.
fn fates(
    batch: &[&Heard],
    mut waiting: HashMap<usize, Vec<Outcome>>,
    mut bad: HashMap<usize, Failure>,
) -> Vec<Fate> {
    let settled = |message, bad: &mut HashMap<usize, Failure>| match bad.remove(&message) {
        Some(failure) => Fate::Refuse(Box::new(failure)),
        None => Fate::Done,
    };
    let fate = |(message, heard): (usize, &&Heard)| match waiting.remove(&message) {
        Some(outcomes) => Fate::Hold(Box::new(Heard {
            sender: heard.sender.clone(),
            epoch: heard.epoch,
            body: ReportBody::Outcome(OutcomeBatch { outcomes }),
            waited: heard.waited,
        })),
        None => settled(message, &mut bad),
    };
    batch.iter().enumerate().map(fate).collect()
}

impl Outcomes {
    async fn store_parts(&self, batch: &[&Heard]) -> Result<(), StoreError> {
        let parts: Vec<SentPart<'_>> = batch
            .iter()
            .filter_map(|heard| match &heard.body {
                ReportBody::Artifact(left) => {
                    Some(SentPart { sender: &heard.sender, epoch: heard.epoch, left })
                }
                ReportBody::Outcome(_)
                | ReportBody::Hello(_)
                | ReportBody::Heartbeat(_)
                | ReportBody::Ask(_)
                | ReportBody::Started(_)
                | ReportBody::Log(_) => None,
            })
            .collect();
        let ends = artifacts::store_parts(&self.db, &parts, self.artifacts_total_max_bytes).await?;
        for (part, end) in parts.iter().zip(ends) {
            match end {
                PartEnd::Stored => {}
                PartEnd::Refused(why) => narrate::refused("artifact", part.sender, &part.left.claim, &why),
                PartEnd::OverLimit => {
                    narrate::over_limit(part.sender, &part.left.claim, &part.left.part.name)
                }
            }
        }
        Ok(())
    }

    /// Compares each manifest with the stored parts. What names no artifacts, or whose claim waits for nothing, is complete.
    async fn verify(&self, reported: &[Reported<'_>]) -> Result<Vec<Verified>, StoreError> {
        let naming = || reported.iter().enumerate().filter(|(_, one)| manifest(&one.outcome.end).is_some());
        if naming().next().is_none() {
            return Ok(vec![Verified::Complete; reported.len()]);
        }
        let claims = naming().map(|(place, one)| (place, &one.heard.sender, &one.outcome.claim));
        let stored = artifacts::stored_files(&self.db, &ClaimColumns::of(claims)).await?;
        let verified =
            |(place, one): (usize, &Reported<'_>)| self.verify_one(one.outcome, stored.get(&place));
        Ok(reported.iter().enumerate().map(verified).collect())
    }

    fn verify_one(&self, outcome: &Outcome, stored: Option<&BTreeMap<String, StoredFile>>) -> Verified {
        match (manifest(&outcome.end), stored) {
            (Some(manifest), Some(stored)) => verify(manifest, stored, self.artifacts_total_max_bytes),
            // No proven claim on an open attempt: the transition function will refuse it.
            (Some(_), None) | (None, _) => Verified::Complete,
        }
    }

    async fn commit(&self, ready: &[Settling<'_>]) -> Result<(Vec<Applied>, i64), StoreError> {
        self.db.transaction(|transaction| async move { commit(&self.db, &transaction, ready).await }).await
    }

    fn after_commit(&self, ready: &[Settling<'_>], applied: &[Applied], epoch: i64) {
        for (settling, applied) in ready.iter().zip(applied) {
            narrate::outcome(settling, applied);
        }
        self.orders.carry_out(applied, epoch);
        super::wake(&self.wake, applied);
    }
}

/// Everything that belongs to the ends of these attempts, in one transaction.
async fn commit(
    db: &Db,
    transaction: &Transaction,
    ready: &[Settling<'_>],
) -> Result<(Vec<Applied>, i64), StoreError> {
    let concerned: Vec<_> =
        ready.iter().map(|one| (&one.outcome.claim.task_id, Some(one.outcome.claim.attempt))).collect();
    // Whoever gives work back because it drains gets none again, though its sign of life that says so may come later. Agents before tasks,
    // as signs of life lock them.
    let drain =
        ready.iter().filter(|one| matches!(one.end, OutcomeEnd::NotStarted { reason: NotStarted::Draining }));
    let drain: Vec<_> = drain.map(|one| (one.sender, one.outcome.claim.session)).collect();
    presence::drains(transaction, &drain).await?;
    let (standing, mut applier) = futures::try_join!(
        Standing::load(transaction, ready.iter().map(|one| &one.sender.pool)),
        Applier::load_named(db, transaction, &concerned)
    )?;
    let named: Vec<Named> =
        ready.iter().map(|one| one.named(standing.reporter(one.sender, one.epoch))).collect();
    let applied: Vec<Applied> = named.iter().map(|named| applier.decide(named)).collect();
    let changed =
        || ready.iter().zip(&applied).filter(|(_, applied)| is_changed(applied)).map(|(one, _)| one);
    changed().for_each(|one| applier.keep_facts(one.facts()));
    applier.finish().await?;
    let left: Vec<_> = changed().filter_map(|one| Some((one.key(), manifest(&one.end)?))).collect();
    artifacts::write_manifests(transaction, &left).await?;
    let noted: Vec<_> = ready.iter().zip(&applied).flat_map(|(one, applied)| one.notes(applied)).collect();
    notes::record(transaction, &noted).await?;
    Ok((applied, standing.epoch))
}

fn is_changed(applied: &Applied) -> bool {
    applied.decision.as_ref().is_some_and(|decision| matches!(decision.verdict, Verdict::Changed(_)))
}
