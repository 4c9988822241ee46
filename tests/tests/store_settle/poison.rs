//! Rows that the database refuses, transactions that are cut off, and times.

use std::time::Duration;

use switchyard_common::contract::report::OutcomeEnd;
use switchyard_dispatcher::settle::Settler;
use switchyard_dispatcher::settle::batch::{AfterError, after_error};
use switchyard_dispatcher::store::StoreError;

use crate::world::*;

/// Makes the database refuse one task by a rule that only the test knows.
const REFUSE_T1: &str = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
    RAISE EXCEPTION 'not this one' USING ERRCODE = '22000'; END $$; \
    CREATE TRIGGER refuse BEFORE UPDATE ON tasks FOR EACH ROW WHEN (NEW.task_id = 't1') EXECUTE FUNCTION refuse()";

#[tokio::test]
async fn incident_59_a_poison_row_fails_its_batch_whole_and_is_isolated_alone() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let mut reports = Vec::new();
    for n in 0..3 {
        let (_, claim) = world.assigned(&format!("t{n}"), "plan", &agent).await;
        reports.push(outcome(&agent, &claim, done()));
    }
    world.database.db.connection().await.unwrap().batch_execute(REFUSE_T1).await.unwrap();
    let error = world.try_settle(&reports).await.unwrap_err();
    assert!(matches!(error, StoreError::PoisonRow { .. }), "{error}");
    assert_eq!(world.count("tasks WHERE status = 'succeeded'").await, 0, "all or nothing");
    assert_eq!(after_error(&error, reports.len()), AfterError::Isolate);
    let mut refused = 0;
    for report in &reports {
        if let Err(error) = world.try_settle(std::slice::from_ref(report)).await {
            assert!(matches!(after_error(&error, 1), AfterError::Refuse(_)), "{error}");
            refused += 1;
        }
    }
    assert_eq!((refused, world.count("tasks WHERE status = 'succeeded'").await), (1, 2));
}

#[tokio::test]
async fn incident_55_a_write_that_matches_no_row_is_an_error_and_changes_nothing() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (task, claim) = world.assigned("t", "plan", &agent).await;
    let swallow = "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$; \
        CREATE TRIGGER swallow BEFORE UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION swallow()";
    world.database.db.connection().await.unwrap().batch_execute(swallow).await.unwrap();
    let error = world.try_settle(&[outcome(&agent, &claim, done())]).await.unwrap_err();
    assert!(matches!(error, StoreError::FenceMiss { table: "tasks", matched: 0, expected: 1 }), "{error}");
    assert_eq!(after_error(&error, 1), AfterError::Wait, "it is not the report's fault");
    assert_eq!(world.seed().status(&task).await, "assigned");
    assert_eq!(
        world.count("attempts WHERE ended_at IS NULL").await,
        1,
        "the attempt was rolled back with it"
    );
}

#[tokio::test]
async fn incident_54_a_settle_that_is_cut_off_leaves_no_lock_behind() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (task, claim) = world.assigned("t", "plan", &agent).await;
    let report = outcome(&agent, &claim, done());
    // Held by somebody, so that the settle is cut off while it waits inside its transaction.
    let mut other = world.database.db.connection().await.unwrap();
    let holder = other.transaction().await.unwrap();
    holder.execute("SELECT 1 FROM tasks FOR UPDATE", &[]).await.unwrap();
    let batch = [&report];
    let outcomes = world.outcomes(&world.database.db);
    let cut = tokio::time::timeout(Duration::from_millis(100), outcomes.settle(&batch)).await;
    assert!(cut.is_err(), "it waited for the lock");
    holder.rollback().await.unwrap();
    drop(other);
    // By another replica: its own connections share no transaction with the one that was cut off.
    let elsewhere = world.outcomes(&world.database.another_replica());
    let settled = tokio::time::timeout(Duration::from_secs(5), elsewhere.settle(&batch)).await;
    settled.expect("no lock is in the way").expect("it settles");
    assert_eq!(world.seed().status(&task).await, "succeeded");
    assert_eq!(world.count("pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())").await, 0);
}

#[tokio::test]
async fn incident_62_every_time_that_is_stored_carries_its_zone() {
    let world = World::new().await;
    let naive = "information_schema.columns WHERE table_schema = 'public' AND table_name <> 'refinery_schema_history' \
        AND data_type IN ('timestamp without time zone', 'time without time zone', 'date')";
    assert_eq!(world.count(naive).await, 0);
    let zone: String = world.value("SELECT current_setting('TimeZone')").await;
    assert_eq!(zone, "UTC");
}

#[tokio::test]
async fn times_and_results_that_postgresql_cannot_store_do_not_hold_up_an_outcome() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (task, claim) = world.assigned("t", "plan", &agent).await;
    let end = OutcomeEnd::Succeeded {
        changes: true,
        artifacts: Default::default(),
        result: Some(serde_json::json!({ "nul\0": "\0" })),
    };
    let mut report = outcome(&agent, &claim, end);
    if let switchyard_common::contract::report::ReportBody::Outcome(batch) = &mut report.body {
        batch.outcomes[0].started_at = Some(chrono::DateTime::<chrono::Utc>::MIN_UTC);
        batch.outcomes[0].ended_at = chrono::DateTime::<chrono::Utc>::MAX_UTC;
        batch.outcomes[0].log_lines = u64::MAX;
    }
    world.settle(report).await;
    assert_eq!(world.seed().status(&task).await, "succeeded");
    assert_eq!(
        world.count("attempts WHERE handler_started_at IS NULL AND handler_ended_at IS NULL").await,
        1
    );
}
