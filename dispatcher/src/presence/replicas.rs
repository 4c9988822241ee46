//! This replica's own sign of life in the database: while it is fresh, the replica looks after what it published (protocol B2).

use std::time::Duration;

use switchyard_common::broker::ConnectionState;
use switchyard_common::guard::{GuardedTask, spawn_guarded};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use chrono::{DateTime, TimeDelta, Utc};

use super::clock::since_boot;
use super::settled::SharedSettled;
use crate::store::{Db, StoreError, replicas};

/// How often the row is written: three times within the age at which others take over.
pub const BEAT_EVERY: Duration = Duration::from_millis(500);
/// The lost-timeout divided by this is the longest time between beats: a judge waits for what they say.
const BEATS_PER_LOST_TIMEOUT_COUNT: u32 = 16;
/// The connection for assignments is down for this long before the sign of life says so: shorter breaks cost nothing.
const UNSENT_AFTER: Duration = Duration::from_secs(1);
/// Longest wait for the row to be taken away at the end.
const END_WAIT: Duration = Duration::from_secs(2);

/// The beats of this replica. They go on until [`end`](Self::end), after everything that this replica looks after has ended.
#[derive(Debug)]
pub struct Beats {
    stop: CancellationToken,
    task: GuardedTask<()>,
}

impl Beats {
    /// Starts the beats in a task of their own, so that nothing that is slow delays them. `assignments` is the connection on which
    /// this replica publishes.
    #[must_use]
    pub fn start(
        db: &Db,
        settled: SharedSettled,
        assignments: watch::Receiver<ConnectionState>,
        lost_after: Duration,
    ) -> Self {
        let stop = CancellationToken::new();
        let every = BEAT_EVERY.min(lost_after / BEATS_PER_LOST_TIMEOUT_COUNT);
        let outage = Outage::default();
        let beater = Beater { db: db.clone(), host: host_name(), settled, assignments, outage, anchor: None };
        let task = spawn_guarded("replica-beats", beat_until(beater, every, stop.clone()));
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

async fn beat_until(mut beater: Beater, every: Duration, stop: CancellationToken) {
    let mut ticker = tokio::time::interval(every);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut fails = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticker.tick() => fails = beater.run_once(fails).await,
        }
    }
    if let Err(error) = replicas::replica_ends(&beater.db).await {
        tracing::debug!(%error, "this replica's row was left behind");
    }
}

/// A moment of which the database's time is known: it was not earlier than this at that moment.
#[derive(Debug, Clone, Copy)]
struct Anchor {
    by_database: DateTime<Utc>,
    at: Duration,
}

impl Anchor {
    /// The earliest that the database's clock can have shown at `moment`.
    fn database_time(self, moment: Duration) -> Option<DateTime<Utc>> {
        let signed = |from: Duration, to: Duration| TimeDelta::from_std(to.checked_sub(from)?).ok();
        match signed(self.at, moment) {
            Some(after) => self.by_database.checked_add_signed(after),
            None => self.by_database.checked_sub_signed(signed(moment, self.at)?),
        }
    }
}

/// Since when the connection for assignments has been down, as far as was seen. Pure.
#[derive(Debug, Clone, Copy, Default)]
struct Outage {
    since: Option<Instant>,
}

impl Outage {
    /// Whether the sign of life at `now` says that this replica publishes.
    fn publishes(&mut self, is_up: bool, now: Instant) -> bool {
        if is_up {
            self.since = None;
            return true;
        }
        now.duration_since(*self.since.get_or_insert(now)) < UNSENT_AFTER
    }
}

struct Beater {
    db: Db,
    host: String,
    settled: SharedSettled,
    assignments: watch::Receiver<ConnectionState>,
    outage: Outage,
    anchor: Option<Anchor>,
}

impl Beater {
    /// One beat. Told once when it begins to fail, once when it works again.
    async fn run_once(&mut self, failed_before: bool) -> bool {
        let through = self.settled.with(|settled| settled.through());
        let through = self.anchor.zip(through).and_then(|(anchor, moment)| anchor.database_time(moment));
        let is_up = self.assignments.borrow().is_up();
        let publishes = self.outage.publishes(is_up, Instant::now());
        match replicas::replica_beat(&self.db, &self.host, through, publishes).await {
            Ok(by_database) => {
                // The answer took its time, so the database's clock shows at least this much now.
                self.anchor = since_boot().ok().map(|at| Anchor { by_database, at });
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
    replicas::replica_beat(db, &host_name(), None, true).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_publishes_until_its_connection_has_been_down_for_a_while_and_again_once_it_is_back() {
        let (mut outage, start) = (Outage::default(), Instant::now());
        let after = |wait: Duration| start + wait;
        assert!(outage.publishes(true, start));
        assert!(outage.publishes(false, start));
        assert!(outage.publishes(false, after(UNSENT_AFTER - Duration::from_nanos(1))));
        assert!(!outage.publishes(false, after(UNSENT_AFTER)));
        assert!(outage.publishes(true, after(UNSENT_AFTER * 2)));
        assert!(
            outage.publishes(false, after(UNSENT_AFTER * 3)),
            "a new break counts from its own beginning"
        );
    }

    #[test]
    fn a_moment_is_told_by_the_database_clock_and_never_later_than_it_was() {
        let by_database = DateTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let anchor = Anchor { by_database, at: Duration::from_secs(50) };
        let second = TimeDelta::seconds(1);
        assert_eq!(anchor.database_time(Duration::from_secs(51)), Some(by_database + second));
        assert_eq!(anchor.database_time(Duration::from_secs(50)), Some(by_database));
        assert_eq!(anchor.database_time(Duration::from_secs(49)), Some(by_database - second));
    }
}
