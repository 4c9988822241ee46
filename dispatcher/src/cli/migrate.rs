//! `dispatcher migrate`.

use std::process::ExitCode;

use uuid::Uuid;

use crate::config::{Config, Needs};
use crate::store::{Db, migrate};

pub(super) async fn run() -> anyhow::Result<ExitCode> {
    let config = Config::from_process(Needs::Database)?;
    let db = Db::new(&config.database(1, Uuid::new_v4()))?;
    let applied = migrate::migrate(&db).await?;
    if applied.is_empty() {
        tracing::info!(schema = migrate::newest_known(), "the schema is up to date");
    }
    for migration in applied {
        tracing::info!(version = migration.version, name = migration.name, "migration applied");
    }
    Ok(ExitCode::SUCCESS)
}
