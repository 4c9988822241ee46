//! What becomes of dead letters: one log line, discard, replay; on a real PostgreSQL.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use serde_json::{Value, json};
use switchyard_common::broker::{Message, Outgoing, PublishOutcome};
use switchyard_common::contract::ids::TaskId;
use switchyard_common::contract::parse::parse_event;
use switchyard_common::failure::{Failure, FailureKind};
use switchyard_common::task::{Input, Kinds};
use switchyard_dispatcher::dead_letters::operate::{OperateError, Replayed, replay};
use switchyard_dispatcher::dead_letters::replay::{Drawn, Edit, ReplayError};
use switchyard_dispatcher::dead_letters::run::log_once;
use switchyard_dispatcher::intake::admit::admit;
use switchyard_dispatcher::intake::command::Verdict;
use switchyard_dispatcher::store::Db;
use switchyard_dispatcher::store::letters::browse::{LetterFilter, groups, list, numbers, show};
use switchyard_dispatcher::store::letters::logging::claim;
use switchyard_dispatcher::store::letters::resolve::{Discarded, ReplayVerdict, ReplayWish, discard};
use switchyard_dispatcher::store::letters::{About, EventLetter, Letter, record_event};
use switchyard_tests::harness::database::TestDatabase;
use switchyard_tests::harness::events::store_one;
use switchyard_tests::harness::letters::{event, namespace, submitted};
use switchyard_tests::harness::log_capture::LogCapture;
use switchyard_tests::harness::seed::{Seed, TaskSeed};
use tracing::Level;
use uuid::Uuid;

const NO_WAIT: Duration = Duration::ZERO;

/// A rejected event whose letter is complete at once.
async fn rejected(db: &Db, message: &Message, kind: FailureKind, text: &str) -> i64 {
    let letter = EventLetter {
        message,
        queue: Some("switchyard.events"),
        failure: Failure::new(kind, text),
        about: About::default(),
        broker_copy: false,
    };
    let letter = &letter;
    db.transaction(|t| async move { record_event(&t, letter).await }).await.unwrap();
    newest(db).await.letter_id
}

async fn newest(db: &Db) -> Letter {
    let filter = LetterFilter { resolved: None, ..LetterFilter::default() };
    list(db, &filter).await.unwrap().into_iter().next().unwrap()
}

/// A task that failed for its deadline while it waited.
async fn failed_task(db: &Db, id: &str) -> i64 {
    let seed = Seed::new(db);
    seed.execute("INSERT INTO pools (pool_id) VALUES ('default') ON CONFLICT DO NOTHING", &[]).await;
    seed.execute(
        "INSERT INTO workspaces (workspace_id, pool_id) VALUES ('w', 'default') ON CONFLICT DO NOTHING",
        &[],
    )
    .await;
    let task = TaskSeed { auto_approve: true, ..TaskSeed::new(id, "w", "plan_and_apply") };
    let task = seed.task(&task).await;
    seed.execute(
        "UPDATE tasks SET payload = '{\"region\": \"eu\"}', priority = 7 WHERE task_id = $1",
        &[&id],
    )
    .await;
    seed.must(&task, Input::DeadlinePassed).await;
    newest(db).await.letter_id
}

fn wish() -> ReplayWish {
    ReplayWish {
        by: "ada".into(),
        force: false,
        edit: None,
        note: Some("fixed".into()),
        drawn: Drawn { event: Uuid::now_v7(), task: Uuid::now_v7() },
    }
}

async fn acked(_: Outgoing) -> PublishOutcome {
    PublishOutcome::Acked
}

/// Gives the event to the production parser, admission and store, as intake would.
async fn admitted(db: &Db, message: Outgoing) -> PublishOutcome {
    let headers = std::collections::BTreeMap::new();
    let content_type = message.properties().content_type.clone();
    let parsed =
        parse_event(message.routing_key(), content_type.as_deref(), &headers, message.body(), Utc::now())
            .unwrap();
    let fresh = TaskId::new(Uuid::new_v4().to_string()).unwrap();
    let event = admit(parsed, &Kinds::with_built_in([]).unwrap(), fresh).unwrap();
    match store_one(db, event).await {
        Verdict::Accepted(_) => PublishOutcome::Acked,
        other @ (Verdict::Rejected(_) | Verdict::Hold(_)) => panic!("{other:?}"),
    }
}

