//! A workspace that moves to another pool, against submissions that are on their way, on a real PostgreSQL (protocol H).
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "all of this is tests; clippy exempts only the test functions themselves"
)]

use std::time::Duration;

use serde_json::json;
use switchyard_common::contract::event::EventType;
use switchyard_common::failure::FailureKind;
use switchyard_common::guard::{GuardedTask, spawn_guarded};
use switchyard_dispatcher::intake::command::{Admitted, Verdict};
use switchyard_dispatcher::store::Db;
use switchyard_tests::harness::database::TestDatabase;
use switchyard_tests::harness::events::{admitted, store_one, submission};
use switchyard_tests::harness::seed::Seed;
use switchyard_tests::harness::wait::{Look, until};

const WAIT: Duration = Duration::from_secs(30);

const SHUT: &str = "SELECT pg_advisory_lock(1)";
const OPEN: &str = "SELECT pg_advisory_unlock(1)";

/// Stops every transaction at its first write of a table while somebody has the advisory lock.
async fn stop_at(database: &TestDatabase, write: &str) {
    let sql = format!(
        "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         PERFORM pg_advisory_xact_lock_shared(1); RETURN NEW; END $$; \
         CREATE TRIGGER stop BEFORE {write} FOR EACH ROW EXECUTE FUNCTION stop()"
    );
    database.db.connection().await.unwrap().batch_execute(&sql).await.unwrap();
}

fn begin(db: &Db, event: Admitted) -> GuardedTask<Verdict> {
    let db = db.clone();
    spawn_guarded("store", async move { store_one(&db, event).await })
}

async fn end(task: GuardedTask<Verdict>) -> Verdict {
    let ended = tokio::time::timeout(WAIT, task).await.expect("it ends");
    ended.finished().expect("it does not panic")
}

/// Waits until so many transactions wait for a lock, or `task` has ended without waiting.
async fn waiters_or_end(database: &TestDatabase, wanted: i64, task: Option<&GuardedTask<Verdict>>) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    until(format!("{wanted} transactions wait"), WAIT, async || {
        let waiting: i64 = Seed::new(&database.db).value(sql, &[]).await;
        let ended = task.is_some_and(GuardedTask::is_finished);
        Ok(Look::holds(waiting >= wanted || ended, || format!("{waiting} wait")))
    })
    .await
    .unwrap();
}

fn to_pool(pool: &str) -> Admitted {
    admitted(EventType::WorkspaceRegistered, json!({ "workspace_id": "w", "pool": pool }))
}

async fn elsewhere(database: &TestDatabase) -> i64 {
    let sql = "SELECT count(*) FROM tasks t JOIN workspaces w USING (workspace_id) \
        WHERE t.pool_id <> w.pool_id AND t.finished_at IS NULL";
    Seed::new(&database.db).value(sql, &[]).await
}

#[tokio::test]
async fn a_workspace_does_not_move_while_a_submission_of_any_kind_is_on_its_way() {
    for kind in ["plan", "plan_and_apply"] {
        let database = TestDatabase::new().await;
        store_one(&database.db, to_pool("default")).await;
        stop_at(&database, "INSERT ON lanes").await;
        let gate = database.db.connection().await.unwrap();
        gate.execute(SHUT, &[]).await.unwrap();
        // It has read the workspace, and is stopped before its task is there to be seen.
        let submitting = begin(&database.db, submission("t", "w", kind, json!({})));
        waiters_or_end(&database, 1, None).await;
        let moving = begin(&database.another_replica(), to_pool("other"));
        waiters_or_end(&database, 2, Some(&moving)).await;
        gate.execute(OPEN, &[]).await.unwrap();
        let (submitted, moved) = (end(submitting).await, end(moving).await);
        assert!(matches!(submitted, Verdict::Accepted(_)), "{kind}: {submitted:?}");
        assert!(
            matches!(&moved, Verdict::Rejected(why) if why.code == FailureKind::RejectedTransition),
            "{kind}: {moved:?}"
        );
        assert_eq!(elsewhere(&database).await, 0, "{kind}");
    }
}

#[tokio::test]
async fn a_submission_that_meets_a_move_follows_it() {
    let database = TestDatabase::new().await;
    store_one(&database.db, to_pool("default")).await;
    stop_at(&database, "UPDATE ON workspaces").await;
    let gate = database.db.connection().await.unwrap();
    gate.execute(SHUT, &[]).await.unwrap();
    let moving = begin(&database.another_replica(), to_pool("other"));
    waiters_or_end(&database, 1, None).await;
    let submitting = begin(&database.db, submission("t", "w", "plan", json!({ "pool": "other" })));
    waiters_or_end(&database, 2, Some(&submitting)).await;
    gate.execute(OPEN, &[]).await.unwrap();
    let (moved, submitted) = (end(moving).await, end(submitting).await);
    assert!(matches!(moved, Verdict::Accepted(_)), "{moved:?}");
    assert!(matches!(submitted, Verdict::Accepted(_)), "{submitted:?}");
    assert_eq!(elsewhere(&database).await, 0);
}

#[tokio::test]
async fn incident_10_a_plan_is_accepted_while_an_exclusive_task_has_the_workspaces_lock() {
    let database = TestDatabase::new().await;
    store_one(&database.db, to_pool("default")).await;
    let mut connection = database.db.connection().await.unwrap();
    let held = connection.transaction().await.unwrap();
    held.execute("SELECT 1 FROM workspaces FOR NO KEY UPDATE", &[]).await.unwrap();
    let submitting = begin(&database.another_replica(), submission("t", "w", "plan", json!({})));
    assert!(matches!(end(submitting).await, Verdict::Accepted(_)));
    held.rollback().await.unwrap();
}
