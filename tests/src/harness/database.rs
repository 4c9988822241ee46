//! A PostgreSQL database for one test: made, migrated, and dropped when the test ends, however it ends.
//!
//! The server comes from `SWITCHYARD_DATABASE_URL` (start one with `deploy/local/services up`, then
//! `eval "$(deploy/local/services env)"`). Its role must be allowed to create databases.

use switchyard_common::guard::spawn_thread_guarded;
use switchyard_common::tls::TlsFiles;
use switchyard_dispatcher::store::{Db, DbConfig, Plans};
use tokio_postgres::NoTls;
use uuid::Uuid;

/// The variable that names the server.
pub const DATABASE_URL_VARIABLE: &str = "SWITCHYARD_DATABASE_URL";

/// Connections of one test database. Small, because many tests share one server.
const CONNECTIONS_MAX_COUNT: usize = 8;

/// A migrated database that goes with this value: a copy of a [template](super::template).
pub struct TestDatabase {
    /// The store on it, as one replica.
    pub db: Db,
    /// Its address, for a process under test.
    pub url: String,
    name: String,
    server: String,
}

impl TestDatabase {
    /// Makes and migrates a new database.
    ///
    /// # Panics
    /// When the server is not named or cannot be reached: a test that needs it must fail, never be skipped in silence.
    pub async fn new() -> Self {
        Self::on(server_url()).await
    }

    /// Makes and migrates a new database on the server of this URL.
    ///
    /// # Panics
    /// When the server cannot be reached.
    pub async fn on(server: String) -> Self {
        let template = super::template::ready(&server).await;
        let name = format!("switchyard_test_{}", Uuid::new_v4().simple());
        execute(&server, &format!("CREATE DATABASE {name} TEMPLATE {template}"))
            .await
            .unwrap_or_else(|error| panic!("cannot create a test database: {error}"));
        let url = with_database(&server, &name);
        Self { db: connect(&url), url, name, server }
    }

    /// The same database seen by another replica.
    #[must_use]
    pub fn another_replica(&self) -> Db {
        connect(&self.url)
    }

    /// The same database seen by a replica that tells upstream nothing.
    #[must_use]
    pub fn silent_replica(&self) -> Db {
        connect_as(&self.url, false)
    }

    /// As [`another_replica`](Self::another_replica), by another way to the server.
    #[must_use]
    pub fn another_replica_by(&self, url: &str) -> Db {
        connect(url)
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        // A thread of its own, because the test's runtime may be the one that unwinds.
        let (server, sql) =
            (self.server.clone(), format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        let dropped = spawn_thread_guarded("drop-test-database", move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(execute(&server, &sql)).map_err(std::io::Error::other)
        });
        match dropped.map(std::thread::JoinHandle::join) {
            Ok(Ok(Ok(Ok(())))) => {}
            other => tracing::warn!(name = self.name, ?other, "a test database was left behind"),
        }
    }
}

fn server_url() -> String {
    std::env::var(DATABASE_URL_VARIABLE).unwrap_or_else(|_| {
        panic!(
            "{DATABASE_URL_VARIABLE} is not set: this test needs PostgreSQL. Run `deploy/local/services up` and \
             `eval \"$(deploy/local/services env)\"`, or name a server of your own"
        )
    })
}

/// The same server and user with another database.
pub(super) fn with_database(url: &str, name: &str) -> String {
    let (base, options) = url.split_once('?').map_or((url, None), |(base, options)| (base, Some(options)));
    let authority_from = base.find("://").map_or(0, |at| at + 3);
    let end = base[authority_from..].find('/').map_or(base.len(), |at| authority_from + at);
    match options {
        Some(options) => format!("{}/{name}?{options}", &base[..end]),
        None => format!("{}/{name}", &base[..end]),
    }
}

pub(super) fn connect(url: &str) -> Db {
    connect_as(url, true)
}

fn connect_as(url: &str, notifies: bool) -> Db {
    let config = DbConfig {
        url: url.to_owned(),
        tls: TlsFiles::default(),
        connections_max: CONNECTIONS_MAX_COUNT,
        replica: Uuid::new_v4(),
        plans: Plans::ByIndex,
        notifies,
    };
    Db::new(&config).expect("the URL of the test database is well formed")
}

pub(super) async fn execute(url: &str, sql: &str) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let work = async move {
        let result = client.batch_execute(sql).await;
        drop(client);
        result
    };
    let (done, ended) = futures::join!(work, connection);
    done.and(ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_of_a_url_is_replaced() {
        assert_eq!(with_database("postgres://u:p@h:1/main", "t"), "postgres://u:p@h:1/t");
        assert_eq!(
            with_database("postgres://u:p@h:1/main?sslmode=disable", "t"),
            "postgres://u:p@h:1/t?sslmode=disable"
        );
        assert_eq!(with_database("postgres://u:p@h:1", "t"), "postgres://u:p@h:1/t");
    }
}
