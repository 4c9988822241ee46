//! What commands beside `serve` need: a database connection, and the name of whoever acts.

use uuid::Uuid;

use crate::config::{Config, Needs};
use crate::store::Db;

/// Connections that one command may use.
const CONNECTIONS_MAX: usize = 2;

/// A small pool for one command.
pub(super) fn database() -> anyhow::Result<Db> {
    let config = Config::from_process(Needs::Database)?;
    database_of(&config)
}

/// A small pool for one command, with a configuration that was read already.
pub(super) fn database_of(config: &Config) -> anyhow::Result<Db> {
    Ok(Db::new(&config.database(CONNECTIONS_MAX, Uuid::new_v4()))?)
}

/// Who acts: as given, else the user's name. Every act is audited, so somebody must be named.
pub(super) fn actor(given: Option<&str>) -> anyhow::Result<String> {
    let name = given
        .map(ToOwned::to_owned)
        .or_else(|| std::env::var("SUDO_USER").ok())
        .or_else(|| std::env::var("USER").ok());
    match name.filter(|name| !name.trim().is_empty()) {
        Some(name) => Ok(name),
        None => anyhow::bail!("say who acts with --by NAME: it is kept in the audit log"),
    }
}
