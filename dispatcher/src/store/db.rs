//! Connections and transactions.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime, Timeouts,
};
use futures::future::BoxFuture;
use tokio::sync::{Mutex, MutexGuard};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Connection, Row, Socket};
use uuid::Uuid;

use switchyard_common::tls::TlsFiles;

use super::error::StoreError;
use super::steps::StepsCache;
use super::tls::{self, DatabaseStream, DatabaseTls};

/// Longest wait for a free connection, and for a new one to be made.
const CONNECTION_WAIT_MAX: Duration = Duration::from_secs(5);
/// Longest time from the pool's question whether a connection's plans are good to its note that it was taken: nothing happens in between.
const OUTGROWN_MARGIN: Duration = Duration::from_millis(100);
/// Times that a transaction is repeated when it meets another one.
const CONTENTION_REPEATS_MAX: u32 = 20;

/// The other half of a client outside the pool.
pub(super) type Alone = Connection<Socket, DatabaseStream<Socket>>;

/// How to reach the database.
#[derive(Clone)]
pub struct DbConfig {
    /// A `postgresql://` URL; holds the password.
    pub url: String,
    /// Certificates: with any of them, only TLS will do.
    pub tls: TlsFiles,
    /// Most connections.
    pub connections_max: usize,
    /// This replica; stamped on what it publishes.
    pub replica: Uuid,
    /// How statements find their rows.
    pub plans: Plans,
    /// Whether upstream is told of what becomes of tasks and letters.
    pub notifies: bool,
}

/// How the database may find rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plans {
    /// By index only, for the dispatcher's own work: every batch names its rows. A plan that was made while a table was small and kept
    /// for a prepared statement would otherwise read the whole table until its rows are counted again; where it has counted none, it
    /// reads a whole index, for which see [`growth`](super::growth).
    ByIndex,
    /// As the database sees fit, for people's questions and the audit.
    Free,
}

impl Plans {
    const fn options(self) -> &'static str {
        match self {
            // What is switched off counts as very dear, which would have every such plan compiled: hence no JIT. One plan per statement
            // and connection: no parameter would make for a better one, and planning costs as much as a small batch. No bitmaps: a scan
            // that makes one visits whatever has left a partial index since the last vacuum again and again, where an index scan marks
            // it and passes over it.
            Self::ByIndex => {
                " -c jit=off -c enable_seqscan=off -c enable_bitmapscan=off -c enable_hashjoin=off -c enable_mergejoin=off \
                 -c plan_cache_mode=force_generic_plan"
            }
            Self::Free => "",
        }
    }
}

/// UTC everywhere (incident 62); a stuck lock must not hold a pass for ever.
const OPTIONS: &str =
    "-c TimeZone=UTC -c lock_timeout=10s -c statement_timeout=60s -c idle_in_transaction_session_timeout=60s";

/// The database: a bounded pool of connections.
#[derive(Clone)]
pub struct Db {
    pool: Pool,
    options: Arc<tokio_postgres::Config>,
    tls: DatabaseTls,
    outgrown: Outgrown,
    pub(crate) steps: StepsCache,
    pub(crate) notifies: bool,
    /// This replica.
    pub replica: Uuid,
}

/// When plans were last found to be no good any more.
#[derive(Clone, Default)]
struct Outgrown(Arc<std::sync::Mutex<Option<Instant>>>);

impl Outgrown {
    /// The pool notes the use of a connection a little after it has asked [`hook`](Self::hook): who is asked meanwhile is asked again.
    fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + OUTGROWN_MARGIN);
    }

    /// Whether that was after a connection was last taken out of the pool.
    fn is_after(&self, taken: Instant) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|outgrown| outgrown > taken)
    }

    /// A connection forgets its plans when it is next taken. One that does not answer is closed, and the pool takes another.
    fn hook(self) -> Hook {
        Hook::async_fn(move |client, metrics| {
            let forgets = self.is_after(metrics.recycled.unwrap_or(metrics.created));
            Box::pin(async move {
                if forgets {
                    let forgotten = client.batch_execute("DISCARD PLANS");
                    match tokio::time::timeout(CONNECTION_WAIT_MAX, forgotten).await {
                        Ok(answer) => answer.map_err(HookError::Backend)?,
                        Err(_) => return Err(HookError::message("no answer to DISCARD PLANS")),
                    }
                }
                Ok(())
            })
        })
    }
}

