//! Assigning in the transaction that stores (protocol E5), and handing over what a transaction has read, on a real PostgreSQL.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "all of this is tests; clippy exempts only the test functions themselves"
)]

use std::collections::BTreeSet;

use serde_json::{Value, json};
use switchyard_common::contract::event::EventType;
use switchyard_common::contract::ids::{PoolId, TaskId};
use switchyard_dispatcher::intake::command::Admitted;
use switchyard_dispatcher::pass::{PassEnd, run_once};
use switchyard_dispatcher::store::intake::{Stored, store, store_with};
use switchyard_dispatcher::store::operate::{Pausable, pause};
use switchyard_dispatcher::store::route::{Committed, Publish, SAID_MAX_BYTES, contents};
use switchyard_tests::harness::database::TestDatabase;
use switchyard_tests::harness::events::{RULES, admitted, submission};
use switchyard_tests::harness::seed::Seed;

fn pool() -> PoolId {
    PoolId::new("default").unwrap()
}

/// Stores events as intake does when nothing was left waiting in the pool.
async fn comes_in(database: &TestDatabase, events: &[Admitted]) -> Stored {
    store_with(&database.db, events, RULES, &BTreeSet::from([pool()]), None).await.expect("stored")
}

fn names(assigned: &[Committed]) -> Vec<String> {
    assigned.iter().map(|committed| committed.key.task_id.to_string()).collect()
}

fn handed_over(stored: &Stored) -> Vec<Committed> {
    let assigned = stored.at_once.iter().flat_map(|at_once| &at_once.assigned);
    assigned.map(|(_, committed)| committed.clone()).collect()
}

fn at_once(stored: &Stored) -> Vec<String> {
    names(&handed_over(stored))
}

async fn status(database: &TestDatabase, task: &str) -> String {
    Seed::new(&database.db).status(&TaskId::new(task).unwrap()).await
}

#[tokio::test]
async fn what_comes_into_an_idle_pool_is_assigned_in_the_transaction_that_stores_it() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    seed.agent("default", "worker-0").await;
    let stored = comes_in(&database, &[submission("t", "w", "plan", json!({}))]).await;
    assert_eq!(at_once(&stored), ["t"]);
    assert!(stored.pools.is_empty(), "nothing is left for a pass");
    let row: String = seed
        .value(
            "SELECT t.status || ' ' || t.agent_id || ' ' || t.version || ' ' || t.attempts || ' ' || a.publish_no || ' ' || \
                 (a.lease_token = t.lease_token AND a.session = t.session AND a.assigned_at = t.created_at) \
             FROM tasks t JOIN attempts a USING (task_id)",
            &[],
        )
        .await;
    assert_eq!(row, "assigned worker-0 2 1 1 true");
    let served: bool =
        seed.value("SELECT p.served_rank = t.rank AND t.rank > 0 FROM pools p, tasks t", &[]).await;
    assert!(served, "virtual time moves on as it does in a pass");
}

#[tokio::test]
async fn an_exclusive_task_holds_its_workspace_and_the_next_one_stands_behind_it() {
    let database = TestDatabase::new().await;
    Seed::new(&database.db).agent("default", "worker-0").await;
    let events = [
        submission("a", "w", "plan_and_apply", json!({})),
        submission("b", "w", "plan_and_apply", json!({})),
    ];
    let stored = comes_in(&database, &events).await;
    assert_eq!(at_once(&stored), ["a"]);
    assert_eq!(
        (status(&database, "a").await.as_str(), status(&database, "b").await.as_str()),
        ("assigned", "blocked")
    );
    let holder: String = Seed::new(&database.db).value("SELECT task_id FROM tasks WHERE holds", &[]).await;
    assert_eq!(holder, "a");
}

#[tokio::test]
async fn what_the_agents_have_no_room_for_waits_and_a_pass_is_asked_for() {
    let database = TestDatabase::new().await;
    Seed::new(&database.db).agent("default", "worker-0").await;
    let events: Vec<_> = (0..20).map(|n| submission(&format!("t{n:02}"), "w", "plan", json!({}))).collect();
    let stored = comes_in(&database, &events).await;
    let places = 8;
    let expected: Vec<String> = (0..places).map(|n| format!("t{n:02}")).collect();
    assert_eq!(at_once(&stored), expected, "in the order in which they came");
    assert_eq!(stored.pools, BTreeSet::from([pool()]));
    assert!(stored.at_once.unwrap().plan.unplaced.is_empty(), "no more is looked at than there is room for");
    let pending: i64 = Seed::new(&database.db)
        .value("SELECT count(*) FROM tasks WHERE status = 'pending' AND version = 1", &[])
        .await;
    assert_eq!(usize::try_from(pending).unwrap(), 20 - places);
}

#[tokio::test]
async fn nothing_overtakes_what_waits() {
    let database = TestDatabase::new().await;
    store(&database.db, &[submission("first", "w", "plan", json!({}))], RULES).await.expect("stored");
    Seed::new(&database.db).agent("default", "worker-0").await;
    // The word that the pool is idle is old.
    let stored = comes_in(&database, &[submission("second", "w", "plan", json!({}))]).await;
    assert!(stored.at_once.is_none());
    assert_eq!(stored.pools, BTreeSet::from([pool()]));
    let report = run_once(&database.db, &pool()).await.expect("a pass");
    assert_eq!(names(&report.assigned), ["first", "second"]);
}

