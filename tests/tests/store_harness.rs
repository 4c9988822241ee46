//! The test database itself, and that a seeded task reaches an agent through the production transition.

use switchyard_tests::harness::database::TestDatabase;
use switchyard_tests::harness::seed::{Seed, TaskSeed};

#[tokio::test]
async fn a_seeded_task_is_assigned_and_its_waiter_stays_blocked() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    seed.workspace("w", "default").await;
    let agent = seed.agent("default", "worker-0").await;
    let first = seed.task(&TaskSeed::new("first", "w", "plan_and_apply")).await;
    let second = seed.task(&TaskSeed::new("second", "w", "plan_and_apply")).await;
    let claim = seed.assign(&first, &agent).await;
    assert_eq!(claim.attempt, 1);
    assert_eq!(seed.status(&first).await, "assigned");
    assert_eq!(seed.status(&second).await, "blocked");
}
