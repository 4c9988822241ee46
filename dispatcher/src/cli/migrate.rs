//! `dispatcher migrate`.

use std::process::ExitCode;

use uuid::Uuid;

use crate::config::Config;
use crate::store::{Db, DbConfig, migrate};

pub(super) async fn run() -> anyhow::Result<ExitCode> {
    let config = Config::from_process()?;
    let db = Db::new(&DbConfig {
        url: config.database_url.expose().to_owned(),
        connections_max: 1,
        replica: Uuid::new_v4(),
    })?;
    let applied = migrate::migrate(&db).await?;
    if applied.is_empty() {
        tracing::info!(schema = migrate::newest_known(), "the schema is up to date");
    }
    for migration in applied {
        tracing::info!(version = migration.version, name = migration.name, "migration applied");
    }
    Ok(ExitCode::SUCCESS)
}
