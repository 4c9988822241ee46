//! Recording of dead letters on a real PostgreSQL: any bytes, either half first, once per cause.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::{Value, json};
use switchyard_common::broker::Message;
use switchyard_common::contract::ids::LeaseToken;
use switchyard_common::contract::report::{Claim, OutcomeEnd};
use switchyard_common::failure::{Failure, FailureKind};
use switchyard_common::task::{Input, Reporter, ResolveTo};
use switchyard_dispatcher::dead_letters::kept::LETTER_PAYLOAD_MAX_BYTES;
use switchyard_dispatcher::dead_letters::sweep;
use switchyard_dispatcher::store::letters::browse::{LetterFilter, groups, list};
use switchyard_dispatcher::store::letters::{
    About, EVIDENCE_MAX_COUNT, EventLetter, Letter, ReportLetter, record_event, record_report, store_arrivals,
};
use switchyard_dispatcher::store::{Db, Named};
use switchyard_tests::harness::database::TestDatabase;
use switchyard_tests::harness::letters::{arrival, assignment, event, message, nacked, submitted};
use switchyard_tests::harness::seed::{AgentSeed, Seed, TaskSeed};
use uuid::Uuid;

const EVENTS: &str = "switchyard.events";
const AGENT: &str = "switchyard.agent.default.worker-0";

async fn reject(db: &Db, message: &Message, kind: FailureKind) {
    let letter = EventLetter {
        message,
        queue: Some(EVENTS),
        failure: Failure::new(kind, "no good"),
        about: About::default(),
        broker_copy: true,
    };
    let letter = &letter;
    db.transaction(|transaction| async move { record_event(&transaction, letter).await }).await.unwrap();
}

async fn every(db: &Db) -> Vec<Letter> {
    let filter = LetterFilter { resolved: None, count_max: 1_000, ..LetterFilter::default() };
    list(db, &filter).await.unwrap()
}

async fn only(db: &Db) -> Letter {
    let letters = every(db).await;
    assert_eq!(letters.len(), 1, "{letters:#?}");
    letters.into_iter().next().unwrap()
}

/// A plan in the hands of an agent.
async fn assigned(seed: &Seed<'_>, task: &str) -> (AgentSeed, Claim) {
    seed.workspace(&format!("w-{task}"), "default").await;
    let agent = seed.agent("default", &format!("worker-{task}")).await;
    let task = seed.task(&TaskSeed::new(task, &format!("w-{task}"), "plan")).await;
    let claim = seed.assign(&task, &agent).await;
    (agent, claim)
}

fn failed(agent: &AgentSeed, claim: &Claim, message: &str) -> Input {
    let reporter = Reporter { agent: agent.agent.clone(), granted: true, epoch_is_current: true };
    let mut failure = Failure::new(FailureKind::HandlerFailed, message);
    failure.exit_code = Some(3);
    failure.log_tail = vec!["last words".to_owned()];
    Input::Outcome { reporter, claim: claim.clone(), end: OutcomeEnd::Failed { failure } }
}

/// Lets the wait for the other half be over.
async fn wait_is_over(seed: &Seed<'_>) {
    seed.execute(
        "UPDATE dead_letters SET failed_at = failed_at - interval '31 s', broker_at = broker_at - interval '31 s'",
        &[],
    )
    .await;
}