async fn audit_actions(db: &Db) -> Vec<String> {
    let rows = db.connection().await.unwrap();
    let rows = rows.query("SELECT action FROM audit_log ORDER BY audit_id", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn every_letter_that_a_filter_names_is_chosen_and_not_only_a_page_of_them() {
    let database = TestDatabase::new().await;
    let mut rejections = Vec::new();
    for n in 0..3 {
        let message = submitted("/s", &format!("e-{n}"), &json!({}));
        rejections.insert(0, rejected(&database.db, &message, FailureKind::UnknownKind, "no").await);
    }
    let page = LetterFilter { count_max: 1, ..LetterFilter::default() };
    assert_eq!(list(&database.db, &page).await.unwrap().len(), 1);
    assert_eq!(numbers(&database.db, &page).await.unwrap(), rejections);
    let others = LetterFilter { failure_kind: Some("invalid_value".into()), ..page };
    assert!(numbers(&database.db, &others).await.unwrap().is_empty());
}

#[tokio::test]
async fn each_letter_has_exactly_one_error_line_with_its_whole_context() {
    let database = TestDatabase::new().await;
    let (db, seed) = (&database.db, Seed::new(&database.db));
    seed.workspace("w", "default").await;
    let agent = seed.agent("default", "worker-0").await;
    let task = seed.task(&TaskSeed::new("t1", "w", "plan")).await;
    let claim = seed.assign(&task, &agent).await;
    seed.execute(
        "INSERT INTO logs SELECT 't1', 1, n, now(), 'stdout', 'line ' || n FROM generate_series(1, 60) n",
        &[],
    )
    .await;
    seed.execute("UPDATE tasks SET traceparent = '00-1-2-01'", &[]).await;
    let lost =
        Input::SessionEnded { session: claim.session, reason: switchyard_common::task::LossReason::Silent };
    seed.execute("UPDATE attempts SET started_at = now()", &[]).await;
    seed.execute("UPDATE tasks SET status = 'running'", &[]).await;
    seed.must(&task, lost).await;
    rejected(db, &event(vec![0xff, 0x00]), FailureKind::MalformedEvent, "not JSON").await;

    let log = LogCapture::start();
    assert_eq!(log_once(db).await.unwrap(), 2);
    assert_eq!(log_once(db).await.unwrap(), 0);
    let lines = log.with_message("dead letter");
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| line.level == Level::ERROR));
    let line = lines.iter().find(|line| line.field("task_id") == Some("t1")).unwrap();
    for (field, value) in [
        ("workspace_id", "w"),
        ("pool_id", "default"),
        ("kind", "plan"),
        ("step", "plan"),
        ("agent_id", "worker-0"),
        ("pod", "worker-0-pod"),
        ("event_source", "test"),
        ("event_id", "t1"),
        ("traceparent", "00-1-2-01"),
        ("failure_kind", "agent_lost"),
        ("attempt", "1"),
        ("payload", "{}"),
    ] {
        assert_eq!(line.field(field), Some(value), "{field}");
    }
    assert_eq!(line.field("session"), Some(claim.session.to_string().as_str()));
    let tail: Vec<String> = serde_json::from_str(line.field("log_tail").unwrap()).unwrap();
    assert_eq!((tail.len(), tail.last().map(String::as_str)), (50, Some("line 60")));
    let moments: Vec<Value> = serde_json::from_str(line.field("timeline").unwrap()).unwrap();
    let whats: Vec<&str> = moments.iter().map(|moment| moment["what"].as_str().unwrap()).collect();
    assert_eq!(whats, ["submitted", "assigned", "started", "lost", "dead_letter"]);
    let other = lines.iter().find(|line| line.field("task_id").is_none()).unwrap();
    assert!(other.field("payload").unwrap().contains("ff00"));
    assert!(lines.iter().all(|line| !format!("{line:?}").contains(&claim.lease.0.to_string())));
    let told: i64 = seed
        .value("SELECT count(*) FROM notifications WHERE event_type = 'switchyard.dead_letter.v1'", &[])
        .await;
    assert_eq!(told, 2);
}

