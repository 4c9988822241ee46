//! Wake-ups: who makes work runnable, or frees room for it, asks for a pass. A wake-up is consumed only by a pass that begins after
//! it (protocol E3); a periodic pass stands behind every lost one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use switchyard_common::contract::ids::PoolId;
use tokio::sync::Notify;

/// Asks for passes. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Wake(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    pools: Mutex<BTreeMap<PoolId, Arc<Notify>>>,
    idle: Mutex<BTreeSet<PoolId>>,
    new_pool: Notify,
}

impl Wake {
    /// Asks for a pass over `pool`. Any number of calls before the pass begins make one pass.
    pub fn pool(&self, pool: &PoolId) {
        self.handle(pool).notify_one();
    }

    /// Notes whether anything was left waiting in `pool` when last looked at.
    pub(super) fn note_idle(&self, pool: &PoolId, is_idle: bool) {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_idle {
            idle.remove(pool);
        } else if !idle.contains(pool) {
            idle.insert(pool.clone());
        }
    }

    /// The pools in which nothing was left waiting: worth a look whether what comes next can be assigned at once (protocol E5).
    pub(super) fn idle(&self) -> BTreeSet<PoolId> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The wake-ups of `pool`; makes its ticker start when it is new.
    pub(super) fn handle(&self, pool: &PoolId) -> Arc<Notify> {
        let mut pools = self.0.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = pools.get(pool) {
            return handle.clone();
        }
        let handle = Arc::new(Notify::new());
        pools.insert(pool.clone(), handle.clone());
        self.0.new_pool.notify_one();
        handle
    }

    pub(super) fn known(&self) -> Vec<PoolId> {
        self.0.pools.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    pub(super) async fn new_pool(&self) {
        self.0.new_pool.notified().await;
    }
}
