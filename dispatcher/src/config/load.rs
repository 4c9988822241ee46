//! Reading the configuration: environment first, then the TOML file that `SWITCHYARD_CONFIG` names; all errors at once.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use switchyard_common::config::{ByteSize, ConfigErrors, Loader, Secret, env_key, key};
use switchyard_common::contract::limits::ARTIFACTS_TOTAL_MAX_BYTES;
use switchyard_common::contract::topology::Namespace;

use switchyard_common::tls::TlsFiles;

use super::Config;
use super::kinds::kinds;
use crate::api::tokens::Tokens;

/// Variables that agents read: they may stand in the same environment.
const AGENT_VARIABLES: [&str; 22] = [
    "SWITCHYARD_AGENT_HTTP_LISTEN",
    "SWITCHYARD_BROKER_ADMIN_URL",
    "SWITCHYARD_BROKER_ADMIN_URL_FILE",
    "SWITCHYARD_RABBITMQCTL",
    "SWITCHYARD_LOCAL_AMQPS_PORT",
    "SWITCHYARD_LOCAL_TLS_DIR",
    "SWITCHYARD_LOCAL_MANAGEMENT",
    "SWITCHYARD_LOCAL_BROKER_NODES",
    "SWITCHYARD_AMQP_URLS",
    "SWITCHYARD_POOL",
    "SWITCHYARD_AGENT_ID",
    "SWITCHYARD_SLOTS",
    "SWITCHYARD_CREDIT",
    "SWITCHYARD_MAX_EXCLUSIVE",
    "SWITCHYARD_HEARTBEAT",
    "SWITCHYARD_START_WINDOW",
    "SWITCHYARD_WORK_DIR",
    "SWITCHYARD_LOCAL_DIR",
    "SWITCHYARD_SIM_SEED",
    "SWITCHYARD_SIM_SEEDS",
    "SWITCHYARD_ACTOR",
    "SWITCHYARD_HANDLERS",
];

/// What a command connects to: it asks for no other credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Broker and database.
    Both,
    /// The broker alone: whoever publishes must not need the database's password.
    Broker,
    /// The database alone.
    Database,
}

