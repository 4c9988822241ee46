//! This replica's own sign of life in the database: while it is fresh, the replica looks after what it published (protocol B2).

use std::time::Duration;

use switchyard_common::guard::{GuardedTask, spawn_guarded};
use tokio_util::sync::CancellationToken;

use crate::store::{Db, StoreError, presence};

/// How often the row is written: three times within the age at which others take over.
pub const BEAT_EVERY: Duration = Duration::from_millis(500);
/// Longest wait for the row to be taken away at the end.
const END_WAIT: Duration = Duration::from_secs(2);

/// The beats of this replica. They go on until [`end`](Self::end), after everything that this replica looks after has ended.
#[derive(Debug)]
pub struct Beats {
    stop: CancellationToken,
    task: GuardedTask<()>,
}

impl Beats {
    /// Starts the beats in a task of their own, so that nothing that is slow delays them.
    #[must_use]
    pub fn start(db: &Db) -> Self {
        let stop = CancellationToken::new();
        let task = spawn_guarded("replica-beats", beat_until(db.clone(), host_name(), stop.clone()));
        Self { stop, task }
    }

    /// Takes the row away, so that other replicas take over at once.
    pub async fn end(self) {
        self.stop.cancel();
        if tokio::time::timeout(END_WAIT, self.task).await.is_err() {
            tracing::warn!("this replica's row could not be taken away; others take over when it is stale");
        }
    }
}

async fn beat_until(db: Db, host: String, stop: CancellationToken) {
    let mut ticker = tokio::time::interval(BEAT_EVERY);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut fails = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticker.tick() => fails = run_once(&db, &host, fails).await,
        }
    }
    if let Err(error) = presence::replica_ends(&db).await {
        tracing::debug!(%error, "this replica's row was left behind");
    }
}

/// One beat. Told once when it begins to fail, once when it works again.
async fn run_once(db: &Db, host: &str, failed_before: bool) -> bool {
    match presence::replica_beat(db, host).await {
        Ok(()) => {
            if failed_before {
                tracing::info!("this replica's sign of life reaches the database again");
            }
            false
        }
        Err(error) => {
            if !failed_before {
                tracing::warn!(%error, "this replica's sign of life does not reach the database; others will take over");
            }
            true
        }
    }
}

/// For people only: replicas are told apart by their ids.
fn host_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "unknown".to_owned())
}

/// Beats once, for tests.
///
/// # Errors
/// When the database does not answer.
pub async fn beat_once(db: &Db) -> Result<(), StoreError> {
    presence::replica_beat(db, &host_name()).await
}
