//! Trials of events, in the store: each statement is repeated until the database answers, because what is wrong with that is no fault of
//! the event. Nothing is answered once shutdown was asked for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use switchyard_common::contract::ids::Digest;
use switchyard_common::shutdown::Shutdown;
use uuid::Uuid;

use super::run::STORE_WAIT;
use crate::route::decide::REPLICA_STALE_AFTER;
use crate::store::{Db, StoreError, trials};

/// The trials of the events in hand.
pub(super) struct Trials<'a> {
    db: Db,
    shutdown: &'a Shutdown,
    /// That the database does not answer was said.
    told: AtomicBool,
}

impl<'a> Trials<'a> {
    pub(super) const fn new(db: Db, shutdown: &'a Shutdown) -> Self {
        Self { db, shutdown, told: AtomicBool::new(false) }
    }

    /// How many trials of each event were left behind by replicas that are gone; those without any are left out.
    pub(super) async fn left_behind(&self, keys: &[Digest]) -> Option<HashMap<Digest, u32>> {
        loop {
            match trials::left_behind(&self.db, keys, REPLICA_STALE_AFTER).await {
                Ok(left) => return Some(left),
                Err(error) => self.wait(&error).await?,
            }
        }
    }

    /// A trial begins: committed when this returns.
    pub(super) async fn begin(&self, key: &Digest) -> Option<()> {
        let trial = Uuid::new_v4();
        while let Err(error) = trials::begin(&self.db, key, trial).await {
            self.wait(&error).await?;
        }
        Some(())
    }

    /// A trial has ended, however it ended.
    pub(super) async fn end(&self, key: &Digest) -> Option<()> {
        while let Err(error) = trials::end(&self.db, key).await {
            self.wait(&error).await?;
        }
        Some(())
    }

    async fn wait(&self, error: &StoreError) -> Option<()> {
        metrics::counter!("switchyard_store_waits_total", "part" => "intake").increment(1);
        if !self.told.swap(true, Ordering::Relaxed) {
            if error.is_transient() {
                tracing::warn!(%error, "intake waits for the database before it handles an event alone");
            } else {
                tracing::error!(%error, "intake cannot handle an event alone, and tries again until it can");
            }
        }
        self.shutdown.sleep(STORE_WAIT).await.then_some(())
    }
}
