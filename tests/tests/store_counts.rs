//! What gauges tell of a database: every pool and status, also where there is nothing.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::LazyLock;
use std::time::Duration;

use switchyard_common::shutdown::Shutdown;
use switchyard_common::telemetry::Metrics;
use switchyard_dispatcher::api::gauges;
use switchyard_dispatcher::store::Db;
use switchyard_dispatcher::store::counts::{Counted, counts};
use switchyard_tests::harness::database::TestDatabase;
use switchyard_tests::harness::seed::{Seed, TaskSeed};

fn value(all: &[Counted], name: &str, pool: &str, status: Option<&str>) -> f64 {
    let mut found =
        all.iter().filter(|one| one.name == name && one.pool == pool && one.status.as_deref() == status);
    let value = found.next().map(|one| one.value).unwrap();
    assert!(found.next().is_none(), "{name} is told twice");
    value
}

#[tokio::test]
async fn tasks_agents_slots_and_letters_are_counted_and_what_is_empty_is_zero() {
    let database = TestDatabase::new().await;
    let (db, seed) = (&database.db, Seed::new(&database.db));
    seed.workspace("w", "default").await;
    seed.pool("idle").await;
    let agent = seed.agent("default", "worker-0").await;
    let first = seed.task(&TaskSeed::new("t1", "w", "plan")).await;
    seed.task(&TaskSeed::new("t2", "w", "plan")).await;
    seed.assign(&first, &agent).await;
    seed.execute("UPDATE tasks SET since = now() - interval '90 s' WHERE task_id = 't2'", &[]).await;
    let all = counts(db).await.unwrap();
    let told = |name, pool, status| value(&all, name, pool, status);
    assert_eq!(told("tasks", "default", Some("assigned")), 1.0);
    assert_eq!(told("tasks", "default", Some("pending")), 1.0);
    assert_eq!(told("tasks", "default", Some("blocked")), 0.0);
    assert_eq!(told("tasks", "idle", Some("pending")), 0.0);
    assert!((89.0..200.0).contains(&told("oldest_waiting_seconds", "default", None)));
    assert_eq!(told("oldest_waiting_seconds", "idle", None), 0.0);
    assert_eq!(told("agents_live", "default", None), 1.0);
    assert_eq!((told("slots", "default", None), told("slots_free", "default", None)), (4.0, 3.0));
    assert_eq!(told("slots", "idle", None), 0.0);
    assert_eq!((told("dead_letters_open", "", None), told("notifications_waiting", "", None)), (0.0, 0.0));
}

async fn told(db: &Db, name: &str) -> f64 {
    value(&counts(db).await.unwrap(), name, "default", None)
}

#[tokio::test]
async fn incident_31_a_pool_without_an_agent_that_lives_tells_what_it_wants_and_that_it_has_nothing() {
    let database = TestDatabase::new().await;
    let (db, seed) = (&database.db, Seed::new(&database.db));
    seed.workspace("w", "default").await;
    seed.agent("default", "worker-0").await;
    seed.task(&TaskSeed::new("t1", "w", "plan")).await;
    assert_eq!((told(db, "slots_wanted").await, told(db, "slots").await), (1.0, 4.0));
    seed.execute("UPDATE agents SET live = false", &[]).await;
    assert_eq!((told(db, "slots_wanted").await, told(db, "slots").await), (1.0, 0.0));
}

#[tokio::test]
async fn incident_32_what_runs_and_what_may_run_wants_a_slot_each() {
    let database = TestDatabase::new().await;
    let (db, seed) = (&database.db, Seed::new(&database.db));
    seed.workspace("w1", "default").await;
    seed.workspace("w2", "default").await;
    let agent = seed.agent("default", "worker-0").await;
    assert_eq!(told(db, "slots_wanted").await, 0.0);
    let plan = seed.task(&TaskSeed::new("t1", "w1", "plan")).await;
    seed.task(&TaskSeed::new("t2", "w2", "plan_and_apply")).await;
    assert_eq!(told(db, "slots_wanted").await, 2.0);
    seed.assign(&plan, &agent).await;
    assert_eq!(told(db, "slots_wanted").await, 2.0, "what is in hand still counts");
}

#[tokio::test]
async fn incident_33_slots_are_told_and_not_agents_so_that_two_tasks_need_not_make_two_pods() {
    let database = TestDatabase::new().await;
    let (db, seed) = (&database.db, Seed::new(&database.db));
    seed.workspace("w", "default").await;
    seed.agent("default", "worker-0").await;
    seed.task(&TaskSeed::new("t1", "w", "plan")).await;
    seed.task(&TaskSeed::new("t2", "w", "plan_and_apply")).await;
    assert_eq!((told(db, "slots_wanted").await, told(db, "slots").await), (2.0, 4.0));
}

#[tokio::test]
async fn incident_34_only_what_could_run_now_is_wanted_slots_for() {
    let database = TestDatabase::new().await;
    let (db, seed) = (&database.db, Seed::new(&database.db));
    seed.workspace("w", "default").await;
    seed.task(&TaskSeed::new("head", "w", "plan_and_apply")).await;
    seed.task(&TaskSeed::new("blocked", "w", "plan_and_apply")).await;
    let mut later = TaskSeed::new("later", "w", "plan");
    later.not_before = Some("2999-01-01T00:00:00Z".parse().unwrap());
    seed.task(&later).await;
    assert_eq!(told(db, "slots_wanted").await, 1.0, "the head of its workspace alone");
    seed.execute("UPDATE tasks SET workspace_paused = true", &[]).await;
    assert_eq!(told(db, "slots_wanted").await, 0.0, "paused with its workspace");
    seed.execute("UPDATE tasks SET workspace_paused = false", &[]).await;
    seed.execute("UPDATE pools SET revoked_at = now()", &[]).await;
    assert_eq!(told(db, "slots_wanted").await, 0.0, "of a pool that may not run anything");
}

/// What `/metrics` shows of the demand of a pool: each test has its own, because a process has one recorder.
fn shown(pool: &str) -> Option<String> {
    static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics::install().unwrap());
    let begins = format!("switchyard_slots_wanted{{pool=\"{pool}\"}}");
    METRICS.render().lines().find_map(|line| line.strip_prefix(&begins).map(|value| value.trim().to_owned()))
}

#[tokio::test]
async fn incident_25_a_replica_that_cannot_count_yet_does_not_say_that_nothing_is_wanted() {
    let database = TestDatabase::new().await;
    assert_eq!(shown("early"), None);
    Seed::new(&database.db).execute("ALTER TABLE tasks RENAME TO tasks_away", &[]).await;
    let shutdown = Shutdown::new(Duration::from_secs(1));
    shutdown.trigger("one round is enough");
    gauges::run(database.db.clone(), shutdown).await;
    assert_eq!(shown("early"), None);
}

#[tokio::test]
async fn incident_28_a_count_that_fails_is_an_error_and_leaves_what_was_known() {
    let database = TestDatabase::new().await;
    let (db, seed) = (&database.db, Seed::new(&database.db));
    assert_eq!(shown("known"), None);
    seed.workspace("w", "known").await;
    seed.task(&TaskSeed::new("t1", "w", "plan")).await;
    gauges::run_once(db).await.unwrap();
    assert_eq!(shown("known").as_deref(), Some("1"));
    seed.execute("ALTER TABLE tasks RENAME TO tasks_away", &[]).await;
    assert!(gauges::run_once(db).await.is_err());
    assert_eq!(shown("known").as_deref(), Some("1"), "what cannot be counted is not zero");
}
