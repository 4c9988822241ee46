//! Wake-ups from other processes, through LISTEN/NOTIFY.

use std::time::Duration;

use switchyard_common::contract::ids::PoolId;
use switchyard_common::shutdown::Shutdown;

use super::wake::Wake;
use crate::store::Db;
use crate::store::listen::listen;
use crate::store::operate::WAKE_CHANNEL;

/// Wait before the listening connection is made anew. What is missed meanwhile costs at most the period of passes.
const RECONNECT_WAIT: Duration = Duration::from_secs(1);

/// Turns notifications into wake-ups until shutdown.
pub async fn run(db: Db, wake: Wake, shutdown: Shutdown) {
    while !shutdown.is_requested() {
        let hear = |payload: &str| match PoolId::new(payload) {
            Ok(pool) => wake.pool(&pool),
            Err(error) => tracing::warn!(%error, "a notification names no pool"),
        };
        if let Some(Err(error)) = shutdown.unless_requested(listen(&db, WAKE_CHANNEL, hear)).await {
            tracing::warn!(%error, "not listening for wake-ups of other processes; periodic passes stand in");
        }
        shutdown.sleep(RECONNECT_WAIT).await;
    }
}
