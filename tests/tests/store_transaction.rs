//! How statements travel and how the database finds rows, on a real PostgreSQL.
#![expect(
    clippy::unwrap_used,
    reason = "all of this is tests; clippy exempts only the test functions themselves"
)]

use switchyard_dispatcher::store::StoreError;
use switchyard_dispatcher::store::growth::{self, Planned};
use switchyard_dispatcher::store::plans::{self, Batched};
use switchyard_tests::harness::database::TestDatabase;
use switchyard_tests::harness::seed::{Seed, TaskSeed};
use tokio_postgres::Client;

/// Enough for answers to arrive in between more than once.
const ROUNDS: usize = 200;
/// As many as fill twice the pages of a table that counts as small, at one or two a page.
const TASKS_IN_MANY_PAGES: usize = 60;
/// Texts that differ, so that each is prepared when it is first run.
const FIRST: &str = "SELECT nextval('turns') AS turn, 'first' AS which";
const SECOND: &str = "SELECT nextval('turns') AS turn, 'second' AS which";
const THIRD: &str = "SELECT nextval('turns') AS turn, 'third' AS which";

#[tokio::test]
async fn statements_that_are_begun_together_run_in_the_order_in_which_they_were_begun() {
    let database = TestDatabase::new().await;
    Seed::new(&database.db).execute("CREATE SEQUENCE turns", &[]).await;
    // The second one is prepared already, the first is not: it must wait for its turn all the same.
    let turns = database
        .db
        .transaction(|transaction| async move {
            let began = transaction.query_one(SECOND, &[]).await?.get::<_, i64>("turn");
            let (first, second, third) = futures::try_join!(
                transaction.query_one(FIRST, &[]),
                transaction.query_one(SECOND, &[]),
                transaction.query_one(THIRD, &[])
            )?;
            Ok([&first, &second, &third].map(|row| row.get::<_, i64>("turn") - began))
        })
        .await
        .unwrap();
    assert_eq!(turns, [1, 2, 3]);
}

#[tokio::test]
async fn what_is_begun_together_belongs_to_the_transaction_from_its_first_statement_on() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    seed.execute("CREATE TABLE kept (n integer)", &[]).await;
    let cut_off = database
        .db
        .transaction(|transaction| async move {
            futures::try_join!(
                transaction.execute("INSERT INTO kept VALUES (1)", &[]),
                transaction.execute("INSERT INTO kept VALUES (2)", &[])
            )?;
            Err::<(), _>(StoreError::Unreadable("the work failed".into()))
        })
        .await;
    assert!(cut_off.is_err());
    assert_eq!(seed.value::<i64>("SELECT count(*) FROM kept", &[]).await, 0);
}

/// On several threads, where answers arrive between one look at a statement and the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_error_of_what_is_begun_together_is_the_one_that_is_told() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    seed.execute("CREATE TABLE small (n integer CHECK (n < 10))", &[]).await;
    for round in 0..ROUNDS {
        let refused = database
            .db
            .transaction(|transaction| async move {
                futures::try_join!(
                    transaction.query("SELECT n FROM small", &[]),
                    transaction.execute("INSERT INTO small VALUES (10)", &[]),
                    transaction.query("SELECT n + 1 FROM small", &[]),
                    transaction.query("SELECT n + 2 FROM small", &[]),
                    transaction.query("SELECT n + 3 FROM small", &[])
                )
            })
            .await
            .unwrap_err();
        assert!(refused.is_of_the_row(), "round {round}: not what the transaction failed with: {refused}");
    }
    // The connection is whole again.
    assert_eq!(seed.value::<i64>("SELECT count(*) FROM small", &[]).await, 0);
}

#[tokio::test]
async fn a_transaction_in_which_a_statement_failed_is_not_committed_even_if_nobody_looked() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    seed.execute("CREATE TABLE small (n integer CHECK (n < 10))", &[]).await;
    let ended = database
        .db
        .transaction(|transaction| async move {
            transaction.execute("INSERT INTO small VALUES (1)", &[]).await?;
            let _not_looked_at = transaction.execute("INSERT INTO small VALUES (10)", &[]).await;
            Ok(())
        })
        .await;
    assert!(ended.is_err(), "it says that it has committed what the database rolled back");
    assert_eq!(seed.value::<i64>("SELECT count(*) FROM small", &[]).await, 0);
}

