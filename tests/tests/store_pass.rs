//! Scheduling passes on a real PostgreSQL.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "all of this is tests; clippy exempts only the test functions themselves"
)]

use serde_json::json;
use switchyard_common::contract::ids::PoolId;
use switchyard_common::contract::report::OutcomeEnd;
use switchyard_common::task::{AssignTo, Input};
use switchyard_dispatcher::pass::{PassEnd, run_once};
use switchyard_dispatcher::store::intake::store;
use switchyard_dispatcher::store::operate::{Pausable, fence, pause};
use switchyard_dispatcher::store::route::{Publish, claim_resends, contents, record_confirms};
use switchyard_dispatcher::store::view::{TaskFilter, tasks};
use switchyard_dispatcher::store::{Named, apply};
use switchyard_tests::harness::database::TestDatabase;
use switchyard_tests::harness::events::{RULES, store_one, submission};
use switchyard_tests::harness::seed::Seed;

fn pool() -> PoolId {
    PoolId::new("default").unwrap()
}

async fn assigned(database: &TestDatabase) -> Vec<String> {
    let report = run_once(&database.db, &pool()).await.expect("a pass");
    report.assigned.iter().map(|committed| committed.key.task_id.to_string()).collect()
}

#[tokio::test]
async fn a_pass_assigns_what_may_run_and_the_attempt_is_committed_before_anything_is_sent() {
    let database = TestDatabase::new().await;
    store_one(&database.db, submission("t", "w", "plan_and_apply", json!({}))).await;
    Seed::new(&database.db).agent("default", "worker-0").await;
    assert_eq!(assigned(&database).await, ["t"]);
    let seed = Seed::new(&database.db);
    let row: String = seed
        .value(
            "SELECT t.status || ' ' || t.agent_id || ' ' || a.publish_no || ' ' || (a.lease_token = t.lease_token) \
             FROM tasks t JOIN attempts a USING (task_id)",
            &[],
        )
        .await;
    assert_eq!(row, "assigned worker-0 1 true");
}

#[tokio::test]
async fn a_pass_assigns_while_somebody_else_has_the_workspaces_lock() {
    let database = TestDatabase::new().await;
    store_one(&database.db, submission("t", "w", "plan_and_apply", json!({}))).await;
    Seed::new(&database.db).agent("default", "worker-0").await;
    let mut connection = database.db.connection().await.unwrap();
    let held = connection.transaction().await.unwrap();
    held.execute("SELECT 1 FROM workspaces FOR NO KEY UPDATE", &[]).await.unwrap();
    assert_eq!(assigned(&database).await, ["t"]);
    held.rollback().await.unwrap();
}

#[tokio::test]
async fn incident_05_a_pass_that_finds_no_agent_leaves_the_task_pending_for_the_next_one() {
    let database = TestDatabase::new().await;
    store_one(&database.db, submission("t", "w", "plan", json!({}))).await;
    assert!(assigned(&database).await.is_empty());
    Seed::new(&database.db).agent("default", "worker-0").await;
    assert_eq!(assigned(&database).await, ["t"]);
}

#[tokio::test]
async fn incident_09_two_applies_of_one_workspace_are_never_past_blocked_together() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    store_one(&database.db, submission("a", "w", "plan_and_apply", json!({}))).await;
    store_one(&database.db, submission("b", "w", "plan_and_apply", json!({}))).await;
    let connection = database.db.connection().await.unwrap();
    let forced = connection.execute("UPDATE tasks SET status = 'pending' WHERE task_id = 'b'", &[]).await;
    let error = forced.expect_err("the index refuses a second head");
    assert_eq!(error.as_db_error().and_then(|db| db.constraint()), Some("tasks_one_head"));
    seed.agent("default", "worker-0").await;
    assert_eq!(assigned(&database).await, ["a"]);
}

#[tokio::test]
async fn incident_53_two_passes_at_once_assign_a_task_once() {
    let database = TestDatabase::new().await;
    let other = database.another_replica();
    let events: Vec<_> = (0..40).map(|n| submission(&format!("t{n}"), "w", "plan", json!({}))).collect();
    store(&database.db, &events, RULES).await.expect("stored");
    for n in 0..5 {
        Seed::new(&database.db).agent("default", &format!("worker-{n}")).await;
    }
    let (pool_a, pool_b) = (pool(), pool());
    let (one, two) = tokio::join!(run_once(&database.db, &pool_a), run_once(&other, &pool_b));
    let (one, two) = (one.unwrap(), two.unwrap());
    let seed = Seed::new(&database.db);
    let attempts: i64 = seed.value("SELECT count(*) FROM attempts", &[]).await;
    assert_eq!(usize::try_from(attempts).unwrap(), one.assigned.len() + two.assigned.len());
    let twice: i64 = seed.value("SELECT count(*) FROM tasks WHERE attempts > 1", &[]).await;
    assert_eq!(twice, 0);
    assert!(one.end == PassEnd::Done || two.end == PassEnd::Done);
}

