//! The starts consumer: asks of non-repeatable steps, and started reports (protocol B7).

use switchyard_common::contract::ids::Nonce;
use switchyard_common::contract::report::{Claim, ReportBody};
use switchyard_common::contract::routing::ReportKind;
use switchyard_common::shutdown::Shutdown;
use switchyard_common::task::{Input, Refusal, Verdict};

use super::consume::{Fate, Settler, consume};
use super::narrate;
use super::read::Heard;
use super::refusal;
use crate::context::Context;
use crate::control::Orders;
use crate::store::reports::Standing;
use crate::store::{Applied, Applier, Db, Named, StoreError};

/// Reports that the broker hands out ahead of their acks, in messages.
pub const PREFETCH_COUNT: u16 = 256;

/// Consumes asks and started reports until shutdown.
pub async fn run(context: Context, shutdown: Shutdown) {
    let starts = Starts {
        db: context.db.clone(),
        orders: Orders::start(context.publisher.clone(), &context.namespace),
    };
    let queue = context.namespace.starts_queue();
    consume(starts, context.db, &context.consumers, queue, PREFETCH_COUNT, shutdown).await;
}

/// Decides what may start, and answers after the commit.
#[derive(Clone)]
pub struct Starts {
    /// The store.
    pub db: Db,
    /// Go and no-go.
    pub orders: Orders,
}

impl Settler for Starts {
    const NAME: &'static str = "starts";
    const KINDS: &'static [ReportKind] = &[ReportKind::Ask, ReportKind::Started];

    async fn settle(&self, batch: &[&Heard]) -> Result<Vec<Fate>, StoreError> {
        let db = &self.db;
        let spoken: Vec<Spoken<'_>> = batch.iter().flat_map(|heard| spoken(heard)).collect();
        let spoken = spoken.as_slice();
        let (applied, epoch): (Vec<Applied>, i64) = db
            .transaction(|transaction| async move {
                let pools = spoken.iter().map(|one| &one.heard.sender.pool);
                let concerned: Vec<_> =
                    spoken.iter().map(|one| (&one.claim.task_id, Some(one.claim.attempt))).collect();
                let (standing, mut applier) = futures::try_join!(
                    Standing::load(&transaction, pools),
                    Applier::load_named(db, &transaction, &concerned)
                )?;
                let named: Vec<Named> = spoken.iter().map(|one| one.named(&standing)).collect();
                let applied = named.iter().map(|named| applier.decide(named)).collect();
                applier.finish().await?;
                Ok((applied, standing.epoch))
            })
            .await?;
        // Committed, then answered: whoever hears "go" may rely on `running`.
        self.orders.carry_out(&applied, epoch);
        for (one, applied) in spoken.iter().zip(&applied) {
            narrate::start(one, applied);
        }
        Ok(batch.iter().map(|heard| fate(heard, spoken, &applied)).collect())
    }
}

/// A message in which somebody speaks for an attempt that was not given to them is bad input.
fn fate(heard: &Heard, spoken: &[Spoken<'_>], applied: &[Applied]) -> Fate {
    let own = spoken.iter().zip(applied).filter(|(one, _)| std::ptr::eq(one.heard, heard));
    let forged = |(one, applied): (&Spoken<'_>, &Applied)| match applied
        .decision
        .as_ref()
        .map(|decision| &decision.verdict)
    {
        Some(Verdict::Refused(why)) => refusal::forged(why, one.claim),
        Some(Verdict::Changed(_) | Verdict::Unchanged) => None,
        None => refusal::forged(&Refusal::UnknownAttempt, one.claim),
    };
    own.into_iter().find_map(forged).map_or(Fate::Done, |failure| Fate::Refuse(Box::new(failure)))
}

/// One ask, or one started report.
pub(super) struct Spoken<'a> {
    pub(super) heard: &'a Heard,
    pub(super) claim: &'a Claim,
    /// Of an ask.
    pub(super) nonce: Option<Nonce>,
}

impl Spoken<'_> {
    fn named(&self, standing: &Standing) -> Named {
        let reporter = standing.reporter(&self.heard.sender, self.heard.epoch);
        let claim = self.claim.clone();
        let input = match self.nonce {
            Some(nonce) => Input::Ask { reporter, claim, nonce },
            None => Input::Started { reporter, claim },
        };
        Named { task_id: self.claim.task_id.clone(), attempt: Some(self.claim.attempt), input }
    }
}

fn spoken(heard: &Heard) -> Vec<Spoken<'_>> {
    match &heard.body {
        ReportBody::Ask(ask) => vec![Spoken { heard, claim: &ask.claim, nonce: Some(ask.nonce) }],
        ReportBody::Started(batch) => {
            batch.claims.iter().map(|claim| Spoken { heard, claim, nonce: None }).collect()
        }
        ReportBody::Hello(_)
        | ReportBody::Heartbeat(_)
        | ReportBody::Outcome(_)
        | ReportBody::Artifact(_)
        | ReportBody::Log(_) => Vec::new(),
    }
}