impl Config {
    /// Reads the configuration of this process.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn from_process(needs: Needs) -> Result<Self, ConfigErrors> {
        Self::read_for(needs, Loader::from_process())
    }

    /// Reads the configuration that `loader` has, for a process that needs all of it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(loader: Loader) -> Result<Self, ConfigErrors> {
        Self::read_for(Needs::Both, loader)
    }

    fn read_for(needs: Needs, mut loader: Loader) -> Result<Self, ConfigErrors> {
        loader.also_known(AGENT_VARIABLES);
        let amqp_url = url(&mut loader, "SWITCHYARD_AMQP_URL", needs != Needs::Database);
        let database_url = url(&mut loader, "SWITCHYARD_DATABASE_URL", needs != Needs::Broker);
        let defaults = Self::new(Secret::new(""), Secret::new(""));
        let config = Self {
            amqp_tls: TlsFiles::for_broker(&mut loader),
            database_tls: TlsFiles::for_database(&mut loader),
            namespace: namespace(&mut loader),
            http_listen: loader.value(key("http.listen", "SWITCHYARD_HTTP_LISTEN"), defaults.http_listen),
            http_tokens: tokens(&mut loader),
            database_connections_max: loader.checked(
                key("database.connections_max", "SWITCHYARD_DATABASE_CONNECTIONS_MAX"),
                defaults.database_connections_max,
                |count| if *count >= 4 { Ok(()) } else { Err("must be at least 4".to_owned()) },
            ),
            agent_lost_after: loader.checked(
                key("agents.lost_after", "SWITCHYARD_AGENT_LOST_AFTER"),
                defaults.agent_lost_after,
                |after| {
                    if *after >= Duration::from_secs(1) {
                        Ok(())
                    } else {
                        Err("must be at least 1s".to_owned())
                    }
                },
            ),
            agent_retire_after: loader.checked(
                key("agents.retire_after", "SWITCHYARD_AGENT_RETIRE_AFTER"),
                defaults.agent_retire_after,
                |after| if after.is_zero() { Err("must be more than 0s".to_owned()) } else { Ok(()) },
            ),
            run_timeout_grace: loader.value(
                key("agents.run_timeout_grace", "SWITCHYARD_RUN_TIMEOUT_GRACE"),
                defaults.run_timeout_grace,
            ),
            allow_new_pools: loader
                .value(key("intake.allow_new_pools", "SWITCHYARD_ALLOW_NEW_POOLS"), defaults.allow_new_pools),
            hold_events_for: loader
                .value(key("intake.hold_events_for", "SWITCHYARD_HOLD_EVENTS_FOR"), defaults.hold_events_for),
            artifacts_total_max_bytes: artifacts_limit(&mut loader),
            reply_to_prefix: loader.optional(key("intake.reply_to_prefix", "SWITCHYARD_REPLY_TO_PREFIX")),
            notifications: loader
                .value(key("notifications.enabled", "SWITCHYARD_NOTIFICATIONS"), defaults.notifications),
            keep_finished_for: loader
                .value(key("retention.finished", "SWITCHYARD_KEEP_FINISHED_FOR"), defaults.keep_finished_for),
            keep_audit_for: loader
                .value(key("retention.audit", "SWITCHYARD_KEEP_AUDIT_FOR"), defaults.keep_audit_for),
            drain_for: loader.value(key("drain_for", "SWITCHYARD_DRAIN_FOR"), defaults.drain_for),
            kinds: kinds(&mut loader),
            ..defaults
        };
        if !config.http_listen.ip().is_loopback() && config.http_tokens.is_none() {
            loader.error(
                env_key("SWITCHYARD_HTTP_LISTEN"),
                "can be reached from other machines: name a file with tokens in SWITCHYARD_HTTP_TOKENS_FILE, or listen on 127.0.0.1",
            );
        }
        let (amqp_url, database_url) = loader.finish((amqp_url, database_url))?;
        Ok(Self { amqp_url, database_url, ..config })
    }
}

/// Where a service is; nowhere when it is not given and not needed.
fn url(loader: &mut Loader, name: &'static str, is_needed: bool) -> Option<Secret> {
    let place = env_key(name);
    if is_needed {
        return loader.required_secret(place);
    }
    Some(loader.optional_secret(place).unwrap_or_default())
}

/// A file of tokens, one token by itself, both or none.
fn tokens(loader: &mut Loader) -> Option<Arc<Tokens>> {
    let single = loader.optional_secret(key("http.token", "SWITCHYARD_HTTP_TOKEN"));
    let place = key("http.tokens_file", "SWITCHYARD_HTTP_TOKENS_FILE");
    let file = loader.optional::<PathBuf>(place);
    if single.is_none() && file.is_none() {
        return None;
    }
    Tokens::new(single.as_ref(), file)
        .map(Arc::new)
        .map_err(|error| loader.error(place, &error.to_string()))
        .ok()
}

fn namespace(loader: &mut Loader) -> Namespace {
    let place = key("namespace", "SWITCHYARD_NAMESPACE");
    let Some(text) = loader.optional::<String>(place) else { return Namespace::default() };
    Namespace::new(text).unwrap_or_else(|error| {
        loader.error(place, &error.to_string());
        Namespace::default()
    })
}