#[tokio::test]
async fn incident_70_a_second_decision_for_the_same_task_is_refused() {
    let database = TestDatabase::new().await;
    store_one(&database.db, submission("t", "w", "plan", json!({}))).await;
    let seed = Seed::new(&database.db);
    let agent = seed.agent("default", "worker-0").await;
    let task = switchyard_common::contract::ids::TaskId::new("t").unwrap();
    seed.assign(&task, &agent).await;
    let again = AssignTo {
        agent: agent.agent.clone(),
        pod: "pod".into(),
        session: agent.session,
        lease: switchyard_common::contract::ids::LeaseToken(uuid::Uuid::new_v4()),
    };
    let applied = apply(&database.db, &[Named { task_id: task, attempt: None, input: Input::Assign(again) }])
        .await
        .unwrap();
    assert!(applied[0].after().is_none());
    let attempts: i64 = seed.value("SELECT count(*) FROM attempts", &[]).await;
    assert_eq!(attempts, 1);
}

#[tokio::test]
async fn an_agent_gets_no_more_than_its_slots_and_credit_over_many_passes() {
    let database = TestDatabase::new().await;
    let events: Vec<_> = (0..100).map(|n| submission(&format!("t{n}"), "w", "plan", json!({}))).collect();
    store(&database.db, &events, RULES).await.expect("stored");
    Seed::new(&database.db).agent("default", "worker-0").await;
    let mut total = 0;
    for _ in 0..5 {
        total += assigned(&database).await.len();
    }
    let places: i32 = Seed::new(&database.db)
        .value("SELECT slots + credit FROM agents WHERE agent_id = 'worker-0'", &[])
        .await;
    assert_eq!(total, usize::try_from(places).unwrap());
}

/// Makes the steps of a task something that no program reads.
const UNREADABLE: &str = "UPDATE tasks SET steps = jsonb_set(steps, '{0,name}', '7') WHERE task_id = $1";

#[tokio::test]
async fn tasks_that_cannot_be_read_do_not_keep_the_only_free_place_from_the_one_behind_them() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    for (task, workspace) in [("bad-1", "a"), ("bad-2", "b"), ("good", "c")] {
        store_one(&database.db, submission(task, workspace, "plan_and_apply", json!({}))).await;
    }
    for bad in ["bad-1", "bad-2"] {
        seed.execute(UNREADABLE, &[&bad]).await;
    }
    seed.agent("default", "worker-0").await;
    seed.execute("UPDATE agents SET slots = 1, credit = 0, max_exclusive = 1", &[]).await;
    assert_eq!(assigned(&database).await, ["good"]);
    assert!(assigned(&database).await.is_empty(), "its place is taken");
}

#[tokio::test]
async fn a_task_that_cannot_be_read_is_listed_with_that_reason_and_hides_no_other() {
    let database = TestDatabase::new().await;
    for task in ["good", "bad"] {
        store_one(&database.db, submission(task, "w", "plan", json!({}))).await;
    }
    Seed::new(&database.db).execute(UNREADABLE, &[&"bad"]).await;
    let filter = TaskFilter { limit: 10, ..TaskFilter::default() };
    let listed = tasks(&database.db, &filter).await.unwrap();
    let ids: Vec<&str> = listed.iter().map(|task| task.task_id.as_str()).collect();
    assert_eq!(ids, ["bad", "good"]);
    let why = &listed[0].waiting_for;
    assert!(why.contains("task bad") && why.contains("tasks.steps"), "{why}");
}

#[tokio::test]
async fn a_workspace_with_a_hundred_thousand_waiting_tasks_does_not_starve_another() {
    const WAITING: u32 = 100_000;
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    for start in (0..WAITING).step_by(5_000) {
        let events: Vec<_> = (start..start + 5_000)
            .map(|n| submission(&format!("many-{n}"), "many", "plan", json!({ "priority": 9 })))
            .collect();
        store(&database.db, &events, RULES).await.expect("stored");
    }
    let agent = seed.agent("default", "worker-0").await;
    seed.execute("UPDATE agents SET slots = 1, credit = 0", &[]).await;
    assert_eq!(assigned(&database).await.len(), 1);
    store_one(&database.db, submission("single", "other", "plan", json!({ "priority": 0 }))).await;
    let mut passes_with_a_free_slot = 0;
    loop {
        finish_all(&database, &agent).await;
        passes_with_a_free_slot += 1;
        assert!(passes_with_a_free_slot <= 2, "the single task waits for a third pass");
        if assigned(&database).await == ["single"] {
            break;
        }
    }
}

