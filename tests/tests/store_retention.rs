//! Pruning on a real PostgreSQL: what is old goes in bounded steps, and what something still needs stays.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use switchyard_common::failure::{Failure, FailureKind};
use switchyard_common::task::Input;
use switchyard_dispatcher::retention::policy::RetentionPolicy;
use switchyard_dispatcher::retention::prune::{PruneReport, Pruner};
use switchyard_dispatcher::store::Db;
use switchyard_dispatcher::store::letters::{About, EventLetter, record_event};
use switchyard_tests::harness::database::TestDatabase;
use switchyard_tests::harness::letters::submitted;
use switchyard_tests::harness::seed::{Seed, TaskSeed};

const DAY: Duration = Duration::from_secs(24 * 3_600);

fn policy() -> RetentionPolicy {
    RetentionPolicy::keeping(30 * DAY, 365 * DAY)
}

/// Rounds until nothing more is left to look at; gives the sums.
async fn prune(db: &Db, policy: RetentionPolicy) -> PruneReport {
    let mut pruner = Pruner::new(db.clone(), policy);
    let mut sum = PruneReport::default();
    loop {
        let round = pruner.run_once().await.unwrap();
        sum.tasks += round.tasks;
        sum.logs += round.logs;
        sum.letters += round.letters;
        sum.events += round.events;
        sum.sessions += round.sessions;
        sum.audit += round.audit;
        sum.replicas += round.replicas;
        sum.trials += round.trials;
        if !round.more {
            return sum;
        }
    }
}

/// A task that was cancelled, `days` ago.
async fn ended(seed: &Seed<'_>, id: &str, days: i32) {
    let task = seed.task(&TaskSeed::new(id, "w", "plan")).await;
    seed.must(&task, Input::Cancel { by: "ada".into(), force: false }).await;
    age(seed, id, days).await;
}

async fn age(seed: &Seed<'_>, id: &str, days: i32) {
    seed.execute(
        "UPDATE tasks SET finished_at = finished_at - make_interval(days => $2) WHERE task_id = $1",
        &[&id, &days],
    )
    .await;
    seed.execute(
        "UPDATE events SET received_at = received_at - make_interval(days => $2) WHERE event_id = $1",
        &[&id, &days],
    )
    .await;
}

async fn tasks(db: &Db) -> Vec<String> {
    let connection = db.connection().await.unwrap();
    let rows = connection.query("SELECT task_id FROM tasks ORDER BY task_id", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn resolve_letters(seed: &Seed<'_>, days: i32) {
    seed.execute(
        "UPDATE dead_letters SET resolved_at = now() - make_interval(days => $1), resolution = 'discarded', resolved_by = 'ada'",
        &[&days],
    )
    .await;
}

#[tokio::test]
async fn a_finished_task_goes_with_all_that_hangs_on_it_and_a_younger_one_stays() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    seed.workspace("w", "default").await;
    let agent = seed.agent("default", "worker-0").await;
    let task = seed.task(&TaskSeed::new("old", "w", "plan")).await;
    seed.assign(&task, &agent).await;
    seed.execute("INSERT INTO artifact_parts VALUES ('old', 1, 'a', 0, 'x')", &[]).await;
    seed.execute(
        "INSERT INTO artifacts VALUES ('old', 1, '[]', 'sha256:' || repeat('0', 64), 0, now())",
        &[],
    )
    .await;
    seed.execute("INSERT INTO logs VALUES ('old', 1, 1, now(), 'stdout', 'l')", &[]).await;
    seed.execute("INSERT INTO task_notes (task_id, at, what) VALUES ('old', now(), 'w')", &[]).await;
    seed.execute("UPDATE attempts SET outcome = 'lost', ended_at = now()", &[]).await;
    seed.execute(
        "UPDATE tasks SET status = 'cancelled', finished_at = now(), agent_id = NULL, pod_name = NULL, session = NULL,
         lease_token = NULL",
        &[],
    )
    .await;
    age(&seed, "old", 31).await;
    ended(&seed, "young", 29).await;
    seed.task(&TaskSeed::new("open", "w", "plan")).await;
    let report = prune(&database.db, policy()).await;
    assert_eq!(
        (report.tasks, report.logs, report.events),
        (1, 1, 0),
        "the event id outlives its task by two days"
    );
    assert_eq!(tasks(&database.db).await, ["open", "young"]);
    for table in ["attempts", "artifacts", "artifact_parts", "logs", "task_notes"] {
        let rows: i64 = seed.value(&format!("SELECT count(*) FROM {table}"), &[]).await;
        assert_eq!(rows, 0, "{table}");
    }
}

#[tokio::test]
async fn a_task_with_an_open_letter_stays_and_a_resolved_letter_goes_after_its_task() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    seed.workspace("w", "default").await;
    let task = seed.task(&TaskSeed::new("t", "w", "plan")).await;
    seed.must(&task, Input::DeadlinePassed).await;
    age(&seed, "t", 100).await;
    assert_eq!(prune(&database.db, policy()).await.tasks, 0);
    resolve_letters(&seed, 29).await;
    let report = prune(&database.db, policy()).await;
    assert_eq!((report.tasks, report.letters, report.events), (1, 0, 1), "the letter is young");
    seed.execute("UPDATE dead_letters SET resolved_at = resolved_at - interval '2 days'", &[]).await;
    assert_eq!(prune(&database.db, policy()).await.letters, 1);
}

