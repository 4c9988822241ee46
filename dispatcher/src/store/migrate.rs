//! Migrations: run by `dispatcher migrate`, verified by `dispatcher serve`.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

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

/// Longest wait of a migration for the lock of a table, in seconds: whoever needs the table meanwhile waits behind it.
const TABLE_LOCK_WAIT_MAX_SECONDS: u32 = 5;

/// Applies what is missing, each in a transaction of its own, one at a time over all replicas. Idempotent.
///
/// # Errors
/// [`StoreError::Transient`] when a table was not free in time or the database is away: run it again. [`StoreError::Schema`] when a
/// migration cannot be applied. What was applied before stays.
pub async fn migrate(db: &Db) -> Result<Vec<AppliedMigration>, StoreError> {
    // The connection is taken out of the pool and closed at the end, so that neither its session lock nor its limits can leak into
    // other work (incident 54).
    let mut connection = deadpool_postgres::Object::take(db.connection().await?);
    wait_for_turn(&connection).await?;
    let report =
        embedded::migrations::runner().run_async(&mut *connection).await.map_err(|error| failed(&error))?;
    Ok(report
        .applied_migrations()
        .iter()
        .map(|applied| AppliedMigration { version: applied.version(), name: applied.name().to_owned() })
        .collect())
}

/// Two `migrate` at once wait for each other, for as long as it takes; a look at all rows of a table may take long as well.
async fn wait_for_turn(client: &Client) -> Result<(), StoreError> {
    const TRY: &str = "SELECT pg_try_advisory_lock(hashtext('switchyard-migrate'))";
    const WAIT: &str = "SELECT pg_advisory_lock(hashtext('switchyard-migrate'))";
    client.batch_execute("SET statement_timeout = 0; SET lock_timeout = 0").await?;
    if !client.query_one(TRY, &[]).await?.get::<_, bool>(0) {
        tracing::info!("another `dispatcher migrate` is at work; this one waits for it");
        client.execute(WAIT, &[]).await?;
    }
    Ok(client.batch_execute(&format!("SET lock_timeout = '{TABLE_LOCK_WAIT_MAX_SECONDS}s'")).await?)
}

fn failed(error: &refinery::Error) -> StoreError {
    let refinery::error::Kind::Connection(what, cause) = error.kind() else {
        return StoreError::Schema(format!("migration failed: {error}"));
    };
    let code = cause.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::code);
    let met = match code {
        Some(code) if *code == SqlState::LOCK_NOT_AVAILABLE => {
            format!("a table was in use by another transaction for {TABLE_LOCK_WAIT_MAX_SECONDS} s")
        }
        Some(code) if *code == SqlState::T_R_DEADLOCK_DETECTED => "it met another transaction".to_owned(),
        Some(_) | None => return StoreError::Schema(format!("migration failed: {error}")),
    };
    StoreError::Transient(format!(
        "{what}: {met}. Nothing of this migration was applied; run `dispatcher migrate` again, at a quieter time if it comes to \
         this again (pg_stat_activity says who holds the table)"
    ))
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
