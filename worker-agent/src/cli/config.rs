//! The configuration of the process, from the environment and the TOML file; all errors are reported together.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use switchyard_common::broker::BrokerConfig;
use switchyard_common::config::{ConfigErrors, Key, Loader, env_key, key};
use switchyard_common::contract::ids::{AgentId, AgentRef, PoolId};
use switchyard_common::contract::topology::Namespace;
use switchyard_common::shutdown::DEFAULT_DRAIN_SECONDS;
use switchyard_common::tls::TlsFiles;

use super::handlers::HandlerSpecs;
use crate::agent::AgentConfig;

/// The pool unless configured.
const POOL_DEFAULT: &str = "default";
/// Variables of the dispatcher and of the local tools, which may stand in the same environment.
const OTHERS_VARIABLES: [&str; 34] = [
    "SWITCHYARD_HTTP_TOKEN",
    "SWITCHYARD_HTTP_TOKEN_FILE",
    "SWITCHYARD_BROKER_ADMIN_URL",
    "SWITCHYARD_BROKER_ADMIN_URL_FILE",
    "SWITCHYARD_RABBITMQCTL",
    "SWITCHYARD_LOCAL_AMQPS_PORT",
    "SWITCHYARD_LOCAL_TLS_DIR",
    "SWITCHYARD_LOCAL_MANAGEMENT",
    "SWITCHYARD_LOCAL_BROKER_NODES",
    "SWITCHYARD_AMQP_URLS",
    "SWITCHYARD_HANDLERS",
    "SWITCHYARD_CONFIG",
    "SWITCHYARD_LOG",
    "SWITCHYARD_DATABASE_URL",
    "SWITCHYARD_DATABASE_URL_FILE",
    "SWITCHYARD_DATABASE_CA_FILE",
    "SWITCHYARD_DATABASE_CERT_FILE",
    "SWITCHYARD_DATABASE_KEY_FILE",
    "SWITCHYARD_DATABASE_CONNECTIONS_MAX",
    "SWITCHYARD_HTTP_LISTEN",
    "SWITCHYARD_HTTP_TOKENS_FILE",
    "SWITCHYARD_LOCAL_DIR",
    "SWITCHYARD_ACTOR",
    "SWITCHYARD_ALLOW_NEW_POOLS",
    "SWITCHYARD_HOLD_EVENTS_FOR",
    "SWITCHYARD_REPLY_TO_PREFIX",
    "SWITCHYARD_KEEP_FINISHED_FOR",
    "SWITCHYARD_KEEP_AUDIT_FOR",
    "SWITCHYARD_NOTIFICATIONS",
    "SWITCHYARD_AGENT_RETIRE_AFTER",
    "SWITCHYARD_RUN_TIMEOUT_GRACE",
    "SWITCHYARD_ARTIFACTS_TOTAL_MAX",
    "SWITCHYARD_SIM_SEED",
    "SWITCHYARD_SIM_SEEDS",
];

/// Everything that the process needs to run.
#[derive(Debug, Clone)]
pub struct ProcessConfig {
    /// The agent.
    pub agent: AgentConfig,
    /// Its handlers, not yet made.
    pub handlers: HandlerSpecs,
    /// Where programs have their working directories.
    pub work_dir: PathBuf,
    /// Time from the first signal to the end.
    pub drain_for: Duration,
}

impl ProcessConfig {
    /// Reads the configuration of this process.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn from_process(file: Option<&Path>) -> Result<Self, ConfigErrors> {
        let text = match file.map(|path| (path, std::fs::read_to_string(path))) {
            None => None,
            Some((_, Ok(text))) => Some(text),
            Some((path, Err(error))) => {
                let wrong = format!("cannot read the configuration file {}: {error}", path.display());
                return Err(ConfigErrors(vec![wrong]));
            }
        };
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let base_dir = file.and_then(Path::parent).unwrap_or(Path::new("."));
        // Handlers run in directories of their own: what is relative to the file must not be read relative to those.
        let base_dir = std::path::absolute(base_dir).unwrap_or_else(|_| base_dir.to_path_buf());
        Self::read(Loader::new(variables, text.as_deref()), &base_dir, host_name())
    }

    /// Reads a configuration. Relative commands of handlers are relative to `base_dir`; `host` names the agent where nothing else does.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn read(mut loader: Loader, base_dir: &Path, host: Option<String>) -> Result<Self, ConfigErrors> {
        loader.also_known(OTHERS_VARIABLES);
        let url = loader.required_secret(env_key("SWITCHYARD_AMQP_URL"));
        let tls = TlsFiles::for_broker(&mut loader);
        let pool = pool(&mut loader);
        let pod = loader.optional::<String>(env_key("POD_NAME"));
        let agent_id = agent_id(&mut loader, pod.clone().or_else(|| host.clone()));
        let handlers = HandlerSpecs::read(&mut loader, base_dir);
        let node = loader.optional(env_key("NODE_NAME"));
        let namespace = namespace(&mut loader);
        let drain_for = loader
            .value(key("drain_for", "SWITCHYARD_DRAIN_FOR"), Duration::from_secs(DEFAULT_DRAIN_SECONDS));
        let work_dir = loader.optional::<PathBuf>(key("work_dir", "SWITCHYARD_WORK_DIR"));
        // Read before anything that is missing ends the reading, so that every error is told at once.
        let times = Times::read(&mut loader);
        let http_listen = loader.optional::<SocketAddr>(key("http_listen", "SWITCHYARD_AGENT_HTTP_LISTEN"));
        let agent = pool.zip(agent_id).map(|(pool, agent)| {
            let agent = AgentRef { pool, agent };
            let broker = BrokerConfig {
                tls: tls.clone(),
                ..BrokerConfig::new(url.clone().unwrap_or_default(), agent.to_string())
            };
            let pod = pod.or(host).unwrap_or_else(|| agent.agent.to_string());
            times.apply(AgentConfig { namespace, pod, node, http_listen, ..AgentConfig::new(broker, agent) })
        });
        if let (Some(config), Some(handlers)) = (&agent, &handlers) {
            for error in problems(config, handlers, url.is_some()) {
                loader.error(AGENT, &error);
            }
        }
        let (_, agent, handlers) = loader.finish((url, agent, handlers))?;
        let work_dir = work_dir.unwrap_or_else(|| default_work_dir(&agent.agent));
        Ok(Self { agent, handlers, work_dir, drain_for })
    }
}

