//! How statements travel and how the database finds rows, on a real PostgreSQL.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "all of this is tests; clippy exempts only the test functions themselves"
)]

use switchyard_dispatcher::store::StoreError;
use switchyard_dispatcher::store::plans::{self, Batched};
use switchyard_tests::harness::database::TestDatabase;
use switchyard_tests::harness::seed::Seed;

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

#[tokio::test]
async fn the_first_error_of_what_is_begun_together_is_the_one_that_is_told() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    seed.execute("CREATE TABLE small (n integer CHECK (n < 10))", &[]).await;
    let refused = database
        .db
        .transaction(|transaction| async move {
            futures::try_join!(
                transaction.execute("INSERT INTO small VALUES (10)", &[]),
                transaction.query("SELECT n FROM small", &[])
            )
        })
        .await
        .unwrap_err();
    assert!(refused.is_of_the_row(), "not what the transaction failed with: {refused}");
    // The connection is whole again.
    assert_eq!(seed.value::<i64>("SELECT count(*) FROM small", &[]).await, 0);
}

#[tokio::test]
async fn a_transaction_in_which_nothing_is_said_ends_in_peace() {
    let database = TestDatabase::new().await;
    database.db.transaction(|_| async { Ok(()) }).await.unwrap();
    assert_eq!(Seed::new(&database.db).value::<i32>("SELECT 1", &[]).await, 1);
}

/// With plans as they are made while the tables are new and small, which is when a wrong one is kept for the life of a connection.
#[tokio::test]
async fn no_batch_is_compared_with_all_that_is_open_or_with_all_that_is_listed() {
    let database = TestDatabase::new().await;
    let connection = database.db.connection().await.unwrap();
    for (number, Batched { what, sql, indexes }) in plans::statements().into_iter().enumerate() {
        let parameters = connection.prepare(&sql).await.unwrap().params().len();
        connection.batch_execute(&format!("PREPARE batched_{number} AS {sql}")).await.unwrap();
        let nulls = vec!["NULL"; parameters].join(", ");
        let plan =
            connection.query(&format!("EXPLAIN EXECUTE batched_{number}({nulls})"), &[]).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
        let by_index =
            |line: &String| indexes.iter().any(|index| line.contains(&format!("using {index} on")));
        let reads = |line: &&String| line.contains("Scan") && line.contains(" attempts ");
        let astray = plan.iter().filter(reads).find(|line| !by_index(line));
        assert_eq!(astray, None, "what {what} finds attempts in another way:\n{}", plan.join("\n"));
        assert!(plan.iter().any(by_index), "what {what} finds no attempts:\n{}", plan.join("\n"));
        let compares = |line: &&String| line.contains("Join Filter:") && line.contains(" = ");
        let compared = plan.iter().find(compares);
        assert_eq!(compared, None, "what {what} compares each with each:\n{}", plan.join("\n"));
    }
}