fn artifacts_limit(loader: &mut Loader) -> u64 {
    let most = ARTIFACTS_TOTAL_MAX_BYTES as u64;
    let place = key("artifacts.total_max", "SWITCHYARD_ARTIFACTS_TOTAL_MAX");
    let check = |size: &ByteSize| {
        if size.0 <= most { Ok(()) } else { Err(format!("at most {most} bytes are possible")) }
    };
    loader.checked(place, ByteSize(most), check).0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let urls =
            [("SWITCHYARD_AMQP_URL", "amqp://u:p@h"), ("SWITCHYARD_DATABASE_URL", "postgresql://u:p@h/d")];
        urls.iter().chain(pairs).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn nobody_is_asked_for_credentials_that_a_command_does_not_use() {
        let (broker, database) =
            (("SWITCHYARD_AMQP_URL", "amqp://u:p@h"), ("SWITCHYARD_DATABASE_URL", "postgresql://u:p@h/d"));
        let reads = |needs, (name, value): (&str, &str)| {
            Config::read_for(needs, Loader::new([(name.to_owned(), value.to_owned())], None)).is_ok()
        };
        assert!(reads(Needs::Broker, broker) && reads(Needs::Database, database));
        assert!(!reads(Needs::Broker, database) && !reads(Needs::Database, broker));
        assert!(!reads(Needs::Both, broker) && !reads(Needs::Both, database));
    }

    #[test]
    fn off_loopback_the_api_needs_tokens_and_says_so() {
        let listen = |more: &[(&str, &str)]| {
            let pairs = [&[("SWITCHYARD_HTTP_LISTEN", "0.0.0.0:9080")], more].concat();
            Config::read(Loader::new(env(&pairs), None))
        };
        let errors = listen(&[]).unwrap_err().0;
        assert!(errors[0].contains("SWITCHYARD_HTTP_TOKENS_FILE"), "{errors:?}");
        assert!(listen(&[("SWITCHYARD_HTTP_TOKEN", "sesame")]).is_ok());
        let errors = listen(&[("SWITCHYARD_HTTP_TOKENS_FILE", "/does/not/exist")]).unwrap_err().0;
        assert!(errors.iter().any(|error| error.contains("/does/not/exist")), "{errors:?}");
    }

    const PAGE: &str = include_str!("../../../docs/configuration.md");

    #[test]
    fn the_page_on_configuration_shows_a_file_of_the_defaults_with_one_kind() {
        let toml = PAGE.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let mut shown = Config::read(Loader::new(env(&[]), Some(toml))).unwrap();
        let kinds = std::mem::take(&mut shown.kinds);
        let defaults = Config::read(Loader::new(env(&[]), None)).unwrap();
        assert_eq!(format!("{shown:?}"), format!("{defaults:?}"));
        assert_eq!(kinds[0].steps[1].policy, switchyard_common::task::StepPolicy::default());
    }

    #[test]
    fn no_variable_of_the_page_on_configuration_is_unknown_here() {
        for name in PAGE.split('`').filter(|word| word.starts_with("SWITCHYARD_")) {
            let mut loader = Loader::new(env(&[(name, "?")]), None);
            // What a loader over the process's environment takes for known by itself.
            loader.also_known(["SWITCHYARD_CONFIG"]);
            let read = Config::read(loader);
            let errors = read.err().map(|errors| errors.0).unwrap_or_default();
            assert!(!errors.iter().any(|error| error.starts_with("unknown")), "{name}: {errors:?}");
        }
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let loader = Loader::new(
            env(&[
                ("SWITCHYARD_NAMESPACE", "a.b"),
                ("SWITCHYARD_AGENT_LOST_AFTER", "10ms"),
                ("SWITCHYARD_HTTP_LISTN", "x"),
            ]),
            Some("[kinds.broken]\nexclusive = true\nsteps = []\n"),
        );
        let errors = Config::read(loader).unwrap_err().0;
        assert_eq!(errors.len(), 4, "{errors:?}");
    }

    #[test]
    fn a_kind_in_toml_joins_the_built_in_ones() {
        let toml = r#"
            [kinds.deploy]
            exclusive = true
            [[kinds.deploy.steps]]
            name = "roll_out"
            handler = "roll_out"
            repeatable = false
            policy = { run_timeout_ms = 5000 }
        "#;
        let config = Config::read(Loader::new(env(&[]), Some(toml))).unwrap();
        assert_eq!(config.kinds[0].steps[0].policy.run_timeout_ms, 5_000);
        assert_eq!(config.kinds[0].steps[0].policy.max_attempts, 3);
    }
}
