//! Intake on a real PostgreSQL: what a batch of events leaves in the tables.
#![expect(
    clippy::expect_used,
    reason = "all of this is tests; clippy exempts only the test functions themselves"
)]

use chrono::{TimeDelta, Utc};
use serde_json::json;
use switchyard_common::contract::event::EventType;
use switchyard_common::failure::FailureKind;
use switchyard_common::task::Status;
use switchyard_dispatcher::intake::command::{Admitted, Verdict};
use switchyard_dispatcher::store::intake::store;
use switchyard_tests::harness::database::TestDatabase;
use switchyard_tests::harness::events::{RULES, admitted, admitted_as, rejected, store_one, submission};
use switchyard_tests::harness::seed::Seed;

fn status_of(verdict: &Verdict) -> Option<Status> {
    match verdict {
        Verdict::Accepted(accepted) => accepted.status,
        Verdict::Rejected(_) | Verdict::Hold(_) => None,
    }
}

async fn accept(database: &TestDatabase, events: Vec<Admitted>) -> Vec<Option<Status>> {
    let stored = store(&database.db, &events, RULES).await.expect("stored");
    assert_eq!(stored.verdicts.len(), events.len());
    stored.verdicts.iter().map(status_of).collect()
}

#[tokio::test]
async fn tasks_of_one_workspace_stand_in_line_in_the_order_of_their_events() {
    let database = TestDatabase::new().await;
    let batch = (1..=3).map(|n| submission(&format!("t{n}"), "w", "plan_and_apply", json!({}))).collect();
    let first = accept(&database, batch).await;
    assert_eq!(first, [Some(Status::Pending), Some(Status::Blocked), Some(Status::Blocked)]);
    let later = accept(&database, vec![submission("t4", "w", "plan_and_apply", json!({}))]).await;
    assert_eq!(later, [Some(Status::Blocked)]);
    let positions: Vec<i64> =
        Seed::new(&database.db).value("SELECT array_agg(position ORDER BY task_id) FROM tasks", &[]).await;
    assert_eq!(positions, [1, 2, 3, 4]);
}

#[tokio::test]
async fn incident_07_the_only_task_of_a_workspace_is_not_blocked_by_itself() {
    let database = TestDatabase::new().await;
    let status = accept(&database, vec![submission("only", "w", "plan_and_apply", json!({}))]).await;
    assert_eq!(status, [Some(Status::Pending)]);
}

#[tokio::test]
async fn incident_10_and_11_plans_neither_take_the_workspace_nor_wait_for_it() {
    let database = TestDatabase::new().await;
    let statuses = accept(
        &database,
        vec![
            submission("plan-before", "w", "plan", json!({})),
            submission("apply", "w", "plan_and_apply", json!({})),
            submission("plan-after", "w", "plan", json!({})),
        ],
    )
    .await;
    assert_eq!(statuses, [Some(Status::Pending); 3]);
}

#[tokio::test]
async fn a_copy_of_an_event_gets_the_same_answer_and_changes_nothing() {
    let database = TestDatabase::new().await;
    let data =
        json!({ "task_id": "t", "workspace_id": "w", "kind": "plan", "payload": {}, "pool": "default" });
    let event = || admitted_as("e-1", "/a", EventType::TaskSubmitted, data.clone());
    let first = store_one(&database.db, event()).await;
    let copy = store_one(&database.db, event()).await;
    assert_eq!(first, copy);
    let tasks: i64 = Seed::new(&database.db).value("SELECT count(*) FROM tasks", &[]).await;
    assert_eq!(tasks, 1);
}

#[tokio::test]
async fn an_event_id_that_was_used_for_another_body_is_a_conflict() {
    let database = TestDatabase::new().await;
    let event = |id: &str| {
        let data =
            json!({ "task_id": id, "workspace_id": "w", "kind": "plan", "payload": {}, "pool": "default" });
        admitted_as("e-1", "/a", EventType::TaskSubmitted, data)
    };
    store_one(&database.db, event("t1")).await;
    let rejection = rejected(&database.db, event("t2")).await;
    assert_eq!(rejection.code, FailureKind::IdConflict);
    assert!(rejection.what_to_do.contains("new id"));
}

