//! Whether this replica is ready, and if not, why: named conditions, each with its reason. Not ready until all of them hold
//! (incident 8).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use switchyard_common::broker::ConnectionState;
use switchyard_common::shutdown::Shutdown;
use tokio::sync::watch;

use crate::store::{Db, StoreError, migrate};

/// How often the database is asked.
const DATABASE_PERIOD: Duration = Duration::from_secs(2);

/// What must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// What an earlier process left has been taken up.
    Recovery,
    /// The connection that consumes is up.
    BrokerConsume,
    /// The connection that publishes is up.
    BrokerPublish,
    /// The connection that publishes assignments is up.
    BrokerAssignments,
    /// Every queue that is consumed answers.
    BrokerQueues,
    /// The database answers.
    Database,
    /// Its schema is the one that this program knows.
    Schema,
}

impl Condition {
    /// Every condition.
    pub const ALL: [Self; 7] = [
        Self::Recovery,
        Self::BrokerConsume,
        Self::BrokerPublish,
        Self::BrokerAssignments,
        Self::BrokerQueues,
        Self::Database,
        Self::Schema,
    ];

    /// The word for it in answers, logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Recovery => "recovery",
            Self::BrokerConsume => "broker_consume",
            Self::BrokerPublish => "broker_publish",
            Self::BrokerAssignments => "broker_assignments",
            Self::BrokerQueues => "broker_queues",
            Self::Database => "database",
            Self::Schema => "schema",
        }
    }
}

/// The answer of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// All conditions hold.
    pub ready: bool,
    /// Those that do not, with the reason.
    pub waiting_for: BTreeMap<&'static str, String>,
}

/// The conditions of this process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<Mutex<BTreeMap<Condition, Result<(), String>>>>);

impl Default for Readiness {
    /// Nothing holds yet.
    fn default() -> Self {
        let unknown = |condition| (condition, Err("not checked yet".to_owned()));
        Self(Arc::new(Mutex::new(Condition::ALL.into_iter().map(unknown).collect())))
    }
}

impl Readiness {
    /// Says that a condition holds, or why not. Every change is one line.
    pub fn set(&self, condition: Condition, state: Result<(), String>) {
        let mut conditions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = conditions.insert(condition, state.clone());
        drop(conditions);
        metrics::gauge!("switchyard_ready_condition", "condition" => condition.as_str())
            .set(f64::from(u8::from(state.is_ok())));
        if before.as_ref().is_some_and(|before| before.is_ok() == state.is_ok()) {
            return;
        }
        match state {
            Ok(()) => tracing::info!(condition = condition.as_str(), "a condition of readiness holds"),
            Err(reason) => {
                tracing::warn!(
                    condition = condition.as_str(),
                    reason,
                    "a condition of readiness does not hold"
                );
            }
        }
    }

    /// All conditions as they are now.
    #[must_use]
    pub fn report(&self) -> Report {
        let conditions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting_for: BTreeMap<&'static str, String> = conditions
            .iter()
            .filter_map(|(condition, state)| Some((condition.as_str(), state.as_ref().err()?.clone())))
            .collect();
        Report { ready: waiting_for.is_empty(), waiting_for }
    }
}

/// Keeps a broker condition up to date until shutdown. Blocked counts as not ready: what it publishes waits.
pub async fn follow_broker(
    readiness: Readiness,
    condition: Condition,
    mut state: watch::Receiver<ConnectionState>,
    shutdown: Shutdown,
) {
    loop {
        let now = match &*state.borrow_and_update() {
            ConnectionState::Up { .. } => Ok(()),
            ConnectionState::Blocked { reason, .. } => Err(format!("blocked by the broker: {reason}")),
            ConnectionState::Down { since, reason } => {
                Err(format!("down since {}: {reason}", since.to_rfc3339()))
            }
            ConnectionState::Closed => Err("closed".to_owned()),
        };
        readiness.set(condition, now);
        match shutdown.unless_requested(state.changed()).await {
            Some(Ok(())) => {}
            Some(Err(_)) | None => return,
        }
    }
}

/// Keeps the condition of the queues up to date until shutdown.
pub async fn follow_queues(
    readiness: Readiness,
    mut silent: watch::Receiver<BTreeSet<String>>,
    shutdown: Shutdown,
) {
    loop {
        let names: Vec<String> = silent.borrow_and_update().iter().cloned().collect();
        let now = if names.is_empty() { Ok(()) } else { Err(format!("no answer from {}", names.join(", "))) };
        readiness.set(Condition::BrokerQueues, now);
        match shutdown.unless_requested(silent.changed()).await {
            Some(Ok(())) => {}
            Some(Err(_)) | None => return,
        }
    }
}

/// Keeps the conditions of the database up to date until shutdown.
pub async fn follow_database(readiness: Readiness, db: Db, shutdown: Shutdown) {
    loop {
        check_database(&readiness, &db).await;
        if !shutdown.sleep(DATABASE_PERIOD).await {
            return;
        }
    }
}

/// Asks the database once.
pub async fn check_database(readiness: &Readiness, db: &Db) {
    match migrate::verify(db).await {
        Ok(()) => {
            readiness.set(Condition::Database, Ok(()));
            readiness.set(Condition::Schema, Ok(()));
        }
        Err(StoreError::Schema(reason)) => {
            readiness.set(Condition::Database, Ok(()));
            readiness.set(Condition::Schema, Err(reason));
        }
        Err(error) => readiness.set(Condition::Database, Err(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incident_08_nothing_is_ready_until_every_condition_holds() {
        let readiness = Readiness::default();
        for condition in Condition::ALL {
            assert!(!readiness.report().ready);
            readiness.set(condition, Ok(()));
        }
        assert!(readiness.report().ready);
        readiness.set(Condition::Database, Err("away".into()));
        let report = readiness.report();
        assert!(!report.ready);
        assert_eq!(report.waiting_for, BTreeMap::from([("database", "away".to_owned())]));
    }

    #[tokio::test]
    async fn a_blocked_or_lost_broker_is_told_with_its_reason() {
        let readiness = Readiness::default();
        let shutdown = Shutdown::new(Duration::from_secs(1));
        let (sender, receiver) = watch::channel(ConnectionState::Up { generation: 1 });
        let following =
            follow_broker(readiness.clone(), Condition::BrokerPublish, receiver, shutdown.clone());
        let script = async {
            tokio::task::yield_now().await;
            assert!(!readiness.report().waiting_for.contains_key("broker_publish"));
            sender.send_replace(ConnectionState::Blocked { generation: 1, reason: "low on memory".into() });
            tokio::task::yield_now().await;
            assert!(readiness.report().waiting_for["broker_publish"].contains("low on memory"));
            shutdown.trigger("test");
        };
        tokio::join!(following, script);
    }
}
