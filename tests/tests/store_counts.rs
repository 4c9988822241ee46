//! What gauges tell of a database: every pool and status, also where there is nothing.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

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