#[tokio::test]
async fn a_replica_that_ends_before_its_line_leaves_the_letter_to_another_one() {
    let database = TestDatabase::new().await;
    let (db, seed) = (&database.db, Seed::new(&database.db));
    rejected(db, &submitted("s", "e", &json!({})), FailureKind::UnknownKind, "what?").await;
    // Claimed, and never marked: the process ended before, or right after, its line.
    assert_eq!(claim(db, 10).await.unwrap().letters.len(), 1);
    let log = LogCapture::start();
    assert_eq!(log_once(&database.another_replica()).await.unwrap(), 0, "it may still be writing");
    seed.execute("UPDATE dead_letters SET log_claimed_at = log_claimed_at - interval '31 s'", &[]).await;
    assert_eq!(log_once(&database.another_replica()).await.unwrap(), 1);
    assert_eq!(log.with_message("dead letter").len(), 1);
    let told: i64 = seed.value("SELECT count(*) FROM notifications", &[]).await;
    assert_eq!(told, 1, "upstream is told once");
}

#[tokio::test]
async fn replicas_that_log_at_the_same_time_write_each_line_once() {
    let database = TestDatabase::new().await;
    for n in 0..150 {
        let message = submitted("s", &n.to_string(), &json!({}));
        rejected(&database.db, &message, FailureKind::UnknownKind, "what?").await;
    }
    let (one, two) = (database.another_replica(), database.another_replica());
    let log = LogCapture::start();
    let drain = async |db: &Db| while log_once(db).await.unwrap() > 0 {};
    tokio::join!(drain(&one), drain(&two));
    assert_eq!(log.with_message("dead letter").len(), 150);
}

#[tokio::test]
async fn letters_are_listed_by_any_field_and_grouped_by_cause() {
    let database = TestDatabase::new().await;
    let db = &database.db;
    for n in 0..3 {
        let message = submitted("s", &n.to_string(), &json!({}));
        rejected(db, &message, FailureKind::UnknownKind, &format!("kind {n} is not known")).await;
    }
    let task_letter = failed_task(db, "t1").await;
    let all = LetterFilter::default();
    assert_eq!(list(db, &all).await.unwrap().len(), 4);
    let grouped = groups(db, &all).await.unwrap();
    assert_eq!(grouped.iter().map(|group| group.count).collect::<Vec<_>>(), [3, 1]);
    assert_eq!(grouped[0].newest_message, "kind 2 is not known");
    let of = |filter: LetterFilter| async move { list(db, &filter).await.unwrap().len() };
    assert_eq!(
        of(LetterFilter { fingerprint: Some(grouped[0].fingerprint.clone()), ..all.clone() }).await,
        3
    );
    assert_eq!(of(LetterFilter { task_id: Some("t1".into()), ..all.clone() }).await, 1);
    assert_eq!(of(LetterFilter { workspace_id: Some("w".into()), ..all.clone() }).await, 1);
    assert_eq!(of(LetterFilter { failure_kind: Some("deadline".into()), ..all.clone() }).await, 1);
    assert_eq!(of(LetterFilter { origin: Some("event".into()), ..all.clone() }).await, 3);
    assert_eq!(of(LetterFilter { before: Some(task_letter), ..all.clone() }).await, 3);
    assert_eq!(of(LetterFilter { count_max: 2, ..all.clone() }).await, 2);
    assert_eq!(of(LetterFilter { since: Some(Utc::now() + Duration::from_secs(60)), ..all }).await, 0);
}

#[tokio::test]
async fn a_discard_can_be_repeated_and_is_audited_once() {
    let database = TestDatabase::new().await;
    let db = &database.db;
    let letter = rejected(db, &submitted("s", "e", &json!({})), FailureKind::UnknownKind, "what?").await;
    let ids = [letter, 999];
    let first = discard(db, &ids, "ada", Some("noise")).await.unwrap();
    assert_eq!(first, [(letter, Discarded::Done), (999, Discarded::Unknown)]);
    let second = discard(db, &ids[..1], "bob", None).await.unwrap();
    assert_eq!(second, [(letter, Discarded::Already("discarded".into()))]);
    assert_eq!(show(db, letter).await.unwrap().unwrap().resolved_by.as_deref(), Some("ada"));
    assert_eq!(audit_actions(db).await, ["dead_letter.discard"]);
}

