//! The migrated database that test databases are copied from: made once per server and set of migrations, because migrating each
//! one would take longer than most tests.

use std::path::Path;

use switchyard_common::contract::ids::Digest;
use switchyard_dispatcher::store::migrate;
use tokio_postgres::{Client, NoTls};

use super::database::{connect, with_database};

/// The migrations, by which a template is known: another schema is another template.
const MIGRATIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../dispatcher/migrations");

/// The name of the template on this server, made now if nobody has made it yet.
pub(super) async fn ready(server: &str) -> String {
    let name = format!("switchyard_template_{}", fingerprint());
    let (client, connection) =
        tokio_postgres::connect(server, NoTls).await.expect("the database server can be reached");
    let work = async {
        // Tests run at the same time: one makes the template, the others wait for it.
        lock(&client, "pg_advisory_lock").await;
        if !exists(&client, &name).await {
            make(&client, server, &name).await;
        }
        lock(&client, "pg_advisory_unlock").await;
        drop(client);
    };
    let ((), ended) = futures::join!(work, connection);
    ended.expect("the connection to the database server ends in order");
    name
}

async fn lock(client: &Client, function: &str) {
    let sql = format!("SELECT {function}(hashtext('switchyard-test-template'))");
    client.execute(&sql, &[]).await.expect("the lock of the template");
}

async fn exists(client: &Client, name: &str) -> bool {
    let sql = "SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)";
    client.query_one(sql, &[&name]).await.expect("the list of databases").get(0)
}

/// Made under another name, so that a template that was cut off in the middle is never taken for one.
async fn make(client: &Client, server: &str, name: &str) {
    let making = format!("{name}_making");
    for sql in [format!("DROP DATABASE IF EXISTS {making} WITH (FORCE)"), format!("CREATE DATABASE {making}")]
    {
        client.batch_execute(&sql).await.expect("a database for the template");
    }
    let db = connect(&with_database(server, &making));
    migrate::migrate(&db).await.expect("the migrations apply to an empty database");
    drop(db);
    // Its connections close in the background, and a database that is in use can be neither renamed nor copied.
    let busy = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1 AND usename = current_user";
    while client.query_one(busy, &[&making]).await.expect("the list of connections").get::<_, i64>(0) > 0 {
        tokio::task::yield_now().await;
    }
    let rename = format!("ALTER DATABASE {making} RENAME TO {name}");
    client.batch_execute(&rename).await.expect("the template gets its name");
}

fn fingerprint() -> String {
    let mut files: Vec<_> = std::fs::read_dir(Path::new(MIGRATIONS))
        .expect("the folder of migrations")
        .map(|entry| entry.expect("a migration").path())
        .collect();
    files.sort();
    let text: Vec<u8> = files.iter().flat_map(|file| std::fs::read(file).expect("a migration")).collect();
    hex::encode(&Digest::of(&text).as_bytes()[..8])
}