#[tokio::test]
async fn an_old_letter_of_a_task_that_must_stay_stays_with_it() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    seed.workspace("w", "default").await;
    let task = seed.task(&TaskSeed::new("t", "w", "plan")).await;
    seed.must(&task, Input::DeadlinePassed).await;
    resolve_letters(&seed, 100).await;
    let report = prune(&database.db, policy()).await;
    assert_eq!((report.tasks, report.letters), (0, 0), "the audit must find the letter of every failed task");
}

#[tokio::test]
async fn a_task_that_is_being_replayed_stays_until_the_replay_has_ended() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    seed.workspace("w", "default").await;
    ended(&seed, "first", 100).await;
    let replay = seed.task(&TaskSeed::new("second", "w", "plan")).await;
    seed.execute("UPDATE tasks SET replay_of = 'first' WHERE task_id = 'second'", &[]).await;
    assert_eq!(prune(&database.db, policy()).await.tasks, 0);
    seed.must(&replay, Input::Cancel { by: "ada".into(), force: false }).await;
    assert_eq!(prune(&database.db, policy()).await.tasks, 1);
    assert_eq!(tasks(&database.db).await, ["second"]);
}

#[tokio::test]
async fn an_event_id_is_known_for_as_long_as_its_task_and_two_days_longer() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    seed.workspace("w", "default").await;
    ended(&seed, "held", 100).await;
    seed.execute(
        "INSERT INTO dead_letters (letter_key, origin, task_id, broker_copy_expected, broker_at) VALUES ('k', 'task', 'held', true, now())",
        &[],
    )
    .await;
    for (id, days) in [("gone", 33), ("late", 31)] {
        seed.execute(
            "INSERT INTO events (source, event_id, event_type, body_hash, answer, received_at)
             VALUES ('s', $1, 't', '', '{}', now() - make_interval(days => $2))",
            &[&id, &days],
        )
        .await;
    }
    assert_eq!(prune(&database.db, policy()).await.events, 1);
    let left: Vec<String> = seed.value("SELECT array_agg(event_id ORDER BY event_id) FROM events", &[]).await;
    assert_eq!(left, ["held", "late"]);
}

#[tokio::test]
async fn many_log_lines_go_in_several_statements_and_may_go_before_their_task() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    seed.workspace("w", "default").await;
    let agent = seed.agent("default", "worker-0").await;
    let task = seed.task(&TaskSeed::new("t", "w", "plan")).await;
    let claim = seed.assign(&task, &agent).await;
    seed.execute(
        "INSERT INTO logs SELECT 't', 1, n, now(), 'stdout', 'l' FROM generate_series(1, 5001) n",
        &[],
    )
    .await;
    seed.execute(
        "UPDATE attempts SET outcome = 'lost', ended_at = now() WHERE task_id = $1",
        &[&claim.task_id.as_str()],
    )
    .await;
    seed.execute(
        "UPDATE tasks SET status = 'cancelled', finished_at = now() - interval '10 days', agent_id = NULL, pod_name = NULL,
         session = NULL, lease_token = NULL",
        &[],
    )
    .await;
    assert_eq!(prune(&database.db, policy()).await.logs, 0);
    let short = RetentionPolicy { logs: 7 * DAY, ..policy() };
    let report = prune(&database.db, short).await;
    assert_eq!((report.logs, report.tasks), (5001, 0));
}