#[tokio::test]
async fn what_waits_for_a_handler_that_no_agent_has_holds_nobody_up() {
    let database = TestDatabase::new().await;
    store(&database.db, &[submission("apply", "w", "plan", json!({}))], RULES).await.expect("stored");
    let seed = Seed::new(&database.db);
    seed.execute("UPDATE tasks SET handler = 'nobodys'", &[]).await;
    seed.agent("default", "worker-0").await;
    assert_eq!(at_once(&comes_in(&database, &[submission("t", "w", "plan", json!({}))]).await), ["t"]);
    let report = run_once(&database.db, &pool()).await.expect("a pass");
    assert!(report.idle && report.assigned.is_empty());
}

#[tokio::test]
async fn a_pool_that_somebody_else_schedules_is_left_to_the_next_pass() {
    let database = TestDatabase::new().await;
    Seed::new(&database.db).agent("default", "worker-0").await;
    let mut connection = database.db.connection().await.unwrap();
    let held = connection.transaction().await.unwrap();
    held.execute("SELECT 1 FROM pools FOR NO KEY UPDATE", &[]).await.unwrap();
    let stored = comes_in(&database, &[submission("t", "w", "plan", json!({}))]).await;
    assert!(stored.at_once.is_none());
    assert_eq!((stored.pools, status(&database, "t").await.as_str()), (BTreeSet::from([pool()]), "pending"));
    assert_eq!(run_once(&database.db, &pool()).await.expect("a pass").end, PassEnd::Busy);
    held.rollback().await.unwrap();
}

#[tokio::test]
async fn a_pass_over_a_pool_in_which_nothing_waits_takes_no_lock_and_says_so() {
    let database = TestDatabase::new().await;
    Seed::new(&database.db).agent("default", "worker-0").await;
    let mut connection = database.db.connection().await.unwrap();
    let held = connection.transaction().await.unwrap();
    held.execute("SELECT 1 FROM pools FOR NO KEY UPDATE", &[]).await.unwrap();
    let report = run_once(&database.db, &pool()).await.expect("a pass");
    assert_eq!((report.end, report.idle), (PassEnd::Done, true));
    held.rollback().await.unwrap();
}

#[tokio::test]
async fn a_pool_is_called_idle_when_nothing_waits_in_it_and_an_agent_lives() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    let pass = async || run_once(&database.db, &pool()).await.expect("a pass");
    seed.pool("default").await;
    assert!(!pass().await.idle, "there is no agent");
    seed.agent("default", "worker-0").await;
    assert!(pass().await.idle);
    seed.execute("UPDATE agents SET live = false", &[]).await;
    assert!(!pass().await.idle, "none lives");
    seed.execute("UPDATE agents SET live = true", &[]).await;
    let events: Vec<_> = (0..9).map(|n| submission(&format!("t{n}"), "w", "plan", json!({}))).collect();
    store(&database.db, &events, RULES).await.expect("stored");
    assert_eq!(pass().await.assigned.len(), 8);
    let last = pass().await;
    assert!(!last.idle && last.assigned.is_empty(), "one waits, and nobody has room");
}

#[tokio::test]
async fn nothing_is_said_of_what_no_agent_can_take() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    seed.agent("default", "worker-0").await;
    seed.execute("UPDATE agents SET live = false", &[]).await;
    let stored = comes_in(&database, &[submission("t", "w", "plan_and_apply", json!({}))]).await;
    assert!(stored.at_once.is_none(), "{:?}", stored.at_once);
    assert_eq!(stored.pools, BTreeSet::from([pool()]), "a pass says it");
}

#[tokio::test]
async fn who_waits_for_a_workspace_does_not_have_the_pools_lock() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    seed.agent("default", "worker-0").await;
    seed.workspace("w", "default").await;
    let mut connection = database.db.connection().await.unwrap();
    let held = connection.transaction().await.unwrap();
    held.execute("SELECT 1 FROM workspaces FOR NO KEY UPDATE", &[]).await.unwrap();
    let events = [submission("t", "w", "plan_and_apply", json!({}))];
    let waiting = async {
        let blocked = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')";
        while !seed.value::<bool>(blocked, &[]).await {
            tokio::task::yield_now().await;
        }
        let free = seed.execute("SELECT 1 FROM pools FOR NO KEY UPDATE SKIP LOCKED", &[]).await;
        held.rollback().await.unwrap();
        free
    };
    let (stored, free) = tokio::join!(comes_in(&database, &events), waiting);
    assert_eq!((free, at_once(&stored)), (1, vec!["t".to_owned()]));
}

