//! One ticker per pool: a pass when woken, and one every [`PERIOD`] all the same, because a lost wake-up must never strand a task.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use switchyard_common::broker::ConnectionState;
use switchyard_common::contract::ids::PoolId;
use switchyard_common::guard::spawn_guarded;
use switchyard_common::shutdown::Shutdown;
use tokio::sync::{Notify, mpsc, watch};

use super::broker_gate::BrokerGate;
use super::once::{PassEnd, PassReport, run_once};
use super::wake::Wake;
use crate::store::route::Committed;
use crate::store::{Db, pass};

/// Longest time between two passes over a pool.
pub const PERIOD: Duration = Duration::from_secs(1);
/// Wait before coming back when another replica has the pool's lock.
const BUSY_WAIT: Duration = Duration::from_millis(5);
/// Wait after a pass that failed.
const FAILED_WAIT: Duration = Duration::from_millis(500);

/// Where committed assignments go: bounded, so that passes wait when routing cannot keep up.
pub type ToRoute = mpsc::Sender<Vec<Committed>>;

/// Keeps a ticker for every pool until shutdown. A ticker that panics is started anew. `assignments` is the connection on which what
/// passes commit is sent: while it is down they are left to other replicas.
pub async fn run(
    db: Db,
    wake: Wake,
    to_route: ToRoute,
    assignments: watch::Receiver<ConnectionState>,
    shutdown: Shutdown,
) {
    let gate = BrokerGate::new(assignments, shutdown.clone());
    tokio::join!(gate.clone().tell(), keep_tickers(&db, &wake, &to_route, &gate, &shutdown));
}

async fn keep_tickers(db: &Db, wake: &Wake, to_route: &ToRoute, gate: &BrokerGate, shutdown: &Shutdown) {
    let mut started: BTreeSet<PoolId> = BTreeSet::new();
    while !shutdown.is_requested() {
        match pass::pools(db).await {
            Ok(pools) => pools.iter().for_each(|pool| drop(wake.handle(pool))),
            Err(error) => {
                tracing::warn!(%error, "the pools cannot be read; passes go on over those that are known")
            }
        }
        for pool in wake.known() {
            if started.insert(pool.clone()) {
                start(db, wake, to_route, gate, shutdown, pool);
            }
        }
        tokio::select! {
            () = wake.new_pool() => {}
            () = tokio::time::sleep(PERIOD) => {}
            () = shutdown.requested() => {}
        }
    }
}

fn start(db: &Db, wake: &Wake, to_route: &ToRoute, gate: &BrokerGate, shutdown: &Shutdown, pool: PoolId) {
    let ticker = Ticker {
        db: db.clone(),
        wake: wake.clone(),
        woken: wake.handle(&pool),
        to_route: to_route.clone(),
        gate: gate.clone(),
        shutdown: shutdown.clone(),
        pool,
    };
    let name = format!("pass-{}", ticker.pool);
    // A panic inside a pass ends this task with a log line and a count; the guard below it starts the next pass.
    drop(spawn_guarded(name, async move { ticker.run().await }));
}

/// After which wait a pass must run again for the wake-up that it was run for; none when it has consumed it. One that found the pool
/// locked saw nothing: the pass of the other replica may have begun before the wake-up (protocol E3). Pure.
fn comes_back(end: PassEnd, more: bool) -> Option<Duration> {
    match end {
        PassEnd::Busy => Some(BUSY_WAIT),
        PassEnd::Done => more.then_some(Duration::ZERO),
    }
}

struct Ticker {
    db: Db,
    wake: Wake,
    woken: Arc<Notify>,
    to_route: ToRoute,
    gate: BrokerGate,
    shutdown: Shutdown,
    pool: PoolId,
}

impl Ticker {
    async fn run(mut self) {
        while !self.shutdown.is_requested() {
            tokio::select! {
                () = self.woken.notified() => {}
                () = tokio::time::sleep(PERIOD) => {}
                () = self.shutdown.requested() => return,
            }
            // The wake-up is kept: the pass for it begins when the broker is back.
            if !self.gate.opened().await {
                return;
            }
            let pass = switchyard_common::guard::catch_panic(run_once(&self.db, &self.pool)).await;
            match pass {
                Ok(Ok(report)) => self.after(report).await,
                Ok(Err(_)) => self.come_back(FAILED_WAIT).await,
                Err(panic) => {
                    tracing::error!(pool = %self.pool, %panic, "a pass panicked; the next one begins soon");
                    self.come_back(FAILED_WAIT).await;
                }
            }
        }
    }

    async fn after(&self, report: PassReport) {
        self.wake.note_idle(&self.pool, report.idle);
        if !report.assigned.is_empty() && self.to_route.send(report.assigned).await.is_err() {
            tracing::error!(pool = %self.pool, "routing has ended; another replica will publish what was assigned");
        }
        if let Some(wait) = comes_back(report.end, report.more) {
            self.come_back(wait).await;
        }
    }

    /// Keeps the wake-up for a pass that begins later.
    async fn come_back(&self, wait: Duration) {
        self.shutdown.sleep(wait).await;
        self.woken.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_up_is_consumed_only_by_a_pass_that_saw_everything() {
        assert_eq!(comes_back(PassEnd::Done, false), None);
        assert_eq!(comes_back(PassEnd::Done, true), Some(Duration::ZERO));
        assert_eq!(comes_back(PassEnd::Busy, false), Some(BUSY_WAIT));
    }
}