#[tokio::test]
async fn a_replay_is_a_new_task_through_the_same_admission_and_inherits_no_approval() {
    let database = TestDatabase::new().await;
    let (db, seed) = (&database.db, Seed::new(&database.db));
    let letter = failed_task(db, "t1").await;
    let publish = async |message| admitted(db, message).await;
    let done = replay(db, &namespace(), letter, &wish(), NO_WAIT, publish).await.unwrap();
    let task = done.task_id.clone().unwrap();
    assert_eq!(done.verdict, ReplayVerdict::Accepted { task_id: Some(task.clone()) });
    let (of, payload, auto): (String, Value, bool) = (
        seed.value("SELECT replay_of FROM tasks WHERE task_id = $1", &[&task]).await,
        seed.value("SELECT payload FROM tasks WHERE task_id = $1", &[&task]).await,
        seed.value("SELECT auto_approve FROM tasks WHERE task_id = $1", &[&task]).await,
    );
    assert_eq!((of.as_str(), payload, auto), ("t1", json!({ "region": "eu" }), false));
    let resolved = show(db, letter).await.unwrap().unwrap();
    assert_eq!(resolved.resolution.as_deref(), Some("replayed"));
    assert_eq!((resolved.resolved_by.as_deref(), resolved.replays), (Some("ada"), 1));
    assert_eq!(audit_actions(db).await, ["dead_letter.replay_prepared", "dead_letter.replayed"]);

    let again = replay(db, &namespace(), letter, &wish(), NO_WAIT, acked).await;
    assert!(matches!(&again, Err(OperateError::Refused(ReplayError::Resolved { .. }))), "{again:?}");
    let forced = ReplayWish { force: true, edit: Some(Edit::Payload(json!({ "region": "us" }))), ..wish() };
    let more = replay(db, &namespace(), letter, &forced, NO_WAIT, publish).await.unwrap();
    assert_ne!(more.task_id, done.task_id);
    let payload: Value =
        seed.value("SELECT payload FROM tasks WHERE task_id = $1", &[&more.task_id.unwrap()]).await;
    assert_eq!(payload, json!({ "region": "us" }));
}

#[tokio::test]
async fn only_the_letter_of_an_ended_task_is_replayed() {
    let database = TestDatabase::new().await;
    let (db, seed) = (&database.db, Seed::new(&database.db));
    seed.workspace("w", "default").await;
    let agent = seed.agent("default", "worker-0").await;
    let task = seed.task(&TaskSeed::new("t1", "w", "plan")).await;
    let claim = seed.assign(&task, &agent).await;
    seed.execute("UPDATE attempts SET started_at = now()", &[]).await;
    seed.execute("UPDATE tasks SET status = 'running'", &[]).await;
    let lost =
        Input::SessionEnded { session: claim.session, reason: switchyard_common::task::LossReason::Silent };
    seed.must(&task, lost).await;
    let letter = newest(db).await.letter_id;
    let refused = replay(db, &namespace(), letter, &wish(), NO_WAIT, acked).await;
    assert!(matches!(&refused, Err(OperateError::Refused(ReplayError::NotTerminal { .. }))), "{refused:?}");
    let unknown = replay(db, &namespace(), 999, &wish(), NO_WAIT, acked).await;
    assert!(matches!(&unknown, Err(OperateError::Refused(ReplayError::UnknownLetter(999)))), "{unknown:?}");
}

#[tokio::test]
async fn incident_60_a_letter_is_called_replayed_only_when_the_broker_has_confirmed_it() {
    let database = TestDatabase::new().await;
    let db = &database.db;
    let letter = failed_task(db, "t1").await;
    let sent = Arc::new(std::sync::Mutex::new(Vec::new()));
    let keep = |outcome: PublishOutcome| {
        let sent = Arc::clone(&sent);
        move |message: Outgoing| {
            let (sent, outcome) = (Arc::clone(&sent), outcome.clone());
            async move {
                sent.lock().unwrap().push(message.body().to_vec());
                outcome
            }
        }
    };
    let returned = keep(PublishOutcome::Returned { code: 312, text: "NO_ROUTE".into() });
    let outcome =
        replay(db, &namespace(), letter, &wish(), NO_WAIT, async |message| returned(message).await).await;
    assert!(matches!(&outcome, Err(OperateError::NotConfirmed(_))), "{outcome:?}");
    assert_eq!(show(db, letter).await.unwrap().unwrap().resolution, None);
    // Repeated, it is the same event: had the first one arrived after all, nothing would run twice.
    let acked = keep(PublishOutcome::Acked);
    let Replayed { verdict, .. } =
        replay(db, &namespace(), letter, &wish(), NO_WAIT, async |message| acked(message).await)
            .await
            .unwrap();
    assert_eq!(verdict, ReplayVerdict::Open, "intake has not seen it, and it is said");
    {
        let sent = sent.lock().unwrap();
        assert_eq!(sent[0], sent[1]);
    }
    assert_eq!(show(db, letter).await.unwrap().unwrap().resolution.as_deref(), Some("replayed"));
}