impl Db {
    /// Prepares the pool; connects when first used.
    pub fn new(config: &DbConfig) -> Result<Self, StoreError> {
        let mut options = tls::options(&config.url, &config.tls)?;
        options.application_name("switchyard-dispatcher");
        options.connect_timeout(CONNECTION_WAIT_MAX);
        options.options(format!("{OPTIONS}{}", config.plans.options()));
        let shared = Arc::new(options.clone());
        let tls = DatabaseTls { files: config.tls.clone() };
        let outgrown = Outgrown::default();
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(options, tls.clone(), recycling);
        let pool = Pool::builder(manager)
            .max_size(config.connections_max)
            .runtime(Runtime::Tokio1)
            .pre_recycle(outgrown.clone().hook())
            .timeouts(Timeouts {
                wait: Some(CONNECTION_WAIT_MAX),
                create: Some(CONNECTION_WAIT_MAX),
                recycle: Some(CONNECTION_WAIT_MAX),
            })
            .build()
            .map_err(|error| StoreError::Statement(error.to_string()))?;
        Ok(Self {
            pool,
            options: shared,
            tls,
            outgrown,
            steps: StepsCache::default(),
            notifies: config.notifies,
            replica: config.replica,
        })
    }

    /// Every connection makes its plans anew from its next use on.
    pub(super) fn plan_anew(&self) {
        self.outgrown.now();
    }

    /// A connection outside the pool, whose messages the caller polls.
    pub(super) async fn connect_alone(&self) -> Result<(Client, Alone), StoreError> {
        Ok(self.options.connect(self.tls.clone()).await?)
    }

    /// A connection of the pool.
    pub async fn connection(&self) -> Result<Object, StoreError> {
        Ok(self.pool.get().await?)
    }

    /// Runs `work` in one transaction and commits it; repeats it when it meets another transaction (40P01, 40001).
    ///
    /// ```ignore
    /// db.transaction(|transaction| async move { transaction.execute(SQL, &[]).await })
    /// ```
    pub async fn transaction<T, F, W>(&self, mut work: F) -> Result<T, StoreError>
    where
        F: FnMut(Arc<Transaction>) -> W,
        W: Future<Output = Result<T, StoreError>>,
    {
        let mut repeats = 0;
        loop {
            let transaction = Arc::new(Transaction::begin(self.connection().await?));
            let error = match work(Arc::clone(&transaction)).await {
                Ok(value) => match Transaction::commit(transaction).await {
                    Ok(()) => return Ok(value),
                    Err(error) => error,
                },
                Err(error) => {
                    Transaction::rollback(transaction).await;
                    error
                }
            };
            if !error.is_contention() || repeats >= CONTENTION_REPEATS_MAX {
                return Err(error);
            }
            repeats += 1;
            metrics::counter!("switchyard_store_repeats_total").increment(1);
            tracing::debug!(%error, repeats, "transaction repeated");
        }
    }
}

/// Parameters of a statement.
type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];
/// What the database will say. On the heap: many of them wait together, and the stack of a thread is small.
type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// One transaction on one connection (incident 54). It owns its connection, so that work on it can run in any task; when it is
/// dropped before its end, the connection is closed, which rolls it back and gives its locks free.
///
/// Statements that are begun together, as with [`futures::try_join`], travel together: they are sent in the order in which they were
/// first polled, without waiting for each other's answers, and the database runs them in that order.
pub struct Transaction {
    connection: Option<Object>,
    /// A moment before it began at the database.
    since: tokio::time::Instant,
    /// Whether the transaction has begun at the database. Held by the statement that is about to be sent.
    begun: Mutex<bool>,
}

impl Transaction {
    /// Nothing is sent yet: `BEGIN` travels with the first statement.
    fn begin(connection: Object) -> Self {
        // From here on a drop closes the connection: it may be inside a transaction.
        Self { connection: Some(connection), since: tokio::time::Instant::now(), begun: Mutex::new(false) }
    }

    /// A moment before the transaction's time.
    pub(crate) const fn since(&self) -> tokio::time::Instant {
        self.since
    }

    fn client(&self) -> Result<&Object, StoreError> {
        self.connection.as_ref().ok_or_else(|| StoreError::Statement("the transaction has ended".into()))
    }

