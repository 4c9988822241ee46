//! `dispatcher migrate` beside a dispatcher that works, and beside another `migrate`.

use std::time::Duration;

use switchyard_dispatcher::store::view::{TaskFilter, tasks};
use switchyard_dispatcher::store::{StoreError, migrate};
use switchyard_tests::harness::database::TestDatabase;
use switchyard_tests::harness::seed::{Seed, TaskSeed};
use switchyard_tests::harness::wait::{Look, until};

/// The migration that looks at all rows of `tasks`.
const VALIDATES: i32 = 6;
/// Longer than every statement of the dispatcher may wait for a lock, in seconds.
const LONGER_THAN_A_LOCK_WAIT_SECONDS: f64 = 10.5;

/// A database that lacks the migration which validates, and those after it.
async fn not_validated() -> TestDatabase {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    seed.execute("DELETE FROM refinery_schema_history WHERE version >= $1", &[&VALIDATES]).await;
    seed.execute("DROP TABLE event_trials", &[]).await;
    seed.execute("CREATE UNIQUE INDEX attempts_one_open ON attempts (task_id) WHERE ended_at IS NULL", &[])
        .await;
    seed.execute("DROP INDEX attempts_one_open_of_task", &[]).await;
    database
}

/// What such a database lacks.
fn lacking() -> Vec<i32> {
    (VALIDATES..=migrate::newest_known()).collect()
}

#[tokio::test]
async fn every_constraint_is_validated_once_all_migrations_have_run() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    let left = "SELECT coalesce(string_agg(conname, ' '), '') FROM pg_constraint WHERE NOT convalidated";
    assert_eq!(seed.value::<String>(left, &[]).await, "");
}

#[tokio::test]
async fn who_asks_a_database_that_was_never_migrated_is_told_to_migrate() {
    let database = TestDatabase::new().await;
    Seed::new(&database.db).execute("DROP TABLE tasks CASCADE", &[]).await;
    let error = tasks(&database.db, &TaskFilter::default()).await.unwrap_err();
    assert!(error.to_string().contains("run `dispatcher migrate`"), "{error}");
}

#[tokio::test]
async fn the_rows_of_tasks_are_looked_at_beside_writers() {
    let database = not_validated().await;
    let seed = Seed::new(&database.db);
    seed.workspace("w", "default").await;
    seed.task(&TaskSeed::new("t", "w", "plan")).await;
    let writer = database.another_replica().connection().await.unwrap();
    writer.batch_execute("BEGIN; UPDATE tasks SET status = status").await.unwrap();
    let applied = migrate::migrate(&database.db).await.unwrap();
    assert_eq!(applied.iter().map(|one| one.version).collect::<Vec<_>>(), lacking());
    writer.batch_execute("COMMIT").await.unwrap();
}

#[tokio::test]
async fn a_migration_that_finds_a_table_in_use_gives_way_says_so_and_can_be_run_again() {
    let database = not_validated().await;
    let holder = database.another_replica().connection().await.unwrap();
    holder.batch_execute("BEGIN; LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let error = migrate::migrate(&database.db).await.unwrap_err();
    assert!(matches!(error, StoreError::Transient(_)), "{error:?}");
    let said = error.to_string();
    assert!(said.contains("in use by another transaction") && said.contains("migrate` again"), "{said}");
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(migrate::migrate(&database.db).await.unwrap().len(), lacking().len());
    assert_eq!(migrate::migrate(&database.db).await.unwrap(), []);
}

#[tokio::test]
async fn who_settles_an_attempt_while_its_index_is_made_is_not_stopped() {
    let database = not_validated().await;
    let seed = Seed::new(&database.db);
    seed.workspace("w", "default").await;
    let agent = seed.agent("default", "worker-0").await;
    let task = seed.task(&TaskSeed::new("t", "w", "plan")).await;
    seed.assign(&task, &agent).await;
    let settles = database.another_replica().connection().await.unwrap();
    settles.batch_execute("BEGIN; SELECT 1 FROM attempts FOR NO KEY UPDATE").await.unwrap();
    let migrates = migrate::migrate(&database.db);
    let goes_on = async {
        until("the migration waits for the table", Duration::from_secs(60), async || {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'relation'";
            let waits: i64 = settles.query_one(sql, &[]).await?.get(0);
            Ok(Look::holds(waits == 1, || format!("{waits}")))
        })
        .await
        .unwrap();
        settles.batch_execute("UPDATE attempts SET unlisted = 1; COMMIT").await.unwrap();
    };
    let (applied, ()) = futures::join!(migrates, goes_on);
    assert_eq!(applied.unwrap().len(), lacking().len());
}

#[tokio::test]
async fn a_second_migrate_waits_for_the_first_however_long_it_takes() {
    let database = not_validated().await;
    let first = database.another_replica().connection().await.unwrap();
    first.execute("SELECT pg_advisory_lock(hashtext('switchyard-migrate'))", &[]).await.unwrap();
    let second = migrate::migrate(&database.db);
    let first_ends = async {
        until("the second has waited for long", Duration::from_secs(120), async || {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory' \
                AND clock_timestamp() - query_start > $1::double precision * interval '1 second'";
            let waits: i64 = first.query_one(sql, &[&LONGER_THAN_A_LOCK_WAIT_SECONDS]).await?.get(0);
            Ok(Look::holds(waits == 1, || format!("{waits}")))
        })
        .await
        .unwrap();
        first.execute("SELECT pg_advisory_unlock(hashtext('switchyard-migrate'))", &[]).await.unwrap();
    };
    let (applied, ()) = futures::join!(second, first_ends);
    assert_eq!(applied.unwrap().len(), lacking().len());
}
