//! Publishing: from committed assignments to confirmed ones.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use switchyard_common::broker::{PublishOutcome, Publisher};
use switchyard_common::contract::assignment::{Assignment, AttemptKey};
use switchyard_common::contract::topology::Namespace;
use switchyard_common::shutdown::Shutdown;
use switchyard_common::task::Input;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::decide::{
    CONFIRM_RECORD_AFTER, Delivery, FORGOTTEN_AFTER, Next, REPLICA_STALE_AFTER, SEND_WITHIN, after_publish,
    may_send_for,
};
use super::message::messages;
use super::prepare::{Prepared, Span};
use crate::pass::Wake;
use crate::store::route::{
    Dispatch, Publish, claim_resends, dispatches, orphaned, record_confirms, renew, unconfirmed_own,
};
use crate::store::{self, Db, Named};

/// Batches of assignments that are published at the same time.
const BATCHES_IN_FLIGHT_MAX: usize = 32;
/// How often confirms are recorded and orphans looked for.
const TICK: Duration = Duration::from_millis(250);
/// Wait before a batch is read again when the database is away.
const STORE_WAIT: Duration = Duration::from_millis(500);

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
}

/// What is to be published, and how often this replica has published it, this time included.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Job {
    publish: Publish,
    tries: u32,
}

