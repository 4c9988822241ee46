//! How statements travel and how the database finds rows, on a real PostgreSQL.

use switchyard_dispatcher::store::StoreError;
use switchyard_dispatcher::store::plans::{self, Batched};
use switchyard_tests::harness::database::TestDatabase;
use switchyard_tests::harness::seed::Seed;

/// Enough for answers to arrive in between more than once.
const ROUNDS: usize = 200;
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
    for (number, Batched { what, sql, indexes }) in plans::statements().into_iter().enumerate() {
        let parameters = connection.prepare(&sql).await.unwrap().params().len();
        connection.batch_execute(&format!("PREPARE batched_{number} AS {sql}")).await.unwrap();
        let nulls = vec!["NULL"; parameters].join(", ");
        let explain = format!("EXPLAIN (VERBOSE) EXECUTE batched_{number}({nulls})");
        let plan = connection.query(&explain, &[]).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
        let whole = || format!("as planned:\n{}", plan.join("\n"));
        // Not by a bitmap: it visits again and again what has left a partial index since the last vacuum.
        let by_index = |line: &str| indexes.iter().any(|index| line.contains(&format!("using {index} on")));
        let reads = |line: &&String| {
            ["Index Scan", "Index Only Scan"].iter().any(|scan| line.contains(scan))
                || (line.contains("Seq Scan on ") && !line.contains(" public.fence "))
        };
        let astray = plan.iter().filter(reads).find(|line| !by_index(line));
        assert_eq!(astray, None, "what {what} finds rows in another way, {}", whole());
        assert!(plan.iter().any(|line| by_index(line)), "what {what} finds no rows by an index, {}", whole());
        let compares = |line: &&String| line.contains("Join Filter:") && line.contains(".task_id");
        let keyed = |line: &str| line.contains("Join Filter: (a.task_id = t.task_id)");
        let compared = plan.iter().filter(compares).find(|line| !keyed(line));
        assert_eq!(compared, None, "what {what} compares each with each, {}", whole());
        let walks = plan.iter().find(|line| line.contains("(SubPlan"));
        assert_eq!(walks, None, "what {what} walks through a list, {}", whole());
    }
}
