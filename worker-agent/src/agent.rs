//! An agent from the outside: its configuration and [`run`].

use std::net::SocketAddr;
use std::time::Duration;

use switchyard_common::broker::{BrokerConfig, BrokerConfigError};
use switchyard_common::contract::ids::AgentRef;
use switchyard_common::contract::topology::Namespace;
use switchyard_common::guard::GuardedTask;
use switchyard_common::shutdown::Shutdown;
use switchyard_common::telemetry::Metrics;

use crate::handler::Handlers;
use crate::health::{Health, Vitals};
use crate::machine::limits::{
    HEARTBEAT_DEFAULT_MS, LOST_TIMEOUT_DEFAULT_MS, MARGINS_PER_LOST_TIMEOUT_COUNT, SILENCE_MARGIN_MS,
    START_WINDOW_DEFAULT_MS,
};
use crate::machine::{Settings, SettingsError};
use crate::shell::{Driver, Finished, boot_now};

/// Handlers at the same time unless configured.
pub const SLOTS_DEFAULT: u32 = 4;
/// Exclusive attempts at the same time unless configured.
pub const MAX_EXCLUSIVE_DEFAULT: u32 = 1;
/// Heartbeat of the broker connections: a peer that is silent for two of them is gone, and with it the lock on the agent's id.
pub const BROKER_HEARTBEAT: Duration = Duration::from_secs(5);

/// The longest delay between two tries to reconnect is at most the lost timeout divided by this.
const RECONNECTS_PER_LOST_TIMEOUT_COUNT: u32 = 8;
/// Largest frame on an agent's connections, in bytes (16 KiB): with the broker's own 128 KiB, the buffers of its two connections may grow to
/// 16 MiB. Only bodies may be larger, which travel in many frames; the headers that agents and dispatchers send each other are an id of at most
/// 128 characters, a number and a trace.
pub const FRAME_MAX_BYTES: u32 = 16 * 1024;

/// Who an agent is, where its broker is, and what it offers.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentConfig {
    /// The broker.
    pub broker: BrokerConfig,
    /// The prefix of every name at the broker.
    pub namespace: Namespace,
    /// Pool and agent id.
    pub agent: AgentRef,
    /// The pod's name, or the host's outside Kubernetes.
    pub pod: String,
    /// The node's name, where known.
    pub node: Option<String>,
    /// Handlers that run at the same time at most.
    pub slots: u32,
    /// Attempts that may wait beyond the slots; each costs the time of its round trip when there are none.
    pub credit: u32,
    /// Exclusive attempts that run at the same time at most.
    pub max_exclusive: u32,
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// Silence after which the dispatcher declares the agent lost. Must be the dispatcher's value.
    pub lost_timeout: Duration,
    /// How long after the first ask a go is acted on.
    pub start_window: Duration,
    /// Where `/livez`, `/readyz` and `/metrics` are served; nowhere unless told.
    pub http_listen: Option<SocketAddr>,
}

impl AgentConfig {
    /// The default configuration of an agent, with [`BROKER_HEARTBEAT`] on its connections.
    #[must_use]
    pub fn new(mut broker: BrokerConfig, agent: AgentRef) -> Self {
        broker.heartbeat = BROKER_HEARTBEAT;
        Self {
            broker,
            namespace: Namespace::default(),
            pod: agent.agent.to_string(),
            agent,
            node: None,
            slots: SLOTS_DEFAULT,
            credit: SLOTS_DEFAULT,
            max_exclusive: MAX_EXCLUSIVE_DEFAULT,
            heartbeat: Duration::from_millis(HEARTBEAT_DEFAULT_MS),
            lost_timeout: Duration::from_millis(LOST_TIMEOUT_DEFAULT_MS),
            start_window: Duration::from_millis(START_WINDOW_DEFAULT_MS),
            http_listen: None,
        }
    }

    /// What the machine is told, with the handlers of this agent.
    #[must_use]
    pub fn settings(&self, handlers: &Handlers) -> Settings {
        Settings {
            agent: self.agent.clone(),
            pod: self.pod.clone(),
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            slots: self.slots,
            credit: self.credit,
            max_exclusive: self.max_exclusive,
            handlers: handlers.names(),
            heartbeat: self.heartbeat,
            lost_timeout: self.lost_timeout,
            silence_margin: self.silence_margin(),
            kill_grace: handlers.kill_grace_max(),
            start_window: self.start_window,
        }
    }

