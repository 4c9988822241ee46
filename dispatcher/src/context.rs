//! What every part of a serving dispatcher shares. Cheap to clone.

use std::sync::Arc;

use switchyard_common::broker::{ConsumeConnection, Publisher};
use switchyard_common::contract::topology::Namespace;
use switchyard_common::task::Kinds;
use uuid::Uuid;

use crate::config::Config;
use crate::pass::Wake;
use crate::presence::settled::SharedSettled;
use crate::readiness::Readiness;
use crate::store::Db;

/// Shared by intake, pass, route, settle, presence, dead letters, notify, sweep.
#[derive(Clone)]
pub struct Context {
    /// The store.
    pub db: Db,
    /// Names on the broker.
    pub namespace: Namespace,
    /// Confirmed publishing, on a connection of its own.
    pub publisher: Publisher,
    /// Confirmed publishing of assignments, on another: an agent's queue that does not answer holds up everything behind it on the
    /// same channel, and that must be neither the canary nor what is said to other agents.
    pub assignments: Publisher,
    /// Consuming, on another connection.
    pub consumers: ConsumeConnection,
    /// Asks for scheduling passes.
    pub wake: Wake,
    /// The kinds of tasks that are known.
    pub kinds: Arc<Kinds>,
    /// Everything that is configured.
    pub config: Arc<Config>,
    /// Whether this replica is ready, and if not, why.
    pub readiness: Readiness,
    /// Up to when this replica has settled the outcomes that it was handed.
    pub settled: SharedSettled,
    /// This process, new at every start.
    pub replica: Uuid,
}