#[tokio::test]
async fn rows_that_must_stay_do_not_keep_the_walk_from_those_behind_them() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    seed.workspace("w", "default").await;
    ended(&seed, "t", 40).await;
    // More than one window of older tasks, each held by an open letter.
    seed.execute(
        "INSERT INTO tasks (task_id, workspace_id, pool_id, kind, exclusive, steps, step_count, payload, priority, status, step_name,
            handler, step_gated, step_repeatable, since, created_at, finished_at, source, event_id)
         SELECT 'held-' || n, workspace_id, pool_id, kind, exclusive, steps, step_count, payload, priority, status, step_name, handler,
            step_gated, step_repeatable, since, created_at, finished_at - interval '1 day', source, 'held-' || n
         FROM tasks, generate_series(1, 450) n",
        &[],
    )
    .await;
    seed.execute(
        "INSERT INTO dead_letters (letter_key, origin, task_id, broker_copy_expected, broker_at)
         SELECT task_id, 'task', task_id, true, now() FROM tasks WHERE task_id LIKE 'held-%'",
        &[],
    )
    .await;
    let mut pruner = Pruner::new(database.db.clone(), policy());
    let rounds = [
        pruner.run_once().await.unwrap(),
        pruner.run_once().await.unwrap(),
        pruner.run_once().await.unwrap(),
    ];
    assert_eq!(rounds.map(|round| (round.tasks, round.more)), [(0, true), (0, true), (1, false)]);
}

#[tokio::test]
async fn sessions_audit_rows_and_replicas_go_at_their_age() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    seed.workspace("w", "default").await;
    let agent = seed.agent("default", "worker-0").await;
    let task = seed.task(&TaskSeed::new("t", "w", "plan")).await;
    seed.assign(&task, &agent).await;
    // The session of the open attempt has ended, and so has another one; the agent has a new one.
    seed.execute(
        "INSERT INTO agent_sessions (session, pool_id, agent_id) VALUES (gen_random_uuid(), 'default', 'worker-1')",
        &[],
    )
    .await;
    seed.execute("UPDATE agents SET session = gen_random_uuid()", &[]).await;
    seed.execute(
        "UPDATE agent_sessions SET ended_at = now() - interval '31 days', end_reason = 'silent'",
        &[],
    )
    .await;
    seed.execute(
        "INSERT INTO audit_log (at, actor, action, subject) SELECT now() - make_interval(days => d), 'a', 'b', 'c'
         FROM unnest(ARRAY[364, 366]) d",
        &[],
    )
    .await;
    seed.execute(
        "INSERT INTO replicas (replica_id, host, heartbeat_at) SELECT gen_random_uuid(), 'h', now() - make_interval(hours => h)
         FROM unnest(ARRAY[1, 25]) h",
        &[],
    )
    .await;
    let report = prune(&database.db, policy()).await;
    assert_eq!((report.sessions, report.audit, report.replicas), (1, 1, 1));
    let left: String = seed.value("SELECT agent_id FROM agent_sessions", &[]).await;
    assert_eq!(left, "worker-0", "an attempt still names it");
}

#[tokio::test]
async fn two_replicas_that_prune_at_the_same_time_delete_each_row_once() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    for n in 0..300 {
        let message = submitted("s", &n.to_string(), &serde_json::Value::Null);
        let letter = EventLetter {
            message: &message,
            queue: None,
            failure: Failure::new(FailureKind::UnknownKind, "x"),
            about: About::default(),
            broker_copy: false,
        };
        let letter = &letter;
        database.db.transaction(|t| async move { record_event(&t, letter).await }).await.unwrap();
    }
    resolve_letters(&seed, 31).await;
    let other = database.another_replica();
    let (one, two) = tokio::join!(prune(&database.db, policy()), prune(&other, policy()));
    // Rows that one of them skipped because the other had them locked are gone all the same.
    let left: i64 = seed.value("SELECT count(*) FROM dead_letters", &[]).await;
    assert_eq!((one.letters + two.letters, left), (300, 0));
}

#[tokio::test]
async fn trials_of_events_are_kept_as_long_as_the_events_and_no_longer() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    const INSERT: &str = "INSERT INTO event_trials (trial_key, trial_id, replica_id, begun_at) \
        SELECT sha256(days::text::bytea), gen_random_uuid(), gen_random_uuid(), now() - make_interval(days => days) \
        FROM unnest($1::integer[]) days";
    let kept_days = i32::try_from(policy().events.as_secs() / DAY.as_secs()).unwrap();
    seed.execute(INSERT, &[&vec![1, kept_days - 1, kept_days + 1, 2 * kept_days]]).await;
    assert_eq!(prune(&database.db, policy()).await.trials, 2);
}
