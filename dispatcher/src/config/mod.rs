//! What can be configured, with its defaults.

mod kinds;
mod load;
mod parameters;

pub use load::Needs;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use switchyard_common::broker::BrokerConfig;
use switchyard_common::config::Secret;
use switchyard_common::contract::limits::ARTIFACTS_TOTAL_MAX_BYTES;
use switchyard_common::contract::topology::Namespace;
use switchyard_common::task::Kind;
use switchyard_common::tls::TlsFiles;
use uuid::Uuid;

use crate::api::tokens::Tokens;
use crate::store::{DbConfig, Plans};

/// The dispatcher's configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the broker is; holds the password.
    pub amqp_url: Secret,
    /// Certificates for the broker.
    pub amqp_tls: TlsFiles,
    /// Where the database is; holds the password.
    pub database_url: Secret,
    /// Certificates for the database.
    pub database_tls: TlsFiles,
    /// Prefix of every name on the broker.
    pub namespace: Namespace,
    /// Where the HTTP API listens; loopback unless told otherwise.
    pub http_listen: SocketAddr,
    /// What a request under `/api` must carry; without it, `/api` is served on loopback alone.
    pub http_tokens: Option<Arc<Tokens>>,
    /// Most connections to the database.
    pub database_connections_max: usize,
    /// Silence after which an agent is lost (design 7).
    pub agent_lost_after: Duration,
    /// An agent of which nothing was heard for this long is retired: its queue is emptied and deleted.
    pub agent_retire_after: Duration,
    /// Time on top of a run timeout before the dispatcher revokes.
    pub run_timeout_grace: Duration,
    /// Whether a pool that nobody has registered may come into being by an event or a hello.
    pub allow_new_pools: bool,
    /// How long an event is held that names what may be about to appear (design 5).
    pub hold_events_for: Duration,
    /// Total of the artifacts of one attempt, in bytes.
    pub artifacts_total_max_bytes: u64,
    /// Prefix of the queues that `reply_to` may name beside direct reply-to; none = direct only.
    pub reply_to_prefix: Option<String>,
    /// Whether upstream is told of what becomes of tasks and letters. Without, nothing is written to the outbox; what is in it still goes out.
    pub notifications: bool,
    /// How long finished tasks, resolved letters, logs and artifacts are kept.
    pub keep_finished_for: Duration,
    /// How long the audit log is kept.
    pub keep_audit_for: Duration,
    /// Time for a graceful shutdown.
    pub drain_for: Duration,
    /// Kinds beside the built-in ones, or in their place.
    pub kinds: Vec<Kind>,
}

/// Days without a hello after which an agent is retired, unless configured.
pub const RETIRE_AFTER_DAYS_DEFAULT: u32 = 7;

impl Config {
    /// The port of the HTTP API when none is configured.
    pub const HTTP_PORT_DEFAULT: u16 = 9080;

    /// How to reach the broker, under a name that it shows.
    #[must_use]
    pub fn broker(&self, name: impl Into<String>) -> BrokerConfig {
        BrokerConfig { tls: self.amqp_tls.clone(), ..BrokerConfig::new(self.amqp_url.clone(), name) }
    }

    /// How to reach the database, as one replica. The dispatcher's own work asks for [`Plans::ByIndex`].
    #[must_use]
    pub fn database(&self, connections_max: usize, replica: Uuid) -> DbConfig {
        let url = self.database_url.expose().to_owned();
        DbConfig {
            url,
            tls: self.database_tls.clone(),
            connections_max,
            replica,
            plans: Plans::Free,
            notifies: self.notifications,
        }
    }

    /// The defaults, for a broker and a database.
    #[must_use]
    pub fn new(amqp_url: Secret, database_url: Secret) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3_600);
        Self {
            amqp_url,
            amqp_tls: TlsFiles::default(),
            database_url,
            database_tls: TlsFiles::default(),
            namespace: Namespace::default(),
            http_listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), Self::HTTP_PORT_DEFAULT),
            http_tokens: None,
            database_connections_max: 16,
            agent_lost_after: Duration::from_secs(20),
            agent_retire_after: RETIRE_AFTER_DAYS_DEFAULT * DAY,
            run_timeout_grace: Duration::from_secs(30),
            allow_new_pools: true,
            hold_events_for: Duration::from_secs(3),
            artifacts_total_max_bytes: ARTIFACTS_TOTAL_MAX_BYTES as u64,
            reply_to_prefix: None,
            notifications: true,
            keep_finished_for: 30 * DAY,
            keep_audit_for: 365 * DAY,
            drain_for: Duration::from_secs(25),
            kinds: Vec::new(),
        }
    }
}
