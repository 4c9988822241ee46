//! Migrations: run by `dispatcher migrate`, verified by `dispatcher serve`.

use super::db::Db;
use super::error::StoreError;

mod embedded {
    //! The files of `dispatcher/migrations`, in the program.
    refinery::embed_migrations!("migrations");
}

/// One migration that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedMigration {
    /// Its number.
    pub version: i32,
    /// Its name.
    pub name: String,
}

/// The newest schema that this program knows.
#[must_use]
pub fn newest_known() -> i32 {
    embedded::migrations::runner()
        .get_migrations()
        .iter()
        .map(refinery::Migration::version)
        .max()
        .unwrap_or(0)
}

/// Applies what is missing, one at a time over all replicas. Idempotent.
pub async fn migrate(db: &Db) -> Result<Vec<AppliedMigration>, StoreError> {
    // Two `migrate` at once wait for each other. The connection is taken out of the pool and closed at the end, so that its session
    // lock cannot leak into other work (incident 54).
    let mut connection = deadpool_postgres::Object::take(db.connection().await?);
    connection.execute("SELECT pg_advisory_lock(hashtext('switchyard-migrate'))", &[]).await?;
    let report = embedded::migrations::runner().run_async(&mut *connection).await;
    let report = report.map_err(|error| StoreError::Schema(format!("migration failed: {error}")))?;
    Ok(report
        .applied_migrations()
        .iter()
        .map(|applied| AppliedMigration { version: applied.version(), name: applied.name().to_owned() })
        .collect())
}

/// The schema that the database has; 0 when none.
pub async fn current(db: &Db) -> Result<i32, StoreError> {
    let connection = db.connection().await?;
    let exists: bool =
        connection.query_one("SELECT to_regclass('refinery_schema_history') IS NOT NULL", &[]).await?.get(0);
    if !exists {
        return Ok(0);
    }
    let row =
        connection.query_one("SELECT coalesce(max(version), 0) FROM refinery_schema_history", &[]).await?;
    Ok(row.get(0))
}

/// A replica is not ready on a schema that it does not know (protocol H, schema).
pub async fn verify(db: &Db) -> Result<(), StoreError> {
    let known = newest_known();
    match current(db).await? {
        found if found == known => Ok(()),
        found if found < known => Err(StoreError::Schema(format!(
            "the database has schema {found}, this program needs {known}: run `dispatcher migrate`"
        ))),
        found => Err(StoreError::Schema(format!(
            "the database has schema {found}, newer than the {known} that this program knows: use a newer dispatcher"
        ))),
    }
}