#[tokio::test]
async fn two_sources_cannot_use_one_task_id() {
    let database = TestDatabase::new().await;
    store_one(&database.db, submission("t", "w", "plan", json!({}))).await;
    let data = json!({ "task_id": "t", "workspace_id": "w", "kind": "plan", "payload": {} });
    let other = admitted_as("e", "/other", EventType::TaskSubmitted, data);
    assert_eq!(rejected(&database.db, other).await.code, FailureKind::IdConflict);
}

#[tokio::test]
async fn one_idempotency_key_makes_one_task_per_source() {
    let database = TestDatabase::new().await;
    let key = json!({ "idempotency_key": "order-7" });
    store_one(&database.db, submission("t1", "w", "plan", key.clone())).await;
    let again = store_one(&database.db, submission("t2", "w", "plan", key)).await;
    let Verdict::Accepted(accepted) = again else { panic!("{again:?}") };
    assert_eq!(accepted.task_id.unwrap().as_str(), "t1");
}

#[tokio::test]
async fn an_unknown_workspace_is_held_and_a_known_pool_registers_it() {
    let database = TestDatabase::new().await;
    let data = json!({ "workspace_id": "new", "kind": "plan", "payload": {} });
    let verdict = store_one(&database.db, admitted(EventType::TaskSubmitted, data)).await;
    let Verdict::Hold(rejection) = verdict else { panic!("{verdict:?}") };
    assert_eq!(rejection.code, FailureKind::UnknownWorkspace);
    let known = store_one(&database.db, submission("t", "new", "plan", json!({}))).await;
    assert_eq!(status_of(&known), Some(Status::Pending));
}

#[tokio::test]
async fn a_task_right_behind_the_registration_of_its_workspace_is_accepted_in_the_same_batch() {
    let database = TestDatabase::new().await;
    let statuses = accept(
        &database,
        vec![
            admitted(EventType::WorkspaceRegistered, json!({ "workspace_id": "w", "pool": "default" })),
            admitted(EventType::TaskSubmitted, json!({ "workspace_id": "w", "kind": "plan", "payload": {} })),
        ],
    )
    .await;
    assert_eq!(statuses, [None, Some(Status::Pending)]);
}

#[tokio::test]
async fn a_workspace_does_not_change_its_pool_while_it_has_a_task_that_has_not_ended() {
    let database = TestDatabase::new().await;
    store_one(&database.db, submission("t", "w", "plan", json!({}))).await;
    let moved = || admitted(EventType::WorkspaceRegistered, json!({ "workspace_id": "w", "pool": "other" }));
    assert_eq!(rejected(&database.db, moved()).await.code, FailureKind::RejectedTransition);
    let cancel = json!({ "task_id": "t", "requested_by": "eve" });
    store_one(&database.db, admitted(EventType::TaskCancelRequested, cancel)).await;
    assert!(matches!(store_one(&database.db, moved()).await, Verdict::Accepted(_)));
}

#[tokio::test]
async fn a_task_for_later_takes_its_place_in_line_only_when_it_is_due() {
    let database = TestDatabase::new().await;
    let later = json!({ "not_before": Utc::now() + TimeDelta::hours(1) });
    let statuses = accept(
        &database,
        vec![
            submission("later", "w", "plan_and_apply", later),
            submission("now", "w", "plan_and_apply", json!({})),
        ],
    )
    .await;
    assert_eq!(statuses, [Some(Status::Pending), Some(Status::Pending)]);
    let placed: Vec<String> = Seed::new(&database.db)
        .value("SELECT array_agg(task_id) FROM tasks WHERE position IS NOT NULL", &[])
        .await;
    assert_eq!(placed, ["now"]);
}

