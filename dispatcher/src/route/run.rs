//! Publishing: from committed assignments to confirmed ones.

use std::collections::HashSet;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use switchyard_common::broker::Publisher;
use switchyard_common::contract::assignment::AttemptKey;
use switchyard_common::contract::topology::Namespace;
use switchyard_common::shutdown::Shutdown;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::batch::{BatchEnd, Job, STORE_WAIT};
use super::budget::InputsBudget;
use super::decide::{CONFIRM_RECORD_AFTER, FORGOTTEN_AFTER, REPLICA_STALE_AFTER};
use crate::pass::Wake;
use crate::store::Db;
use crate::store::route::{Committed, Publish, claim_resends, orphaned, record_confirms, unconfirmed_own};

/// Batches of assignments that are published at the same time.
const BATCHES_IN_FLIGHT_MAX: usize = 32;
/// How often confirms are recorded and orphans looked for.
const TICK: Duration = Duration::from_millis(250);

/// What routing needs.
#[derive(Clone)]
pub struct Router {
    /// The store.
    pub db: Db,
    /// Names on the broker.
    pub namespace: Namespace,
    /// Confirmed publishing.
    pub publisher: Publisher,
    /// Asks for passes.
    pub wake: Wake,
    /// What the inputs of all its batches may cost.
    pub inputs: InputsBudget,
}

/// Every attempt that this replica looks after, and how far it has come.
#[derive(Debug, Default)]
struct Books {
    in_flight: HashSet<AttemptKey>,
    waiting: Vec<(Instant, Publish, u32)>,
    confirmed: Vec<(Instant, AttemptKey)>,
}

impl Books {
    fn begins(&mut self, jobs: &[Job]) {
        self.in_flight.extend(jobs.iter().map(|job| job.publish.key.clone()));
    }

    fn ends(&mut self, end: BatchEnd) {
        let at = Instant::now();
        for key in &end.keys {
            self.in_flight.remove(key);
        }
        self.waiting.extend(end.resends);
        self.confirmed.extend(end.confirmed.into_iter().map(|key| (at, key)));
    }

    fn knows(&self, key: &AttemptKey) -> bool {
        self.in_flight.contains(key)
            || self.waiting.iter().any(|(_, publish, _)| publish.key == *key)
            || self.confirmed.iter().any(|(_, confirmed)| confirmed == key)
    }
}

