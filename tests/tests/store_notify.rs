//! The outbox of notifications on a real PostgreSQL: in order per task, by one replica at a time, deleted only when confirmed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Mutex;

use serde_json::Value;
use switchyard_common::broker::{LostReason, Outgoing, PublishOutcome};
use switchyard_common::task::Input;
use switchyard_dispatcher::notify::run::run_once;
use switchyard_dispatcher::store::letters::logging::claim;
use switchyard_dispatcher::store::outbox::release;
use switchyard_dispatcher::store::{Named, StoreError, apply};
use switchyard_tests::harness::database::TestDatabase;
use switchyard_tests::harness::letters::namespace;
use switchyard_tests::harness::seed::{Seed, TaskSeed};

/// A broker that keeps what it confirms, and refuses what a test wants refused.
#[derive(Default)]
struct Broker {
    kept: Mutex<Vec<(String, String)>>,
    refuses: Mutex<Vec<String>>,
}

impl Broker {
    async fn publish(&self, messages: Vec<Outgoing>) -> Vec<PublishOutcome> {
        messages.iter().map(|message| self.take(message)).collect()
    }

    fn take(&self, message: &Outgoing) -> PublishOutcome {
        let event: Value = serde_json::from_slice(message.body()).unwrap();
        let subject = event["subject"].as_str().unwrap_or_default().to_owned();
        if self.refuses.lock().unwrap().contains(&subject) {
            return PublishOutcome::Lost(LostReason::Unconfirmed("cut".into()));
        }
        assert_eq!(message.routing_key(), event["type"].as_str().unwrap());
        self.kept.lock().unwrap().push((subject, event["data"]["n"].to_string()));
        PublishOutcome::Acked
    }

    fn of(&self, task: &str) -> Vec<String> {
        let kept = self.kept.lock().unwrap();
        kept.iter().filter(|(subject, _)| subject == task).map(|(_, n)| n.clone()).collect()
    }
}

async fn write(seed: &Seed<'_>, task: &str, n: i32) {
    seed.execute(
        "INSERT INTO notifications (task_id, event_type, body) VALUES ($1, 'switchyard.task.failed.v1', jsonb_build_object('n', $2::integer))",
        &[&task, &n],
    )
    .await;
}

async fn left(seed: &Seed<'_>) -> i64 {
    seed.value("SELECT count(*) FROM notifications", &[]).await
}

#[tokio::test]
async fn an_unconfirmed_notification_holds_back_its_task_and_no_other() {
    let database = TestDatabase::new().await;
    let (db, seed) = (&database.db, Seed::new(&database.db));
    for n in 1..=3 {
        write(&seed, "a", n).await;
        write(&seed, "b", n).await;
    }
    let broker = Broker::default();
    broker.refuses.lock().unwrap().push("a".into());
    let publish = async |messages| broker.publish(messages).await;
    let end = run_once(db, &namespace(), publish).await.unwrap();
    assert_eq!((end.published, end.unconfirmed, end.more), (3, 1, false));
    assert_eq!((broker.of("a").len(), broker.of("b")), (0, vec!["1".into(), "2".into(), "3".into()]));
    assert_eq!(left(&seed).await, 3);
    broker.refuses.lock().unwrap().clear();
    let end = run_once(db, &namespace(), publish).await.unwrap();
    assert_eq!((end.published, end.unconfirmed), (3, 0));
    assert_eq!(broker.of("a"), ["1", "2", "3"]);
    assert_eq!(left(&seed).await, 0);
}

#[tokio::test]
async fn one_replica_publishes_at_a_time_and_another_takes_over_when_it_is_gone() {
    let database = TestDatabase::new().await;
    let (db, seed, other) = (&database.db, Seed::new(&database.db), database.another_replica());
    let broker = Broker::default();
    let publish = async |messages| broker.publish(messages).await;
    write(&seed, "a", 1).await;
    assert_eq!(run_once(db, &namespace(), publish).await.unwrap().published, 1);
    write(&seed, "a", 2).await;
    assert_eq!(run_once(&other, &namespace(), publish).await.unwrap().published, 0, "it has no lease");
    seed.execute("UPDATE notifier SET until = now() - interval '1 s'", &[]).await;
    assert_eq!(run_once(&other, &namespace(), publish).await.unwrap().published, 1);
    write(&seed, "a", 3).await;
    assert_eq!(run_once(db, &namespace(), publish).await.unwrap().published, 0);
    release(&other).await.unwrap();
    assert_eq!(run_once(db, &namespace(), publish).await.unwrap().published, 1);
    assert_eq!(broker.of("a"), ["1", "2", "3"]);
}