#[tokio::test]
async fn cancelling_the_first_in_line_lets_the_next_one_go_at_once() {
    let database = TestDatabase::new().await;
    let batch = (1..=2).map(|n| submission(&format!("t{n}"), "w", "plan_and_apply", json!({}))).collect();
    accept(&database, batch).await;
    let cancel = json!({ "task_id": "t1", "requested_by": "eve" });
    store_one(&database.db, admitted(EventType::TaskCancelRequested, cancel)).await;
    let seed = Seed::new(&database.db);
    let status: String = seed.value("SELECT status FROM tasks WHERE task_id = 't2'", &[]).await;
    assert_eq!(status, "pending");
}

#[tokio::test]
async fn incident_47_a_change_of_configuration_never_reaches_a_task_that_was_accepted() {
    let database = TestDatabase::new().await;
    store_one(&database.db, submission("t", "w", "plan_and_apply", json!({}))).await;
    let steps: serde_json::Value =
        Seed::new(&database.db).value("SELECT steps FROM tasks WHERE task_id = 't'", &[]).await;
    assert_eq!(steps[1]["name"], "apply");
    assert_eq!(steps[1]["approval"], true);
}

#[tokio::test]
async fn an_approval_of_a_task_that_does_not_wait_is_rejected_and_says_why() {
    let database = TestDatabase::new().await;
    store_one(&database.db, submission("t", "w", "plan_and_apply", json!({}))).await;
    let approve = json!({ "task_id": "t", "approved_by": "eve" });
    let rejection = rejected(&database.db, admitted(EventType::TaskApproved, approve)).await;
    assert_eq!(rejection.code, FailureKind::RejectedTransition);
    assert!(rejection.message.contains("pending"), "{rejection}");
    let unknown = json!({ "task_id": "nobody", "approved_by": "eve" });
    let rejection = rejected(&database.db, admitted(EventType::TaskApproved, unknown)).await;
    assert_eq!(rejection.code, FailureKind::UnknownTask);
}

#[tokio::test]
async fn a_replay_names_a_task_that_has_ended() {
    let database = TestDatabase::new().await;
    store_one(&database.db, submission("t", "w", "plan", json!({}))).await;
    let replay = |id: &str| submission(id, "w", "plan", json!({ "replay_of": "t" }));
    assert_eq!(rejected(&database.db, replay("r1")).await.code, FailureKind::RejectedTransition);
    let cancel = json!({ "task_id": "t", "requested_by": "eve" });
    store_one(&database.db, admitted(EventType::TaskCancelRequested, cancel)).await;
    assert!(matches!(store_one(&database.db, replay("r2")).await, Verdict::Accepted(_)));
}

#[tokio::test]
async fn two_replicas_that_store_the_same_events_at_once_make_each_task_once() {
    let database = TestDatabase::new().await;
    let other = database.another_replica();
    let event = |n: u32| {
        let data = json!({ "task_id": format!("t{n}"), "workspace_id": "w", "kind": "plan_and_apply", "payload": {}, "pool": "p" });
        admitted_as(&format!("e{n}"), "/a", EventType::TaskSubmitted, data)
    };
    let batch: Vec<Admitted> = (0..50).map(event).collect();
    let reversed: Vec<Admitted> = batch.iter().rev().cloned().collect();
    let (one, two) = tokio::join!(store(&database.db, &batch, RULES), store(&other, &reversed, RULES));
    let accepted = |stored: &switchyard_dispatcher::store::intake::Stored| {
        stored.verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Accepted(_))).count()
    };
    assert_eq!((accepted(&one.unwrap()), accepted(&two.unwrap())), (50, 50));
    let seed = Seed::new(&database.db);
    let heads: i64 = seed.value("SELECT count(*) FROM tasks WHERE status = 'pending'", &[]).await;
    let tasks: i64 = seed.value("SELECT count(*) FROM tasks", &[]).await;
    assert_eq!((heads, tasks), (1, 50));
}