impl Router {
    /// Publishes what passes hand over, until shutdown is requested and everything handed over is settled with the broker.
    pub async fn run(self, mut handed_over: mpsc::Receiver<Vec<Committed>>, shutdown: Shutdown) {
        let mut in_flight = FuturesUnordered::new();
        let mut books = Books::default();
        let mut ticker = tokio::time::interval(TICK);
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let has_room = in_flight.len() < BATCHES_IN_FLIGHT_MAX;
            tokio::select! {
                batch = handed_over.recv(), if has_room => match batch {
                    Some(committed) => {
                        let jobs: Vec<Job> = committed.into_iter().map(Job::first).collect();
                        books.begins(&jobs);
                        in_flight.push(self.publish(jobs));
                    }
                    // Passes have ended. What is in flight is finished; what waits for a repeat is left to other replicas.
                    None => break,
                },
                Some(end) = in_flight.next(), if !in_flight.is_empty() => books.ends(end),
                _ = ticker.tick() => {
                    let due = self.due(&mut books).await;
                    if !due.is_empty() {
                        books.begins(&due);
                        in_flight.push(self.publish(due));
                    }
                    self.record(&mut books.confirmed, CONFIRM_RECORD_AFTER).await;
                }
                () = shutdown.immediate() => return,
            }
        }
        while let Some(end) = in_flight.next().await {
            books.ends(end);
        }
        self.record(&mut books.confirmed, Duration::ZERO).await;
    }

    /// Repeats whose time has come, publishes of replicas that are gone, and our own that we do not know of. `publish_no` is raised
    /// before anything is sent. Without a broker that reads nothing is claimed: another replica may have one.
    async fn due(&self, books: &mut Books) -> Vec<Job> {
        if !self.publisher.state().borrow().is_up() {
            return Vec::new();
        }
        let now = Instant::now();
        let (mut due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut books.waiting).into_iter().partition(|(at, ..)| *at <= now);
        books.waiting = later;
        due.extend(self.forgotten(books, &due).await.into_iter().map(|publish| (now, publish, 0)));
        match orphaned(&self.db, REPLICA_STALE_AFTER).await {
            Ok(orphans) => {
                if !orphans.is_empty() {
                    tracing::warn!(
                        count = orphans.len(),
                        "publishes of a replica that is gone are taken over"
                    );
                    metrics::counter!("switchyard_publishes_taken_over_total")
                        .increment(orphans.len() as u64);
                }
                due.extend(orphans.into_iter().map(|publish| (now, publish, 0)));
            }
            Err(error) => tracing::warn!(%error, "orphaned publishes cannot be looked for"),
        }
        if due.is_empty() {
            return Vec::new();
        }
        let given_up: Vec<Publish> = due.iter().map(|(_, publish, _)| publish.clone()).collect();
        match claim_resends(&self.db, &given_up).await {
            Ok(claimed) => {
                let tries = |key: &AttemptKey| {
                    due.iter()
                        .find(|(_, publish, _)| publish.key == *key)
                        .map_or(1, |(_, _, tries)| tries + 1)
                };
                claimed
                    .into_iter()
                    .map(|publish| Job { tries: tries(&publish.key), publish, fresh: None })
                    .collect()
            }
            Err(error) => {
                tracing::warn!(%error, "repeated publishes cannot be claimed; they are tried again");
                books
                    .waiting
                    .extend(due.into_iter().map(|(_, publish, tries)| (now + STORE_WAIT, publish, tries)));
                Vec::new()
            }
        }
    }

    /// Assignments that this replica has committed, but does not look after: the answer to the commit was lost, or the memory of it
    /// was. Nobody else will send them, because this replica is alive.
    async fn forgotten(&self, books: &Books, due: &[(Instant, Publish, u32)]) -> Vec<Publish> {
        let is_due = |key: &AttemptKey| due.iter().any(|(_, publish, _)| publish.key == *key);
        match unconfirmed_own(&self.db, FORGOTTEN_AFTER).await {
            Ok(mut own) => {
                own.retain(|publish| !books.knows(&publish.key) && !is_due(&publish.key));
                if !own.is_empty() {
                    tracing::warn!(
                        count = own.len(),
                        "publishes that this replica had forgotten are sent again"
                    );
                    metrics::counter!("switchyard_publishes_forgotten_total").increment(own.len() as u64);
                }
                own
            }
            Err(error) => {
                tracing::warn!(%error, "forgotten publishes cannot be looked for");
                Vec::new()
            }
        }
    }

    async fn record(&self, confirmed: &mut Vec<(Instant, AttemptKey)>, older_than: Duration) {
        let now = Instant::now();
        let ripe = confirmed.partition_point(|(at, _)| now.duration_since(*at) >= older_than);
        if ripe == 0 {
            return;
        }
        let keys: Vec<AttemptKey> = confirmed.iter().take(ripe).map(|(_, key)| key.clone()).collect();
        match record_confirms(&self.db, &keys).await {
            Ok(_) => drop(confirmed.drain(..ripe)),
            Err(error) if bounded(confirmed) => tracing::warn!(%error, "confirms cannot be recorded yet"),
            Err(error) => {
                tracing::warn!(%error, dropped = ripe, "confirms cannot be recorded and are dropped; copies may be sent again");
                confirmed.drain(..ripe);
            }
        }
    }
}

/// Most confirms that wait for the database, in attempts; beyond, they are dropped, which costs a copy that agents ignore.
const CONFIRMS_WAITING_MAX_COUNT: usize = 100_000;

const fn bounded(confirmed: &[(Instant, AttemptKey)]) -> bool {
    confirmed.len() < CONFIRMS_WAITING_MAX_COUNT
}