    /// How long before the lost timeout the session has ended.
    fn silence_margin(&self) -> Duration {
        Duration::from_millis(SILENCE_MARGIN_MS).min(self.lost_timeout / MARGINS_PER_LOST_TIMEOUT_COUNT)
    }

    /// The broker's settings with delays between reconnections that are short beside the lost timeout: when the broker is back, the
    /// agent must be heard before a dispatcher that came back first counts a whole lost timeout of silence. And with frames that are small
    /// beside what an agent may use of memory.
    fn broker(&self) -> BrokerConfig {
        let mut broker = self.broker.clone();
        broker.frame_max_bytes = broker.frame_max_bytes.min(FRAME_MAX_BYTES);
        broker.reconnect.max =
            broker.reconnect.max.min(self.lost_timeout / RECONNECTS_PER_LOST_TIMEOUT_COUNT);
        broker
    }

    /// Checks everything that can be checked without connecting.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn check(&self, handlers: &Handlers) -> Result<Settings, AgentError> {
        self.broker.check()?;
        let settings = self.settings(handlers);
        settings.check().map_err(|errors| AgentError::Settings(Listed(errors)))?;
        Ok(settings)
    }
}

/// Several errors, one per line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed(pub Vec<SettingsError>);

impl std::fmt::Display for Listed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|error| write!(f, "\n  - {error}"))
    }
}

/// Why an agent cannot run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// The broker's settings are wrong.
    #[error(transparent)]
    Broker(#[from] BrokerConfigError),
    /// The agent's own settings are wrong.
    #[error("the agent's settings are wrong:{0}")]
    Settings(Listed),
    /// The address for probes cannot be listened on.
    #[error("cannot listen on {address} for probes and metrics: {why}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        why: String,
    },
    /// One of the agent's own tasks has panicked; the panic is in the log. Handlers were ended; the session's end settles their work.
    #[error("the agent's task `{task}` has ended, so nothing can be reported any more")]
    Broken {
        /// Which.
        task: &'static str,
    },
}

/// Runs an agent until `shutdown` has been requested and its work is settled, or until the shutdown is immediate. A broker that is away
/// is waited for; an agent id that is in use by another process is waited for too. Must be called within a Tokio runtime.
///
/// # Errors
/// When the configuration cannot work, or the agent itself is broken. A broker that is away and handlers that fail are not errors.
pub async fn run(
    config: AgentConfig,
    handlers: Handlers,
    shutdown: Shutdown,
) -> Result<Finished, AgentError> {
    let settings = config.check(&handlers)?;
    tracing::info!(
        pool = %config.agent.pool,
        agent = %config.agent.agent,
        broker = config.broker.masked_url(),
        namespace = config.namespace.as_str(),
        slots = config.slots,
        credit = config.credit,
        handlers = ?handlers,
        "agent starts"
    );
    let config = AgentConfig { broker: config.broker(), ..config };
    let vitals = Vitals::new(config.slots, config.lost_timeout, boot_now());
    let http = match config.http_listen {
        Some(address) => Some(serve_health(address, vitals.clone()).await?),
        None => None,
    };
    let finished = match Driver::start(&config, settings, handlers, shutdown, vitals) {
        Ok(driver) => driver.run().await,
        Err(error) => Err(error.into()),
    };
    if let Some(http) = http {
        http.abort();
    }
    let finished = finished?;
    tracing::info!(left_count = finished.left_count, "agent ends");
    Ok(finished)
}

/// Begins to serve probes and metrics.
async fn serve_health(
    address: SocketAddr,
    vitals: Vitals,
) -> Result<GuardedTask<std::io::Result<()>>, AgentError> {
    // A recorder that is installed already belongs to somebody else, who renders it.
    let health = Health { vitals, metrics: Metrics::install().ok() };
    health.start(address).await.map_err(|error| AgentError::Listen { address, why: error.to_string() })
}
