//! What the schema refuses, whatever the code says: each write breaks one rule and nothing else.
#![expect(
    clippy::unwrap_used,
    reason = "all of this is tests; clippy exempts only the test functions themselves"
)]

use switchyard_tests::harness::database::TestDatabase;
use switchyard_tests::harness::seed::{Seed, TaskSeed};

/// The constraint that refuses `sql`, if one does.
async fn refused_by(database: &TestDatabase, sql: &str) -> Option<String> {
    let connection = database.db.connection().await.unwrap();
    let error = connection.execute(sql, &[]).await.err()?;
    error.as_db_error().and_then(|db| db.constraint()).map(ToOwned::to_owned)
}

#[tokio::test]
async fn the_schema_refuses_a_task_that_no_transition_makes() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    seed.workspace("w", "default").await;
    let agent = seed.agent("default", "worker-0").await;
    seed.task(&TaskSeed::new("exclusive", "w", "plan_and_apply")).await;
    seed.task(&TaskSeed::new("behind", "w", "plan_and_apply")).await;
    let running = seed.task(&TaskSeed::new("running", "w", "plan")).await;
    seed.assign(&running, &agent).await;
    seed.task(&TaskSeed::new("waiting", "w", "plan")).await;
    for (sql, constraint) in [
        ("UPDATE tasks SET position = NULL WHERE task_id = 'exclusive'", "exclusive_stands_in_line"),
        ("UPDATE tasks SET position = NULL WHERE task_id = 'behind'", "exclusive_stands_in_line"),
        (
            "UPDATE tasks SET position = NULL, run_after = now(), holds = true WHERE task_id = 'exclusive'",
            "exclusive_stands_in_line",
        ),
        (
            "UPDATE tasks SET step_started = true WHERE task_id = 'waiting'",
            "step_started_only_when_it_may_have",
        ),
        (
            "UPDATE tasks SET step_started = true, step_repeatable = false WHERE task_id = 'running'",
            "step_started_only_when_it_may_have",
        ),
        (
            "UPDATE tasks SET status = 'running', step_repeatable = false WHERE task_id = 'running'",
            "running_once_only_is_started",
        ),
        (
            "UPDATE tasks SET cancel_requested_at = now(), cancel_requested_by = 'eve', cancel_force = false \
             WHERE task_id = 'waiting'",
            "cancelled_does_not_wait",
        ),
        ("UPDATE agents SET drain_requested_at = now()", "drain_names_its_author"),
        ("UPDATE agents SET retire_requested_at = now()", "retirement_names_its_author"),
        ("UPDATE agents SET retired_at = now()", "retired_is_not_live"),
        ("UPDATE agent_sessions SET terminated_at = now()", "termination_names_its_author"),
    ] {
        assert_eq!(refused_by(&database, sql).await.as_deref(), Some(constraint), "{sql}");
    }
}

#[tokio::test]
async fn an_exclusive_task_for_later_has_no_place_in_line_and_an_ended_one_needs_none() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    seed.workspace("w", "default").await;
    let mut later = TaskSeed::new("later", "w", "plan_and_apply");
    later.not_before = Some(chrono::Utc::now() + chrono::TimeDelta::hours(1));
    seed.task(&later).await;
    let ended = "UPDATE tasks SET status = 'cancelled', finished_at = now() WHERE task_id = 'later'";
    assert_eq!(refused_by(&database, ended).await, None);
    assert_eq!(seed.value::<String>("SELECT status FROM tasks", &[]).await, "cancelled");
}

/// A replica of the version before this schema knows nothing of retirement.
#[tokio::test]
async fn a_sign_of_life_that_names_no_retirement_undoes_it_as_any_other() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    seed.agent("default", "worker-0").await;
    let gone = "UPDATE agents SET live = false, retired_at = now(), retire_requested_at = now(), retire_requested_by = 'eve', \
        drain_requested_at = now(), drain_requested_by = 'eve'";
    let left = "SELECT concat_ws(' ', retired_at, drain_requested_by, retire_requested_by) FROM agents";
    assert_eq!(refused_by(&database, gone).await, None);
    let same = "INSERT INTO agents AS g SELECT * FROM agents ON CONFLICT (pool_id, agent_id) \
        DO UPDATE SET session = EXCLUDED.session, live = true, last_seen = now()";
    assert_eq!(refused_by(&database, same).await, None);
    assert_eq!(seed.value::<String>(left, &[]).await, "eve eve", "the same session is still asked to go");
    assert_eq!(refused_by(&database, gone).await, None);
    let another = "UPDATE agents SET session = gen_random_uuid(), live = true, last_seen = now()";
    assert_eq!(refused_by(&database, another).await, None);
    assert_eq!(seed.value::<String>(left, &[]).await, "");
}
