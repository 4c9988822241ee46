//! The story of a task, joined from all that tells of it; on a real PostgreSQL.

use serde_json::json;
use switchyard_common::task::Input;
use switchyard_dispatcher::store::timeline;
use switchyard_tests::harness::database::TestDatabase;
use switchyard_tests::harness::seed::{Seed, TaskSeed};

#[tokio::test]
async fn a_timeline_joins_what_columns_notes_and_attempts_tell() {
    let database = TestDatabase::new().await;
    let (db, seed) = (&database.db, Seed::new(&database.db));
    seed.workspace("w", "default").await;
    let task = seed.task(&TaskSeed::new("t1", "w", "plan")).await;
    seed.must(&task, Input::Cancel { by: "ada".into(), force: false }).await;
    seed.execute(
        "INSERT INTO task_notes (task_id, at, what, detail)
         SELECT task_id, cancel_requested_at, 'cancel requested', '{\"comment\": \"why not\"}' FROM tasks",
        &[],
    )
    .await;
    let moments = timeline::timeline(db, "t1").await.unwrap();
    let whats: Vec<&str> = moments.iter().map(|moment| moment.what.as_str()).collect();
    assert_eq!(whats, ["submitted", "cancel requested", "cancelled"]);
    assert_eq!(moments[1].detail, json!({ "by": "ada", "comment": "why not" }));
    assert!(timeline::timeline(db, "unknown").await.unwrap().is_empty());
}