#[tokio::test]
async fn a_begun_replay_is_not_silently_changed_by_an_edit() {
    let database = TestDatabase::new().await;
    let db = &database.db;
    let letter = failed_task(db, "t1").await;
    let nacked = async |_: Outgoing| PublishOutcome::Nacked;
    let _ = replay(db, &namespace(), letter, &wish(), NO_WAIT, nacked).await.unwrap_err();
    let edited = ReplayWish { edit: Some(Edit::Payload(json!({ "other": 1 }))), ..wish() };
    let refused = replay(db, &namespace(), letter, &edited, NO_WAIT, acked).await;
    assert!(
        matches!(&refused, Err(OperateError::Refused(ReplayError::PreparedOtherwise { .. }))),
        "{refused:?}"
    );
    let forced = ReplayWish { force: true, ..edited };
    assert!(replay(db, &namespace(), letter, &forced, NO_WAIT, acked).await.is_ok());
}

#[tokio::test]
async fn a_rejected_event_is_replayed_with_a_new_id_in_either_mode() {
    let database = TestDatabase::new().await;
    let db = &database.db;
    Seed::new(db).workspace("w", "default").await;
    let data = json!({ "workspace_id": "w", "kind": "plan", "payload": {} });
    let structured = rejected(db, &submitted("ci", "e1", &data), FailureKind::UnknownWorkspace, "w?").await;
    let mut binary = event(data.to_string());
    for (name, value) in
        [("id", "e2"), ("source", "ci"), ("type", "switchyard.task.submitted.v1"), ("specversion", "1.0")]
    {
        binary.properties.headers.insert(format!("cloudEvents:{name}"), value.into());
    }
    let binary = rejected(db, &binary, FailureKind::UnknownWorkspace, "w?").await;
    for (letter, old) in [(structured, "e1"), (binary, "e2")] {
        let publish = async |message: Outgoing| {
            let event: Value = serde_json::from_slice(message.body()).unwrap();
            assert_eq!((event["source"].as_str(), event["replayof"].as_str()), (Some("ci"), Some(old)));
            admitted(db, message).await
        };
        let done = replay(db, &namespace(), letter, &wish(), NO_WAIT, publish).await.unwrap();
        assert!(matches!(done.verdict, ReplayVerdict::Accepted { task_id: Some(_) }), "{done:?}");
    }
}

#[tokio::test]
async fn a_replay_that_is_rejected_leaves_its_letter_open_for_an_edit() {
    let database = TestDatabase::new().await;
    let db = &database.db;
    Seed::new(db).workspace("w", "default").await;
    let data = json!({ "workspace_id": "w", "kind": "nope", "payload": {} });
    let letter = rejected(db, &submitted("ci", "e1", &data), FailureKind::UnknownKind, "nope").await;
    let rejects = async |message: Outgoing| {
        let event = event(message.body().to_vec());
        rejected(db, &event, FailureKind::UnknownKind, "still nope").await;
        PublishOutcome::Acked
    };
    let outcome = replay(db, &namespace(), letter, &wish(), NO_WAIT, rejects).await;
    assert!(matches!(&outcome, Err(OperateError::Rejected { .. })), "{outcome:?}");
    assert_eq!(show(db, letter).await.unwrap().unwrap().resolution, None);
    let fixed = json!({ "specversion": "1.0", "source": "ci", "id": "ignored", "type": "switchyard.task.submitted.v1",
        "data": { "workspace_id": "w", "kind": "plan", "payload": {} } });
    let edited = ReplayWish { edit: Some(Edit::Event(fixed)), ..wish() };
    let done =
        replay(db, &namespace(), letter, &edited, NO_WAIT, async |message| admitted(db, message).await)
            .await
            .unwrap();
    assert!(done.event_id.starts_with("replay-"));
}

#[tokio::test]
async fn what_cannot_be_replayed_says_what_to_do() {
    let database = TestDatabase::new().await;
    let db = &database.db;
    let junk = rejected(db, &event("junk"), FailureKind::MalformedEvent, "not JSON").await;
    let refused = replay(db, &namespace(), junk, &wish(), NO_WAIT, acked).await.unwrap_err();
    assert!(refused.to_string().contains("--event"), "{refused}");
    let task = failed_task(db, "t1").await;
    let wrong = ReplayWish { edit: Some(Edit::Event(json!({}))), ..wish() };
    let refused = replay(db, &namespace(), task, &wrong, NO_WAIT, acked).await.unwrap_err();
    assert!(refused.to_string().contains("--payload"), "{refused}");
}
