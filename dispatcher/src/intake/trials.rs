//! Trials of events, in the store: each statement is repeated until the database answers, because what is wrong with that is no fault of
//! the event. Nothing is answered once shutdown was asked for.

use std::collections::HashMap;

use switchyard_common::contract::ids::Digest;
use switchyard_common::shutdown::Shutdown;

use super::run::STORE_WAIT;
use crate::store::{Db, StoreError, trials};

/// The trials of the events in hand.
pub(super) struct Trials<'a> {
    db: Db,
    shutdown: &'a Shutdown,
}

impl<'a> Trials<'a> {
    pub(super) const fn new(db: Db, shutdown: &'a Shutdown) -> Self {
        Self { db, shutdown }
    }

    /// How many trials of each event did not end; those without any are left out.
    pub(super) async fn unended(&self, keys: &[Digest]) -> Option<HashMap<Digest, u32>> {
        loop {
            match trials::unended(&self.db, keys).await {
                Ok(unended) => return Some(unended),
                Err(error) => self.wait(&error).await?,
            }
        }
    }

    /// A trial begins: committed when this returns.
    pub(super) async fn begin(&self, key: &Digest) -> Option<()> {
        while let Err(error) = trials::begin(&self.db, key).await {
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
        tracing::warn!(%error, "intake waits for the database before it handles an event alone");
        self.shutdown.sleep(STORE_WAIT).await.then_some(())
    }
}