#[tokio::test]
async fn any_bytes_are_recorded_and_join_with_the_brokers_copy() {
    let database = TestDatabase::new().await;
    let db = &database.db;
    let huge = vec![b'x'; LETTER_PAYLOAD_MAX_BYTES + 7];
    let bodies: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("not json", b"not json".to_vec()),
        ("NUL", b"a\0b".to_vec()),
        ("NUL in a JSON string", br#"{"id":"e","source":"s","data":"\u0000"}"#.to_vec()),
        ("invalid UTF-8", vec![0xff, 0xfe, 0xfd]),
        ("raw surrogate", vec![0xed, 0xa0, 0x80]),
        ("escaped surrogate", br#"{"id":"\ud800","source":"s"}"#.to_vec()),
        ("huge", huge.clone()),
        ("deep", format!("{}{}", "[".repeat(10_000), "]".repeat(10_000)).into_bytes()),
    ];
    for (name, body) in &bodies {
        let message = event(body.clone());
        reject(db, &message, FailureKind::MalformedEvent).await;
        store_arrivals(db, &[arrival(&nacked(&message, EVENTS, "rejected"))]).await.unwrap();
        let letter = every(db).await.into_iter().next().unwrap();
        assert!(letter.completed_at.is_some(), "{name}: both halves joined");
        assert_eq!(letter.failure_kind.as_deref(), Some("malformed_event"), "{name}");
        assert_eq!(letter.payload_size, Some(i64::try_from(body.len()).unwrap()), "{name}");
        assert_eq!(letter.queue.as_deref(), Some(EVENTS), "{name}");
    }
    let letters = every(db).await;
    assert_eq!(letters.len(), bodies.len(), "one letter per message");
    let by_size =
        |size: usize| letters.iter().find(|letter| letter.payload_size == i64::try_from(size).ok()).unwrap();
    assert_eq!(
        by_size(huge.len()).payload_kept_bytes(),
        LETTER_PAYLOAD_MAX_BYTES,
        "a bounded copy, its size said"
    );
    assert_eq!(letters.iter().filter(|letter| letter.payload_bytes.is_some()).count(), 3, "kept as bytes");
}

#[tokio::test]
async fn headers_names_and_ids_with_nul_are_recorded() {
    let database = TestDatabase::new().await;
    let mut strange = event("{}");
    strange.routing_key = "key\0with nul".into();
    strange.properties.message_id = Some("id\0".into());
    strange.properties.headers.insert("h\0".into(), "v\0".into());
    strange.properties.headers.insert("traceparent".into(), "00\0".into());
    let letter = EventLetter {
        message: &strange,
        queue: Some(EVENTS),
        failure: Failure::new(FailureKind::MalformedEvent, "bad\0"),
        about: About { task_id: Some("t\0".into()), kind: Some("k".repeat(100_000)), ..About::default() },
        broker_copy: false,
    };
    let letter = &letter;
    database.db.transaction(|t| async move { record_event(&t, letter).await }).await.unwrap();
    let stored = only(&database.db).await;
    assert_eq!(stored.task_id.as_deref(), Some("t\u{fffd}"));
    assert!(stored.completed_at.is_some(), "no copy is expected");
    assert_eq!(stored.remark, None, "the full record was stored");
}

#[tokio::test]
async fn incident_59_a_refused_row_is_stored_in_short_and_the_others_in_full() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    // Stands for whatever PostgreSQL may refuse that nobody thought of.
    seed.execute(
        "ALTER TABLE dead_letters ADD CONSTRAINT refuses CHECK (routing_key IS DISTINCT FROM 'poison')",
        &[],
    )
    .await;
    let mut poison = submitted("s", "poison", &json!({}));
    poison.routing_key = "poison".into();
    let batch: Vec<Message> =
        vec![submitted("s", "a", &json!({})), poison.clone(), submitted("s", "b", &json!({}))];
    let arrivals: Vec<_> =
        batch.iter().map(|message| arrival(&nacked(message, EVENTS, "rejected"))).collect();
    store_arrivals(&database.db, &arrivals).await.unwrap();
    reject(&database.db, &poison, FailureKind::PoisonRow).await;
    let letters = every(&database.db).await;
    assert_eq!(letters.len(), 3);
    let short = letters.iter().find(|letter| letter.letter_key == "event:s#poison").unwrap();
    assert!(short.remark.as_deref().unwrap().contains("stored in short"), "{short:?}");
    assert_eq!(short.failure_kind.as_deref(), Some("poison_row"));
    assert!(short.completed_at.is_some(), "its halves joined all the same");
    assert!(short.payload_bytes.is_some());
    let full = letters.iter().find(|letter| letter.letter_key == "event:s#a").unwrap();
    assert_eq!((full.remark.as_deref(), full.event_id.as_deref()), (None, Some("a")));
    // A record with almost every column empty is listed and grouped like any other.
    assert_eq!(groups(&database.db, &LetterFilter::default()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn either_half_may_come_first_for_an_event_and_for_an_attempt() {
    let database = TestDatabase::new().await;
    let (db, seed) = (&database.db, Seed::new(&database.db));
    let message = submitted("ci", "e1", &json!({}));
    store_arrivals(db, &[arrival(&nacked(&message, EVENTS, "rejected"))]).await.unwrap();
    assert_eq!(only(db).await.completed_at, None, "waits for its failure");
    reject(db, &message, FailureKind::UnknownKind).await;
    assert!(only(db).await.completed_at.is_some());

    for (task, copy_first) in [("t1", true), ("t2", false)] {
        let (agent, claim) = assigned(&seed, task).await;
        let copy = arrival(&nacked(&assignment(&claim, "plan"), AGENT, "rejected"));
        if copy_first {
            store_arrivals(db, std::slice::from_ref(&copy)).await.unwrap();
        }
        seed.must(&claim.task_id, failed(&agent, &claim, "exit 3")).await;
        if !copy_first {
            assert_eq!(every(db).await[0].completed_at, None, "waits for the broker's copy");
            store_arrivals(db, &[copy]).await.unwrap();
        }
        let letter = every(db).await.into_iter().next().unwrap();
        assert_eq!(letter.letter_key, format!("attempt:{task}#1"));
        assert!(letter.completed_at.is_some());
        assert_eq!(letter.failure_number("exit_code"), Some(3));
        assert_eq!(letter.agent_id.as_deref(), Some(format!("worker-{task}").as_str()));
        assert_eq!((letter.step.as_deref(), letter.queue.as_deref()), (Some("plan"), Some(AGENT)));
        assert_eq!(letter.payload.as_deref(), Some("{}"), "the task's payload, not the message's body");
    }
}

#[tokio::test]
async fn no_lease_token_is_ever_stored() {
    let database = TestDatabase::new().await;
    let (db, seed) = (&database.db, Seed::new(&database.db));
    let (_, claim) = assigned(&seed, "t1").await;
    let mut stranger = claim.clone();
    stranger.lease = LeaseToken(Uuid::new_v4());
    let report =
        message("switchyard.reports", "outcome.default.worker-0", json!({ "claim": claim }).to_string());
    let broken =
        message("switchyard.reports", "outcome.x", format!("{{\"lease\":\"{}\", oops", claim.lease.0));
    for message in [&assignment(&claim, "plan"), &assignment(&stranger, "plan"), &report, &broken] {
        store_arrivals(db, &[arrival(&nacked(message, AGENT, "rejected"))]).await.unwrap();
    }
    let letter = ReportLetter {
        message: &report,
        queue: "switchyard.outcomes",
        failure: Failure::new(FailureKind::MalformedReport, "whose?"),
    };
    let letter = &letter;
    db.transaction(|t| async move { record_report(&t, letter).await }).await.unwrap();
    let all: String = seed
        .value("SELECT string_agg(d::text || coalesce(convert_from(payload_bytes, 'UTF8'), ''), ' ') FROM dead_letters d", &[])
        .await;
    for lease in [claim.lease, stranger.lease] {
        assert!(!all.contains(&lease.0.to_string()), "{all}");
    }
    let letters = every(db).await;
    assert_eq!(letters.len(), 4);
    let joined = letters.iter().find(|letter| {
        letter.exchange.as_deref() == Some("switchyard.reports") && letter.completed_at.is_some()
    });
    assert!(joined.is_some(), "the report's failure joined its copy");
}

#[tokio::test]
async fn a_forged_assignment_or_x_death_touches_no_attempt() {
    let database = TestDatabase::new().await;
    let (db, seed) = (&database.db, Seed::new(&database.db));
    let (_, claim) = assigned(&seed, "t1").await;
    let mut stranger = claim.clone();
    stranger.lease = LeaseToken(Uuid::new_v4());
    let forged = nacked(&assignment(&stranger, "plan"), AGENT, "delivery_limit");
    let mut nonsense = event("{}");
    nonsense.properties.headers.insert("x-death".into(), "forged".into());
    store_arrivals(db, &[arrival(&forged), arrival(&nonsense)]).await.unwrap();
    wait_is_over(&seed).await;
    let report = sweep::run_once(db).await.unwrap();
    assert_eq!((report.completed, report.revoked.len()), (2, 0));
    let revoked: Option<String> =
        seed.value("SELECT revoke_reason FROM attempts WHERE task_id = 't1'", &[]).await;
    assert_eq!(revoked, None);
    let letters = every(db).await;
    assert!(letters.iter().all(|letter| letter.origin == "message"), "{letters:#?}");
    assert!(letters.iter().any(|letter| letter.remark.as_deref().unwrap().contains("lease token")));
}

#[tokio::test]
async fn incident_02_an_assignment_that_only_the_broker_gave_up_is_explained_and_its_attempt_stopped() {
    let database = TestDatabase::new().await;
    let (db, seed) = (&database.db, Seed::new(&database.db));
    let (agent, claim) = assigned(&seed, "t1").await;
    let copy = arrival(&nacked(&assignment(&claim, "plan"), AGENT, "delivery_limit"));
    store_arrivals(db, &[copy]).await.unwrap();
    assert_eq!(sweep::run_once(db).await.unwrap().completed, 0, "the failure may still come");
    wait_is_over(&seed).await;
    let report = sweep::run_once(db).await.unwrap();
    assert_eq!((report.completed, report.revoked.len()), (1, 1));
    let letter = only(db).await;
    assert_eq!(letter.failure_kind.as_deref(), Some("broker_delivery_limit"));
    assert!(letter.remark.as_deref().unwrap().contains("no failure was reported within 30 s"));
    let revoked: String = seed.value("SELECT revoke_reason FROM attempts WHERE task_id = 't1'", &[]).await;
    assert_eq!(revoked, "broker_letter");
    // The true reason comes late: it takes the place of the made-up one, which stays as evidence.
    seed.must(&claim.task_id, failed(&agent, &claim, "exit 3")).await;
    let letter = only(db).await;
    assert_eq!(letter.failure_kind.as_deref(), Some("handler_failed"));
    assert_eq!(letter.evidence[0]["failure"]["kind"], "broker_delivery_limit");
}

#[tokio::test]
async fn a_task_that_cannot_be_read_holds_up_no_letter_but_its_own() {
    let database = TestDatabase::new().await;
    let (db, seed) = (&database.db, Seed::new(&database.db));
    let mut copies = Vec::new();
    for task in ["t1", "t2"] {
        let (_, claim) = assigned(&seed, task).await;
        copies.push(arrival(&nacked(&assignment(&claim, "plan"), AGENT, "delivery_limit")));
    }
    store_arrivals(db, &copies).await.unwrap();
    let set_name = "UPDATE tasks SET steps = jsonb_set(steps, '{0,name}', $1::jsonb) WHERE task_id = 't1'";
    seed.execute(set_name, &[&json!(7)]).await;
    wait_is_over(&seed).await;
    let report = sweep::run_once(db).await.unwrap();
    assert_eq!((report.completed, report.revoked.len()), (1, 1));
    assert_eq!(report.revoked[0].named.task_id.as_str(), "t2");
    seed.execute(set_name, &[&json!("plan")]).await;
    let report = sweep::run_once(db).await.unwrap();
    assert_eq!((report.completed, report.revoked.len()), (1, 1));
}

#[tokio::test]
async fn a_running_step_that_is_not_repeatable_is_only_recorded() {
    let database = TestDatabase::new().await;
    let (db, seed) = (&database.db, Seed::new(&database.db));
    let (_, claim) = assigned(&seed, "t1").await;
    // As after an ask that was granted.
    seed.execute(
        "UPDATE attempts SET repeatable = false, started_at = now(), nonce = gen_random_uuid()",
        &[],
    )
    .await;
    seed.execute("UPDATE tasks SET status = 'running', step_started = true, step_repeatable = false", &[])
        .await;
    store_arrivals(db, &[arrival(&nacked(&assignment(&claim, "plan"), AGENT, "rejected"))]).await.unwrap();
    wait_is_over(&seed).await;
    assert_eq!(sweep::run_once(db).await.unwrap().completed, 1);
    let revoked: Option<String> = seed.value("SELECT revoke_reason FROM attempts", &[]).await;
    assert_eq!(revoked, None);
    assert_eq!(seed.status(&claim.task_id).await, "running");
    assert_eq!(only(db).await.failure_kind.as_deref(), Some("broker_rejected"));
}

#[tokio::test]
async fn incident_45_a_failure_whose_message_never_comes_back_is_completed_as_it_is() {
    let database = TestDatabase::new().await;
    let (db, seed) = (&database.db, Seed::new(&database.db));
    let message = submitted("ci", "e1", &json!({}));
    reject(db, &message, FailureKind::UnknownWorkspace).await;
    wait_is_over(&seed).await;
    let report = sweep::run_once(db).await.unwrap();
    assert_eq!((report.completed, report.revoked.len()), (1, 0));
    let letter = only(db).await;
    assert_eq!(letter.failure_kind.as_deref(), Some("unknown_workspace"));
    assert!(letter.remark.as_deref().unwrap().contains("did not come within 30 s"));
    // It comes late: said, and nothing else changes.
    store_arrivals(db, &[arrival(&nacked(&message, EVENTS, "rejected"))]).await.unwrap();
    let late = only(db).await;
    assert!(late.remark.as_deref().unwrap().contains("came later"));
    assert_eq!(late.completed_at, letter.completed_at);
    assert!(late.broker_at.is_some());
}

#[tokio::test]
async fn a_second_rejection_is_evidence_and_the_evidence_is_bounded() {
    let database = TestDatabase::new().await;
    let (db, seed) = (&database.db, Seed::new(&database.db));
    let message = submitted("ci", "e1", &json!({}));
    reject(db, &message, FailureKind::UnknownWorkspace).await;
    for _ in 0..=EVIDENCE_MAX_COUNT {
        reject(db, &message, FailureKind::InvalidValue).await;
    }
    let letter = only(db).await;
    assert_eq!(letter.failure_kind.as_deref(), Some("unknown_workspace"), "the first failure stays");
    assert_eq!(letter.evidence.as_array().map(Vec::len), Some(EVIDENCE_MAX_COUNT));
    assert_eq!(usize::try_from(letter.evidence_count).unwrap(), EVIDENCE_MAX_COUNT + 1);
    assert_eq!(letter.evidence[0]["failure"]["kind"], "invalid_value");
    // Once resolved, a new rejection opens the letter again: it must not be silent.
    seed.execute(
        "UPDATE dead_letters SET resolved_at = now(), resolution = 'discarded', resolved_by = 'me', logged_at = now(),
         completed_at = now(), evidence = '[]'",
        &[],
    )
    .await;
    reject(db, &message, FailureKind::InvalidValue).await;
    let letter = only(db).await;
    assert_eq!((letter.resolved_at, letter.logged_at, letter.completed_at), (None, None, None));
    assert_eq!(letter.failure_kind.as_deref(), Some("invalid_value"));
    assert_eq!(letter.evidence[0]["resolution"], "discarded");
}

#[tokio::test]
async fn letters_of_a_task_that_succeeds_resolve_themselves() {
    let database = TestDatabase::new().await;
    let (db, seed) = (&database.db, Seed::new(&database.db));
    let (agent, first) = assigned(&seed, "t1").await;
    seed.must(&first.task_id, failed(&agent, &first, "flaky")).await;
    reject(db, &submitted("ci", "other", &json!({})), FailureKind::InvalidValue).await;
    seed.execute("UPDATE tasks SET run_after = NULL", &[]).await;
    let second = seed.assign(&first.task_id, &agent).await;
    let reporter = Reporter { agent: agent.agent.clone(), granted: true, epoch_is_current: true };
    let end = OutcomeEnd::Succeeded { changes: false, artifacts: Default::default(), result: None };
    seed.must(&first.task_id, Input::Outcome { reporter, claim: second, end }).await;
    let letters = every(db).await;
    let resolutions: Vec<_> = letters.iter().map(|l| (l.origin.as_str(), l.resolution.as_deref())).collect();
    assert_eq!(resolutions, [("event", None), ("attempt", Some("task_succeeded"))]);
}

#[tokio::test]
async fn an_uncertain_task_that_is_resolved_to_succeeded_takes_its_letter_along() {
    let database = TestDatabase::new().await;
    let (db, seed) = (&database.db, Seed::new(&database.db));
    let (_, claim) = assigned(&seed, "t1").await;
    seed.execute(
        "UPDATE attempts SET repeatable = false, started_at = now(), nonce = gen_random_uuid()",
        &[],
    )
    .await;
    seed.execute(
        "UPDATE tasks SET status = 'running', step_started = true, step_repeatable = false,
        steps = jsonb_set(steps, '{0,repeatable}', 'false')",
        &[],
    )
    .await;
    let lost =
        Input::SessionEnded { session: claim.session, reason: switchyard_common::task::LossReason::Silent };
    seed.must(&claim.task_id, lost).await;
    assert_eq!(seed.status(&claim.task_id).await, "uncertain");
    assert_eq!(only(db).await.failure_kind.as_deref(), Some("agent_lost"));
    let resolve = Input::Resolve {
        by: "me".into(),
        to: ResolveTo::Succeeded,
        session_over: true,
        override_reason: None,
    };
    seed.apply(Named { task_id: claim.task_id.clone(), attempt: None, input: resolve }).await;
    assert_eq!(only(db).await.resolution.as_deref(), Some("task_succeeded"));
}

#[tokio::test]
async fn two_replicas_that_write_the_same_letters_in_any_order_make_one_of_each() {
    let database = TestDatabase::new().await;
    let other = database.another_replica();
    let messages: Vec<Message> = (0..40).map(|n| submitted("ci", &format!("e{n}"), &Value::Null)).collect();
    let forward: Vec<_> = messages.iter().map(|m| arrival(&nacked(m, EVENTS, "rejected"))).collect();
    let backward: Vec<_> = forward.iter().rev().cloned().collect();
    let (one, two) = tokio::join!(store_arrivals(&database.db, &forward), store_arrivals(&other, &backward));
    one.unwrap();
    two.unwrap();
    let letters = every(&database.db).await;
    assert_eq!(letters.len(), 40);
    assert!(letters.iter().all(|letter| letter.evidence_count == 1), "the second copy is evidence");
}
