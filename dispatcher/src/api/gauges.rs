//! Gauges of what is in the database. Every replica tells the same values: take the maximum over replicas, never the sum.

use std::time::Duration;

use metrics::{describe_gauge, gauge};
use switchyard_common::shutdown::Shutdown;

use crate::store::counts::{Counted, counts};
use crate::store::{Db, StoreError};

/// How often is counted: slowly, because the work grows with what waits.
const PERIOD: Duration = Duration::from_secs(15);

/// Counts until shutdown.
pub async fn run(db: Db, shutdown: Shutdown) {
    describe();
    loop {
        if let Err(error) = run_once(&db).await {
            tracing::warn!(%error, "gauges cannot be counted now; they keep their last values");
        }
        if !shutdown.sleep(PERIOD).await {
            return;
        }
    }
}

/// Counts once.
pub async fn run_once(db: &Db) -> Result<(), StoreError> {
    counts(db).await?.into_iter().for_each(set);
    Ok(())
}

fn set(counted: Counted) {
    let name = format!("switchyard_{}", counted.name);
    match (counted.pool.is_empty(), counted.status) {
        (_, Some(status)) => gauge!(name, "pool" => counted.pool, "status" => status).set(counted.value),
        (false, None) => gauge!(name, "pool" => counted.pool).set(counted.value),
        (true, None) => gauge!(name).set(counted.value),
    }
}

fn describe() {
    describe_gauge!("switchyard_tasks", "Tasks that have not ended, by pool and status.");
    describe_gauge!(
        "switchyard_oldest_waiting_seconds",
        "Age of the oldest task that may run and waits for an agent, by pool."
    );
    describe_gauge!("switchyard_agents_live", "Agents that are heard, by pool.");
    describe_gauge!("switchyard_slots", "Slots of live agents that take work, by pool.");
    describe_gauge!(
        "switchyard_slots_wanted",
        "Slots that could be used now, by pool: tasks in hand, and tasks that a pass could place. What to scale agents by."
    );
    describe_gauge!("switchyard_slots_free", "Slots of live agents without an attempt, by pool.");
    describe_gauge!("switchyard_dead_letters_open", "Dead letters that nobody has resolved.");
    describe_gauge!("switchyard_notifications_waiting", "Notifications that are not published yet.");
}