/// What came of a batch: what is to be published again, and when; what was confirmed.
#[derive(Debug, Default)]
struct BatchEnd {
    keys: Vec<AttemptKey>,
    resends: Vec<(Instant, Publish, u32)>,
    confirmed: Vec<AttemptKey>,
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
    pub async fn run(self, mut handed_over: mpsc::Receiver<Vec<AttemptKey>>, shutdown: Shutdown) {
        let mut in_flight = FuturesUnordered::new();
        let mut books = Books::default();
        let mut ticker = tokio::time::interval(TICK);
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let has_room = in_flight.len() < BATCHES_IN_FLIGHT_MAX;
            tokio::select! {
                batch = handed_over.recv(), if has_room => match batch {
                    Some(keys) => {
                        let first = |key| Job { publish: Publish::first(key), tries: 1 };
                        let jobs: Vec<Job> = keys.into_iter().map(first).collect();
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
                claimed.into_iter().map(|publish| Job { tries: tries(&publish.key), publish }).collect()
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

    /// Publishes one batch and says what follows for each of it. What the database does not name this replica as the publisher of is not
    /// sent; what it cannot write soon after the database said so is claimed anew first (protocol B2).
    async fn publish(&self, jobs: Vec<Job>) -> BatchEnd {
        let keys: Vec<AttemptKey> = jobs.iter().map(|job| job.publish.key.clone()).collect();
        let mut end = BatchEnd { keys, ..BatchEnd::default() };
        let (dispatches, asked_at) = self.read(&jobs).await;
        note_not_sent(jobs.len() - dispatches.len());
        let tries_of: HashMap<AttemptKey, u32> =
            jobs.into_iter().map(|job| (job.publish.key, job.tries)).collect();
        let tries = |assignment: &Assignment| tries_of.get(&assignment.key()).copied().unwrap_or(1);
        let mut prepared = Prepared {
            spans: Vec::with_capacity(dispatches.len()),
            outgoing: Vec::new(),
            write_by: asked_at + SEND_WITHIN,
        };
        for dispatch in dispatches {
            let assignment = dispatch.assignment.clone();
            let tries = tries(&assignment);
            let Some(left) = may_send_for(dispatch.age) else {
                let span = Span { assignment, tries, count: 0 };
                end.resends.push((Instant::now(), span.publish(), tries.saturating_sub(1)));
                continue;
            };
            prepared.write_by = prepared.write_by.min(asked_at + left);
            let messages = messages(&self.namespace, dispatch).unwrap_or_else(|error| {
                tracing::error!(task_id = %assignment.task_id, attempt = assignment.attempt, %error, "assignment cannot be sent");
                Vec::new()
            });
            prepared.spans.push(Span { assignment, tries, count: messages.len() });
            prepared.outgoing.extend(messages);
        }
        if prepared.is_late(Instant::now()) {
            prepared = self.renewed(prepared, &mut end).await;
        }
        let outcomes = self.publisher.publish_settled(prepared.outgoing, prepared.write_by).await;
        let returned = sort_out(prepared.spans, outcomes, &mut end);
        self.tell_returned(&returned).await;
        end
    }

    /// Gives what took long to prepare its full time again, as far as it is still this replica's own: nothing was sent under its number
    /// yet, so the number stays.
    async fn renewed(&self, prepared: Prepared, end: &mut BatchEnd) -> Prepared {
        let (asked_at, asked) = (Instant::now(), prepared.publishes());
        match renew(&self.db, &asked).await {
            Ok(own) => {
                note_not_sent(asked.len() - own.len());
                prepared.only(&own, asked_at + SEND_WITHIN)
            }
            Err(error) => {
                tracing::warn!(%error, "assignments that took long to read cannot be sent now; trying again");
                let again =
                    |span: &Span| (asked_at + STORE_WAIT, span.publish(), span.tries.saturating_sub(1));
                end.resends.extend(prepared.spans.iter().map(again));
                prepared.only(&[], asked_at)
            }
        }
    }

    /// Reads contents until the database answers, and says when it was asked: the assignments are committed, so they must go out, here
    /// or from another replica.
    async fn read(&self, jobs: &[Job]) -> (Vec<Dispatch>, Instant) {
        let publishes: Vec<Publish> = jobs.iter().map(|job| job.publish.clone()).collect();
        loop {
            let asked_at = Instant::now();
            match dispatches(&self.db, &publishes).await {
                Ok(dispatches) => return (dispatches, asked_at),
                Err(error) if error.is_transient() => {
                    tracing::warn!(%error, "assignments cannot be read; trying again");
                    tokio::time::sleep(STORE_WAIT).await;
                }
                Err(error) => {
                    tracing::error!(%error, count = jobs.len(), "assignments cannot be read");
                    return (Vec::new(), asked_at);
                }
            }
        }
    }

    /// The agent's queue is gone: undo the assignment, or revoke it where another copy may have arrived (protocol B3).
    async fn tell_returned(&self, returned: &[Assignment]) {
        if returned.is_empty() {
            return;
        }
        let inputs: Vec<Named> = returned
            .iter()
            .map(|assignment| Named {
                task_id: assignment.task_id.clone(),
                attempt: Some(assignment.attempt),
                input: Input::Returned { publish_no: assignment.publish_no },
            })
            .collect();
        loop {
            match store::apply(&self.db, &inputs).await {
                Ok(_) => break,
                Err(error) if error.is_transient() => tokio::time::sleep(STORE_WAIT).await,
                Err(error) => {
                    tracing::error!(%error, "returned assignments cannot be undone; the sweep for unlisted attempts will");
                    break;
                }
            }
        }
        for assignment in returned {
            self.wake.pool(&assignment.pool);
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

/// What follows for each assignment of a batch; gives back those that were returned.
fn sort_out(spans: Vec<Span>, outcomes: Vec<PublishOutcome>, end: &mut BatchEnd) -> Vec<Assignment> {
    let mut outcomes = outcomes.into_iter();
    let mut returned = Vec::new();
    for span in spans {
        let (publish, Span { assignment, tries, count }) = (span.publish(), span);
        let mut deliveries: Vec<Delivery> = outcomes.by_ref().take(count).map(|o| delivery(&o)).collect();
        let own = deliveries.pop().unwrap_or(Delivery::Unknown);
        let next = after_publish(own, &deliveries, tries, rand::random());
        narrate(&assignment, tries, own, next);
        match next {
            Next::Confirmed => end.confirmed.push(assignment.key()),
            Next::TellReturned => returned.push(assignment),
            Next::Resend { after } => {
                end.resends.push((Instant::now() + after, publish, tries));
            }
        }
    }
    returned
}

/// Attempts that ended before they were sent, or that another replica publishes now.
fn note_not_sent(count: usize) {
    if count > 0 {
        metrics::counter!("switchyard_publishes_fenced_total").increment(count as u64);
        tracing::debug!(
            count,
            "assignments are not sent: they have ended, or another replica publishes them"
        );
    }
}

const fn delivery(outcome: &PublishOutcome) -> Delivery {
    match outcome {
        PublishOutcome::Acked => Delivery::Acked,
        PublishOutcome::Returned { .. } => Delivery::Returned,
        PublishOutcome::Nacked => Delivery::Nacked,
        PublishOutcome::Lost(_) => Delivery::Unknown,
    }
}

fn narrate(assignment: &Assignment, tries: u32, own: Delivery, next: Next) {
    let (task_id, workspace_id) = (&assignment.task_id, &assignment.workspace_id);
    match next {
        Next::Confirmed if assignment.exclusive => {
            tracing::info!(%task_id, %workspace_id, attempt = assignment.attempt,
            agent = %assignment.agent, action = %assignment.step, "assignment published and confirmed")
        }
        Next::Confirmed => {
            tracing::debug!(%task_id, %workspace_id, attempt = assignment.attempt, agent = %assignment.agent,
            action = %assignment.step, "assignment published and confirmed")
        }
        Next::TellReturned => {
            tracing::warn!(%task_id, %workspace_id, attempt = assignment.attempt, agent = %assignment.agent,
            publish_no = assignment.publish_no, "assignment returned: the agent's queue is gone")
        }
        Next::Resend { after } => {
            tracing::warn!(%task_id, %workspace_id, attempt = assignment.attempt, agent = %assignment.agent,
            tries, ?own, after_ms = after.as_millis(), "assignment not confirmed; it will be published again")
        }
    }
}