#[tokio::test]
async fn a_notification_that_never_fits_is_dropped_and_the_next_ones_go() {
    let database = TestDatabase::new().await;
    let (db, seed) = (&database.db, Seed::new(&database.db));
    seed.execute(
        "INSERT INTO notifications (task_id, event_type, body) VALUES ('a', repeat('x', 256), '{}')",
        &[],
    )
    .await;
    write(&seed, "a", 2).await;
    let broker = Broker::default();
    let publish = async |messages| broker.publish(messages).await;
    run_once(db, &namespace(), publish).await.unwrap();
    assert_eq!((broker.of("a"), left(&seed).await), (vec!["2".to_owned()], 0));
}

#[tokio::test]
async fn the_end_of_a_task_is_told_with_its_own_event() {
    let database = TestDatabase::new().await;
    let (db, seed) = (&database.db, Seed::new(&database.db));
    seed.workspace("w", "default").await;
    let task = seed.task(&TaskSeed::new("t", "w", "plan")).await;
    seed.must(&task, Input::Cancel { by: "ada".into(), force: false }).await;
    let told = Mutex::new(Vec::new());
    let publish = async |messages: Vec<Outgoing>| {
        let bodies = messages.iter().map(|m| serde_json::from_slice::<Value>(m.body()).unwrap());
        told.lock().unwrap().extend(bodies);
        vec![PublishOutcome::Acked; messages.len()]
    };
    run_once(db, &namespace(), publish).await.unwrap();
    let told = told.lock().unwrap();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["type"], "switchyard.task.cancelled.v1");
    assert_eq!(
        (told[0]["subject"].as_str(), told[0]["source"].as_str()),
        (Some("t"), Some("switchyard/switchyard"))
    );
    assert_eq!(told[0]["data"]["status"], "cancelled");
    assert!(told[0]["id"].as_str().unwrap().len() == 36);
}

#[tokio::test]
async fn incident_43_a_status_that_was_not_stored_is_not_told() {
    let database = TestDatabase::new().await;
    let (db, seed) = (&database.db, Seed::new(&database.db));
    seed.workspace("w", "default").await;
    let task = seed.task(&TaskSeed::new("t", "w", "plan")).await;
    let swallow = "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$; \
        CREATE TRIGGER swallow BEFORE UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION swallow()";
    db.connection().await.unwrap().batch_execute(swallow).await.unwrap();
    let cancel = Input::Cancel { by: "ada".into(), force: false };
    let named = Named { task_id: task.clone(), attempt: None, input: cancel.clone() };
    let error = apply(db, &[named]).await.unwrap_err();
    assert!(matches!(error, StoreError::FenceMiss { table: "tasks", .. }), "{error}");
    assert_eq!(left(&seed).await, 0, "told, but not so");
    seed.execute("DROP TRIGGER swallow ON tasks", &[]).await;
    seed.must(&task, cancel).await;
    assert_eq!((seed.status(&task).await.as_str(), left(&seed).await), ("cancelled", 1));
}

#[tokio::test]
async fn a_replica_that_is_to_tell_nothing_leaves_nothing_to_be_told() {
    let database = TestDatabase::new().await;
    let silent = database.silent_replica();
    Seed::new(&silent).workspace("w", "default").await;
    for (id, db) in [("silent", &silent), ("told", &database.db)] {
        let seed = Seed::new(db);
        let task = seed.task(&TaskSeed::new(id, "w", "plan")).await;
        seed.must(&task, Input::DeadlinePassed).await;
        assert_eq!(claim(db, 10).await.unwrap().letters.len(), 1, "{id}");
    }
    let told: String = Seed::new(&silent)
        .value("SELECT string_agg(task_id || ' ' || event_type, ', ' ORDER BY notification_id) FROM notifications", &[])
        .await;
    assert_eq!(told, "told switchyard.task.failed.v1, told switchyard.dead_letter.v1");
}