    /// Runs a statement, prepared once per connection, and gives its rows.
    pub fn query<'a>(&'a self, sql: &'a str, parameters: Parameters<'a>) -> Answer<'a, Vec<Row>> {
        Box::pin(async move {
            let (client, turn) = (self.client()?, self.begun.lock().await);
            let statement = in_turn(client.prepare_cached(sql).await).await?;
            send(client, turn, client.query(&statement, parameters)).await
        })
    }

    /// Runs a statement that gives one row.
    pub fn query_one<'a>(&'a self, sql: &'a str, parameters: Parameters<'a>) -> Answer<'a, Row> {
        Box::pin(async move {
            let (client, turn) = (self.client()?, self.begun.lock().await);
            let statement = in_turn(client.prepare_cached(sql).await).await?;
            send(client, turn, client.query_one(&statement, parameters)).await
        })
    }

    /// Runs a statement that gives one row or none.
    pub fn query_opt<'a>(&'a self, sql: &'a str, parameters: Parameters<'a>) -> Answer<'a, Option<Row>> {
        Box::pin(async move {
            let (client, turn) = (self.client()?, self.begun.lock().await);
            let statement = in_turn(client.prepare_cached(sql).await).await?;
            send(client, turn, client.query_opt(&statement, parameters)).await
        })
    }

    /// Runs a statement and gives the number of rows that it changed.
    pub fn execute<'a>(&'a self, sql: &'a str, parameters: Parameters<'a>) -> Answer<'a, u64> {
        Box::pin(async move {
            let (client, turn) = (self.client()?, self.begun.lock().await);
            let statement = in_turn(client.prepare_cached(sql).await).await?;
            send(client, turn, client.execute(&statement, parameters)).await
        })
    }

    /// Runs statements without parameters.
    pub fn batch_execute<'a>(&'a self, sql: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let (client, turn) = (self.client()?, self.begun.lock().await);
            send(client, turn, client.batch_execute(sql)).await
        })
    }

    /// The transaction's time, by the database clock.
    pub async fn now(&self) -> Result<DateTime<Utc>, StoreError> {
        Ok(self.query_one("SELECT now()", &[]).await?.get(0))
    }

    /// Commits. The connection goes back to the pool only when the database has said so.
    async fn commit(this: Arc<Self>) -> Result<(), StoreError> {
        let mut transaction = Arc::try_unwrap(this)
            .map_err(|_| StoreError::Statement("the transaction is still in use at its commit".into()))?;
        if *transaction.begun.get_mut() {
            // `COMMIT` alone is answered without an error when a statement has failed, and rolls back.
            transaction.client()?.batch_execute("SELECT 1; COMMIT").await?;
        }
        drop(transaction.connection.take());
        Ok(())
    }

    /// Rolls back; where that fails, the connection is closed, which does the same.
    async fn rollback(this: Arc<Self>) {
        let Ok(mut transaction) = Arc::try_unwrap(this) else { return };
        let begun = *transaction.begun.get_mut();
        let Ok(client) = transaction.client() else { return };
        if !begun || client.batch_execute("ROLLBACK").await.is_ok() {
            drop(transaction.connection.take());
        }
    }
}

/// Sends a statement when it is its turn, with `BEGIN` ahead of it if it is the first, lets the next one go, and waits for the answer.
async fn send<T>(
    client: &Object,
    mut turn: MutexGuard<'_, bool>,
    statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, StoreError> {
    let begins = !std::mem::replace(&mut *turn, true);
    let mut answer = pin!(async {
        if begins {
            // Polled in order, so `BEGIN` is ahead.
            let (_, answer) = futures::try_join!(client.batch_execute("BEGIN"), statement)?;
            return Ok(answer);
        }
        statement.await
    });
    // The client library hands a prepared statement to its connection when it is first polled.
    let first = poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await;
    drop(turn);
    let answer = match first {
        Poll::Ready(answer) => answer,
        Poll::Pending => answer.await,
    };
    in_turn(answer).await
}

/// An answer; one that only says that an earlier statement has failed comes behind that one's. Answers come in order, so the statement
/// that has failed has its own by now, and whoever waits for both asks it first.
async fn in_turn<T>(answer: Result<T, tokio_postgres::Error>) -> Result<T, StoreError> {
    if answer.as_ref().is_err_and(follows_another) {
        tokio::task::yield_now().await;
    }
    Ok(answer?)
}

/// Only says that an earlier statement of the transaction has failed.
fn follows_another(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION)
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            // Out of the pool: dropping the client closes its connection.
            drop(Object::take(connection));
        }
    }
}
