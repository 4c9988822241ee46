//! Connections and transactions.

use std::time::Duration;

use deadpool_postgres::{
    Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime, Timeouts, Transaction,
};
use tokio_postgres::NoTls;
use uuid::Uuid;

use super::error::StoreError;
use super::steps::StepsCache;

/// Longest wait for a free connection, and for a new one to be made.
const CONNECTION_WAIT_MAX: Duration = Duration::from_secs(5);
/// Times that a transaction is repeated when it meets another one.
const CONTENTION_REPEATS_MAX: u32 = 20;

/// How to reach the database.
#[derive(Clone)]
pub struct DbConfig {
    /// A `postgresql://` URL; holds the password.
    pub url: String,
    /// Most connections.
    pub connections_max: usize,
    /// This replica; stamped on what it publishes.
    pub replica: Uuid,
}

/// The database: a bounded pool of connections.
#[derive(Clone)]
pub struct Db {
    pool: Pool,
    pub(crate) steps: StepsCache,
    /// This replica.
    pub replica: Uuid,
}

impl Db {
    /// Prepares the pool; connects when first used.
    pub fn new(config: &DbConfig) -> Result<Self, StoreError> {
        let mut options: tokio_postgres::Config = config.url.parse().map_err(|_| {
            StoreError::Statement(
                "the database URL cannot be read: expected postgresql://user:password@host:port/name".into(),
            )
        })?;
        options.application_name("switchyard-dispatcher");
        options.connect_timeout(CONNECTION_WAIT_MAX);
        // UTC everywhere (incident 62); a stuck lock must not hold a pass for ever.
        options.options("-c TimeZone=UTC -c lock_timeout=10s -c statement_timeout=60s -c idle_in_transaction_session_timeout=60s");
        let manager =
            Manager::from_config(options, NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let pool = Pool::builder(manager)
            .max_size(config.connections_max)
            .runtime(Runtime::Tokio1)
            .timeouts(Timeouts {
                wait: Some(CONNECTION_WAIT_MAX),
                create: Some(CONNECTION_WAIT_MAX),
                recycle: Some(CONNECTION_WAIT_MAX),
            })
            .build()
            .map_err(|error| StoreError::Statement(error.to_string()))?;
        Ok(Self { pool, steps: StepsCache::default(), replica: config.replica })
    }

    /// A connection of the pool.
    pub async fn connection(&self) -> Result<Object, StoreError> {
        Ok(self.pool.get().await?)
    }

    /// Runs `work` in one transaction and commits it; repeats it when it meets another transaction (40P01, 40001).
    pub async fn transaction<T, F>(&self, mut work: F) -> Result<T, StoreError>
    where
        F: AsyncFnMut(&Transaction<'_>) -> Result<T, StoreError>,
    {
        let mut repeats = 0;
        loop {
            let result = self.transaction_once(&mut work).await;
            match result {
                Err(error) if error.is_contention() && repeats < CONTENTION_REPEATS_MAX => {
                    repeats += 1;
                    metrics::counter!("switchyard_store_repeats_total").increment(1);
                    tracing::debug!(%error, repeats, "transaction repeated");
                }
                other => return other,
            }
        }
    }

    async fn transaction_once<T, F>(&self, work: &mut F) -> Result<T, StoreError>
    where
        F: AsyncFnMut(&Transaction<'_>) -> Result<T, StoreError>,
    {
        let mut connection = self.connection().await?;
        let transaction = connection.transaction().await?;
        let value = work(&transaction).await?;
        transaction.commit().await?;
        Ok(value)
    }
}