/// As the database plans them while the tables are new. Where it has counted a few rows, it may well read those.
#[tokio::test]
async fn no_batch_is_compared_with_all_that_is_open_or_with_all_that_is_listed() {
    let database = TestDatabase::new().await;
    let connection = database.db.connection().await.unwrap();
    prepare_batches(&connection).await;
    assert_eq!(astray(&connection).await, Vec::<String>::new());
}

/// The empty tables of an installation that autovacuum has been at were read whole by each batch of its first load, and ever more slowly.
#[tokio::test]
async fn a_plan_that_reads_a_table_whole_because_it_was_empty_is_made_anew_once_it_has_grown() {
    let database = TestDatabase::new().await;
    let (seed, mut planned) = (Seed::new(&database.db), Planned::default());
    let prepared = "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'batched_%'";
    {
        // Of one or two rows a page, so that a few tasks fill many, and left alone by autovacuum.
        let connection = database.db.connection().await.unwrap();
        for table in ["tasks", "attempts"] {
            let set = format!("ALTER TABLE {table} SET (fillfactor = 10, autovacuum_enabled = false)");
            connection.batch_execute(&set).await.unwrap();
            connection.batch_execute(&format!("VACUUM ANALYZE {table}")).await.unwrap();
        }
        prepare_batches(&connection).await;
        assert!(
            !astray(&connection).await.is_empty(),
            "no plan is led astray by an empty table: no need for this"
        );
    }
    growth::look(&database.db, &mut planned).await.unwrap();
    seed.workspace("w", "default").await;
    let agent = seed.agent("default", "worker-0").await;
    for number in 0..TASKS_IN_MANY_PAGES {
        let task = seed.task(&TaskSeed::new(&format!("t-{number}"), "w", "plan")).await;
        seed.assign(&task, &agent).await;
    }
    {
        let connection = database.db.connection().await.unwrap();
        assert!(
            connection.query_one(prepared, &[]).await.unwrap().get::<_, i64>(0) > 0,
            "another connection"
        );
        assert!(!astray(&connection).await.is_empty(), "they are made anew without being told");
    }
    growth::look(&database.db, &mut planned).await.unwrap();
    let connection = database.db.connection().await.unwrap();
    assert!(connection.query_one(prepared, &[]).await.unwrap().get::<_, i64>(0) > 0, "another connection");
    assert_eq!(astray(&connection).await, Vec::<String>::new());
}

async fn prepare_batches(connection: &Client) {
    for (number, Batched { sql, .. }) in plans::statements().into_iter().enumerate() {
        connection.batch_execute(&format!("PREPARE batched_{number} AS {sql}")).await.unwrap();
    }
}

/// What is wrong with the plans of what was prepared.
async fn astray(connection: &Client) -> Vec<String> {
    let mut found = Vec::new();
    for (number, batched) in plans::statements().into_iter().enumerate() {
        let parameters = connection.prepare(&batched.sql).await.unwrap().params().len();
        let nulls = vec!["NULL"; parameters].join(", ");
        let explain = format!("EXPLAIN (VERBOSE) EXECUTE batched_{number}({nulls})");
        let plan = connection.query(&explain, &[]).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
        let told = wrong(&plan, &batched);
        found.extend(told.into_iter().map(|told| format!("{told}, as planned:\n{}", plan.join("\n"))));
    }
    found
}

fn wrong(plan: &[String], Batched { what, indexes, .. }: &Batched) -> Vec<String> {
    let mut found = Vec::new();
    // Not by a bitmap: it visits again and again what has left a partial index since the last vacuum.
    let by_index = |line: &str| indexes.iter().any(|index| line.contains(&format!("using {index} on")));
    let reads = |line: &&String| {
        ["Index Scan", "Index Only Scan"].iter().any(|scan| line.contains(scan))
            || (line.contains("Seq Scan on ") && !line.contains(" public.fence "))
    };
    if let Some(line) = plan.iter().filter(reads).find(|line| !by_index(line)) {
        found.push(format!("{what} finds rows in another way: {line}"));
    }
    if !plan.iter().any(|line| by_index(line)) {
        found.push(format!("{what} finds no rows by an index"));
    }
    let compares = |line: &&String| line.contains("Join Filter:") && line.contains(".task_id");
    let keyed = |line: &str| line.contains("Join Filter: (a.task_id = t.task_id)");
    if let Some(line) = plan.iter().filter(compares).find(|line| !keyed(line)) {
        found.push(format!("{what} compares each with each: {line}"));
    }
    if let Some(line) = plan.iter().find(|line| line.contains("(SubPlan")) {
        found.push(format!("{what} walks through a list: {line}"));
    }
    found
}