#[tokio::test]
async fn nothing_is_assigned_at_once_of_what_is_paused_or_waits_for_its_time() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    seed.agent("default", "worker-0").await;
    seed.workspace("paused", "default").await;
    pause(&database.db, &Pausable::Workspace("paused".into()), "ops", Some("why")).await.unwrap();
    let later = json!({ "not_before": chrono::Utc::now() + chrono::TimeDelta::hours(1) });
    let events = [submission("p", "paused", "plan", json!({})), submission("l", "w", "plan", later)];
    assert!(at_once(&comes_in(&database, &events).await).is_empty());
    pause(&database.db, &Pausable::Pool("default".into()), "ops", Some("why")).await.unwrap();
    assert!(at_once(&comes_in(&database, &[submission("t", "w", "plan", json!({}))]).await).is_empty());
    let assigned: i64 = seed.value("SELECT count(*) FROM tasks WHERE status <> 'pending'", &[]).await;
    assert_eq!(assigned, 0);
}

#[tokio::test]
async fn events_of_two_pools_are_stored_and_left_to_passes() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    seed.agent("default", "worker-0").await;
    seed.agent("other", "worker-0").await;
    let other = submission("b", "x", "plan", json!({ "pool": "other" }));
    let stored = comes_in(&database, &[submission("a", "w", "plan", json!({})), other]).await;
    assert!(stored.at_once.is_none());
    assert_eq!(stored.pools.len(), 2);
    // Nor what says nothing of its pool, and turns out to be for another one.
    seed.workspace("theirs", "other").await;
    let silent = json!({ "task_id": "c", "workspace_id": "theirs", "kind": "plan", "payload": {} });
    let silent = admitted(EventType::TaskSubmitted, silent);
    let stored = comes_in(&database, &[silent]).await;
    assert!(stored.at_once.is_none(), "{:?}", stored.at_once);
    assert_eq!(stored.pools, BTreeSet::from([PoolId::new("other").unwrap()]));
}

#[tokio::test]
async fn a_copy_of_an_event_assigns_nothing_again() {
    let database = TestDatabase::new().await;
    Seed::new(&database.db).agent("default", "worker-0").await;
    let event = submission("t", "w", "plan", json!({}));
    assert_eq!(at_once(&comes_in(&database, &[event.clone(), event.clone()]).await), ["t"]);
    let again = comes_in(&database, &[event]).await;
    assert!(at_once(&again).is_empty());
    let attempts: i64 = Seed::new(&database.db).value("SELECT count(*) FROM attempts", &[]).await;
    assert_eq!(attempts, 1);
}

/// What is handed over, and what routing would have read in its place.
async fn handed_over_and_read(database: &TestDatabase, committed: &Committed) -> (Option<Value>, Value) {
    let read = contents(&database.db, &[Publish::first(committed.key.clone())]).await.unwrap().remove(0);
    let handed_over = committed.fresh.as_ref().map(|fresh| serde_json::to_value(&fresh.assignment).unwrap());
    (handed_over, serde_json::to_value(read.assignment).unwrap())
}

#[tokio::test]
async fn what_is_handed_over_is_what_the_database_would_have_said() {
    let database = TestDatabase::new().await;
    Seed::new(&database.db).agent("default", "worker-0").await;
    let payload = json!({ "payload": { "b": 1.5, "a": [null, "x"] } });
    let stored = comes_in(&database, &[submission("direct", "w", "plan_and_apply", payload.clone())]).await;
    store(&database.db, &[submission("passed", "v", "plan", payload)], RULES).await.expect("stored");
    let report = run_once(&database.db, &pool()).await.expect("a pass");
    let committed = [handed_over(&stored), report.assigned].concat();
    assert_eq!(names(&committed), ["direct", "passed"]);
    for committed in &committed {
        let (handed_over, read) = handed_over_and_read(&database, committed).await;
        assert_eq!(handed_over, Some(read));
    }
}

#[tokio::test]
async fn a_payload_at_the_limit_is_handed_over_and_a_larger_one_is_left_to_be_read() {
    let database = TestDatabase::new().await;
    Seed::new(&database.db).agent("default", "worker-0").await;
    // As intake writes it: `{"x":"..."}`.
    let payload = |bytes: usize| json!({ "payload": { "x": "y".repeat(bytes - 8) } });
    let events = [
        submission("at", "w", "plan", payload(SAID_MAX_BYTES)),
        submission("over", "w", "plan", payload(SAID_MAX_BYTES + 1)),
    ];
    let known = |assigned: &[Committed]| -> Vec<bool> {
        assigned.iter().map(|committed| committed.fresh.is_some()).collect()
    };
    let assigned = handed_over(&comes_in(&database, &events).await);
    assert_eq!((names(&assigned), known(&assigned)), (vec!["at".into(), "over".into()], vec![true, false]));
    // The database writes a space behind the colon, and keeps what compresses well in few bytes.
    let events = [
        submission("at-again", "w", "plan", payload(SAID_MAX_BYTES - 1)),
        submission("over-again", "w", "plan", payload(SAID_MAX_BYTES)),
        submission("dense", "w", "plan", payload(SAID_MAX_BYTES * 50)),
    ];
    store(&database.db, &events, RULES).await.expect("stored");
    let assigned = run_once(&database.db, &pool()).await.expect("a pass").assigned;
    assert_eq!((assigned.len(), known(&assigned)), (3, vec![true, false, false]));
}