/// Ends every open attempt, as its agent would.
async fn finish_all(database: &TestDatabase, agent: &switchyard_tests::harness::seed::AgentSeed) {
    let connection = database.db.connection().await.unwrap();
    let rows = connection
        .query("SELECT task_id, attempt, lease_token FROM attempts WHERE ended_at IS NULL", &[])
        .await
        .unwrap();
    let inputs: Vec<Named> = rows
        .iter()
        .map(|row| {
            let task_id = switchyard_common::contract::ids::TaskId::new(row.get::<_, String>(0)).unwrap();
            let attempt = u32::try_from(row.get::<_, i32>(1)).unwrap();
            let claim = switchyard_common::contract::report::Claim {
                task_id: task_id.clone(),
                attempt,
                session: agent.session,
                lease: switchyard_common::contract::ids::LeaseToken(row.get(2)),
            };
            let reporter = switchyard_common::task::Reporter {
                agent: agent.agent.clone(),
                granted: true,
                epoch_is_current: true,
            };
            let end = OutcomeEnd::Succeeded {
                changes: true,
                artifacts: switchyard_common::contract::artifact::Manifest::default(),
                result: None,
            };
            Named { task_id, attempt: Some(attempt), input: Input::Outcome { reporter, claim, end } }
        })
        .collect();
    apply(&database.db, &inputs).await.expect("settled");
}

#[tokio::test]
async fn incident_23_an_approved_apply_that_could_not_be_sent_is_assigned_again() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    store_one(&database.db, submission("t", "w", "plan_and_apply", json!({}))).await;
    let agent = seed.agent("default", "worker-0").await;
    assert_eq!(assigned(&database).await, ["t"]);
    finish_all(&database, &agent).await;
    let task = switchyard_common::contract::ids::TaskId::new("t").unwrap();
    seed.must(&task, Input::Approve { by: "eve".into(), digest: None }).await;
    assert_eq!(assigned(&database).await, ["t"]);
    seed.must(&task, Input::Returned { publish_no: 1 }).await;
    seed.must(&task, Input::RetryNow).await;
    seed.must(&task, Input::Due { place: None }).await;
    assert_eq!(assigned(&database).await, ["t"]);
}

#[tokio::test]
async fn incident_29_an_agent_that_is_not_live_gets_nothing() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    store_one(&database.db, submission("t", "w", "plan", json!({}))).await;
    seed.agent("default", "worker-0").await;
    seed.execute("UPDATE agents SET live = false", &[]).await;
    assert!(assigned(&database).await.is_empty());
}

#[tokio::test]
async fn after_a_fence_an_exclusive_task_waits_until_the_handlers_of_before_are_gone() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    store_one(&database.db, submission("t", "w", "plan_and_apply", json!({}))).await;
    store_one(&database.db, submission("free", "other", "plan", json!({}))).await;
    seed.agent("default", "worker-0").await;
    assert_eq!(fence(&database.db, "ann", "restored").await.unwrap().sessions, 1);
    seed.agent("default", "worker-1").await;
    assert_eq!(assigned(&database).await, ["free"]);
    let shown =
        tasks(&database.db, &TaskFilter { task_id: Some("t".into()), limit: 1, ..TaskFilter::default() })
            .await
            .unwrap();
    assert!(shown[0].waiting_for.contains("a fence"), "{}", shown[0].waiting_for);
    seed.execute(
        "UPDATE agent_sessions SET ended_at = now() - interval '31 s' WHERE ended_at IS NOT NULL",
        &[],
    )
    .await;
    assert_eq!(assigned(&database).await, ["t"]);
}

#[tokio::test]
async fn nothing_is_assigned_of_what_is_paused_and_everything_once_it_is_resumed() {
    let database = TestDatabase::new().await;
    let db = &database.db;
    store_one(db, submission("t", "w", "plan", json!({}))).await;
    Seed::new(db).agent("default", "worker-0").await;
    let agent = Pausable::Agent { pool: "default".into(), agent: "worker-0".into() };
    for what in [Pausable::Pool("default".into()), agent, Pausable::Workspace("w".into())] {
        assert!(pause(db, &what, "ann", Some("rest")).await.unwrap());
        assert!(assigned(&database).await.is_empty(), "{what}");
        assert!(pause(db, &what, "ann", None).await.unwrap());
    }
    assert_eq!(assigned(&database).await, ["t"]);
}

#[tokio::test]
async fn another_publish_has_another_number_before_it_is_sent_and_only_one_replica_claims_it() {
    let database = TestDatabase::new().await;
    store_one(&database.db, submission("t", "w", "plan", json!({}))).await;
    Seed::new(&database.db).agent("default", "worker-0").await;
    let key = run_once(&database.db, &pool()).await.unwrap().assigned.remove(0).key;
    let first = [Publish::first(key.clone())];
    let second = [Publish { key: key.clone(), publish_no: 2 }];
    let other = database.another_replica();
    assert_eq!(claim_resends(&database.db, &first).await.unwrap(), second);
    assert!(
        claim_resends(&other, &first).await.unwrap().is_empty(),
        "what it gives up is not the last publish"
    );
    assert!(contents(&database.db, &first).await.unwrap().is_empty(), "it was given up");
    assert_eq!(contents(&database.db, &second).await.unwrap()[0].assignment.publish_no, 2);
    record_confirms(&database.db, &[key]).await.unwrap();
    assert!(claim_resends(&database.db, &second).await.unwrap().is_empty(), "it was confirmed");
}