/// Where errors that concern several values are said to be.
const AGENT: Key = env_key("the agent");

/// The numbers of an agent.
struct Times {
    slots: u32,
    credit: u32,
    max_exclusive: u32,
    heartbeat: Option<Duration>,
    lost_timeout: Option<Duration>,
    start_window: Option<Duration>,
}

impl Times {
    fn read(loader: &mut Loader) -> Self {
        let slots = loader.value(key("slots", "SWITCHYARD_SLOTS"), crate::agent::SLOTS_DEFAULT);
        Self {
            slots,
            // As many waiting as running: else a slot's round trip bounds its throughput (protocol B10).
            credit: loader.value(key("credit", "SWITCHYARD_CREDIT"), slots),
            max_exclusive: loader
                .value(key("max_exclusive", "SWITCHYARD_MAX_EXCLUSIVE"), crate::agent::MAX_EXCLUSIVE_DEFAULT),
            heartbeat: loader.optional(key("heartbeat", "SWITCHYARD_HEARTBEAT")),
            lost_timeout: loader.optional(key("lost_after", "SWITCHYARD_AGENT_LOST_AFTER")),
            start_window: loader.optional(key("start_window", "SWITCHYARD_START_WINDOW")),
        }
    }

    fn apply(self, defaults: AgentConfig) -> AgentConfig {
        AgentConfig {
            slots: self.slots,
            credit: self.credit,
            max_exclusive: self.max_exclusive,
            heartbeat: self.heartbeat.unwrap_or(defaults.heartbeat),
            lost_timeout: self.lost_timeout.unwrap_or(defaults.lost_timeout),
            start_window: self.start_window.unwrap_or(defaults.start_window),
            ..defaults
        }
    }
}

fn problems(config: &AgentConfig, handlers: &HandlerSpecs, url_is_set: bool) -> Vec<String> {
    let mut settings = config.settings(&crate::handler::Handlers::new());
    settings.handlers = handlers.names();
    settings.kill_grace = handlers.kill_grace_max();
    let mut wrong: Vec<String> =
        settings.check().err().unwrap_or_default().iter().map(ToString::to_string).collect();
    if url_is_set {
        wrong.extend(config.broker.check().err().map(|error| error.to_string()));
    }
    wrong
}

fn pool(loader: &mut Loader) -> Option<PoolId> {
    let place = key("pool", "SWITCHYARD_POOL");
    let text = loader.value(place, POOL_DEFAULT.to_owned());
    told(loader, place, PoolId::new(text))
}

fn agent_id(loader: &mut Loader, default: Option<String>) -> Option<AgentId> {
    let place = key("agent_id", "SWITCHYARD_AGENT_ID");
    match loader.optional::<String>(place).or(default) {
        Some(text) => {
            let id = AgentId::new(&text).map_err(|error| format!("{text:?} {error}"));
            told(loader, place, id)
        }
        None => {
            loader.error(place, "is needed: there is neither POD_NAME nor a host name to take it from");
            None
        }
    }
}

fn namespace(loader: &mut Loader) -> Namespace {
    let place = key("namespace", "SWITCHYARD_NAMESPACE");
    let named = loader.optional::<String>(place).map(Namespace::new);
    named.and_then(|named| told(loader, place, named)).unwrap_or_default()
}

fn told<T, E: std::fmt::Display>(loader: &mut Loader, place: Key, value: Result<T, E>) -> Option<T> {
    value.map_err(|error| loader.error(place, &error.to_string())).ok()
}

fn host_name() -> Option<String> {
    nix::unistd::gethostname().ok()?.into_string().ok()
}

/// One per agent, so that two agents of one machine do not meet.
fn default_work_dir(agent: &AgentRef) -> PathBuf {
    std::env::temp_dir().join(format!("switchyard-agent-{}-{}", agent.pool, agent.agent))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../../docs/configuration.md");

    fn errors(variables: &[(&str, &str)], toml: &str) -> Vec<String> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let read = ProcessConfig::read(Loader::new(variables, Some(toml)), Path::new("/"), None);
        read.err().map(|errors| errors.0).unwrap_or_default()
    }

    #[test]
    fn no_variable_of_the_page_on_configuration_is_unknown_here() {
        for name in PAGE.split('`').filter(|word| word.starts_with("SWITCHYARD_")) {
            let errors = errors(&[(name, "?")], "");
            assert!(!errors.iter().any(|error| error.starts_with("unknown")), "{name}: {errors:?}");
        }
    }

    #[test]
    fn the_page_on_configuration_shows_handlers_that_can_be_read() {
        let toml = PAGE.rsplit("```toml\n").next().and_then(|rest| rest.split("```").next()).unwrap();
        let variables = [("SWITCHYARD_AMQP_URL", "amqp://u:p@h"), ("SWITCHYARD_AGENT_ID", "worker-0")];
        assert_eq!(errors(&variables, toml), Vec::<String>::new());
    }
}
