//! Each query of the audit finds the violation that it is for, and nothing else finds anything in a sound database.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use switchyard_common::contract::artifact::Manifest;
use switchyard_common::contract::report::OutcomeEnd;
use switchyard_common::failure::{Failure, FailureKind};
use switchyard_common::task::{Input, Reporter};
use switchyard_dispatcher::audit::{Finding, OFFENDERS_MAX_COUNT, all, run};
use switchyard_dispatcher::dead_letters::run::log_once;
use switchyard_dispatcher::store::Db;
use switchyard_tests::harness::database::TestDatabase;
use switchyard_tests::harness::seed::{AgentSeed, Seed, TaskSeed};

/// A sound database: `done` and `failed` have ended, `running` is in hand, `held` waits for approval, `waiter` is behind it.
async fn sound(db: &Db) {
    let seed = Seed::new(db);
    seed.workspace("w", "default").await;
    let agent = seed.agent("default", "worker-0").await;
    for (id, kind) in [("done", "plan"), ("running", "plan"), ("held", "plan_and_apply")] {
        let task = seed.task(&TaskSeed::new(id, "w", kind)).await;
        let claim = seed.assign(&task, &agent).await;
        if id != "running" {
            let end = OutcomeEnd::Succeeded { changes: true, artifacts: manifest(), result: None };
            seed.must(&task, Input::Outcome { reporter: reporter(&agent), claim, end }).await;
            leave_artifacts(&seed, id).await;
        }
    }
    seed.task(&TaskSeed::new("waiter", "w", "plan_and_apply")).await;
    fail(&seed, &agent).await;
    log_once(db).await.unwrap();
}

async fn fail(seed: &Seed<'_>, agent: &AgentSeed) {
    let mut failing = TaskSeed::new("failed", "w", "plan");
    let mut steps = failing.kind.steps.to_vec();
    steps[0].policy.max_attempts = 1;
    failing.kind.steps = steps.into();
    let task = seed.task(&failing).await;
    let claim = seed.assign(&task, agent).await;
    let end = OutcomeEnd::Failed { failure: Failure::new(FailureKind::HandlerFailed, "exit 1") };
    seed.must(&task, Input::Outcome { reporter: reporter(agent), claim, end }).await;
    // As if the broker's copy had come.
    seed.execute("UPDATE dead_letters SET broker_at = now(), completed_at = now()", &[]).await;
}

fn reporter(agent: &AgentSeed) -> Reporter {
    Reporter { agent: agent.agent.clone(), granted: true, epoch_is_current: true }
}

fn manifest() -> Manifest {
    Manifest::of(&[("plan".to_owned(), b"the plan".to_vec())].into()).unwrap()
}

async fn leave_artifacts(seed: &Seed<'_>, task: &str) {
    let manifest = manifest();
    let (json, digest) = (serde_json::to_value(&manifest).unwrap(), manifest.digest().to_string());
    seed.execute(
        "INSERT INTO artifacts (task_id, attempt, manifest, digest, total_bytes, created_at) VALUES ($1, 1, $2, $3, 8, now())",
        &[&task, &json, &digest],
    )
    .await;
    seed.execute("INSERT INTO artifact_parts VALUES ($1, 1, 'plan', 0, 'the plan'::bytea)", &[&task]).await;
}

/// Takes away what the schema itself refuses, so that the audit stands alone.
async fn without_constraints(seed: &Seed<'_>) {
    seed.execute(
        "DO $$ DECLARE r record; BEGIN
            FOR r IN SELECT conrelid::regclass AS t, conname AS c FROM pg_constraint
                WHERE contype = 'c' AND connamespace = 'public'::regnamespace LOOP
                EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', r.t, r.c);
            END LOOP;
            FOR r IN SELECT indexrelid::regclass AS i FROM pg_index x JOIN pg_class k ON k.oid = x.indexrelid
                WHERE x.indisunique AND x.indpred IS NOT NULL AND k.relnamespace = 'public'::regnamespace LOOP
                EXECUTE format('DROP INDEX %s', r.i);
            END LOOP;
        END $$",
        &[],
    )
    .await;
}

async fn clear(seed: &Seed<'_>) {
    // Deleting is quicker than TRUNCATE for so few rows.
    for table in ["dead_letters", "tasks", "events", "agent_sessions", "agents", "workspaces", "pools"] {
        seed.execute(&format!("DELETE FROM {table}"), &[]).await;
    }
}

const ATTEMPT: &str = "INSERT INTO attempts (task_id, attempt, step, step_name, exclusive, repeatable, pool_id, agent_id, pod_name,
    session, lease_token, published_by, published_at, assigned_at, run_timeout_ms, started_at, nonce, outcome, ended_at)
    SELECT task_id, {n}, {step}, step_name, exclusive, {repeatable}, pool_id, agent_id, pod_name, session, gen_random_uuid(),
        published_by, published_at, assigned_at, run_timeout_ms, {started}, {outcome} FROM attempts WHERE task_id = '{task}' AND attempt = 1";

/// One more attempt of `task`, like its first.
fn attempt(task: &str, number: u32, step: u32, repeatable: bool, started: bool, outcome: &str) -> String {
    let started = if started { "now(), gen_random_uuid()" } else { "NULL::timestamptz, NULL::uuid" };
    let outcome = if outcome.is_empty() { "NULL, NULL".to_owned() } else { format!("'{outcome}', now()") };
    ATTEMPT
        .replace("{n}", &number.to_string())
        .replace("{step}", &step.to_string())
        .replace("{repeatable}", &repeatable.to_string())
        .replace("{started}", started)
        .replace("{outcome}", &outcome)
        .replace("{task}", task)
}

struct Plant {
    check: &'static str,
    offender: &'static str,
    sql: Vec<String>,
}

fn plant(check: &'static str, offender: &'static str, sql: impl Into<String>) -> Plant {
    Plant { check, offender, sql: vec![sql.into()] }
}

const NOBODY: &str = "agent_id = NULL, pod_name = NULL, session = NULL, lease_token = NULL";

fn plants_of_tasks() -> Vec<Plant> {
    let apply = "UPDATE tasks SET status = 'running', agent_id = 'a', pod_name = 'p', session = gen_random_uuid(), \
        lease_token = gen_random_uuid() WHERE task_id = 'held'";
    let approved = "UPDATE tasks SET status = 'pending', approved_step = 1, approved_by = 'ada', approved_at = now(), \
        approved_digest = 'sha256:other' WHERE task_id = 'held'";
    vec![
        plant("task_without_its_event", "running", "DELETE FROM events WHERE event_id = 'running'"),
        plant(
            "waiters_without_a_head",
            "w: waiter",
            "UPDATE tasks SET status = 'succeeded', finished_at = now(), holds = false WHERE task_id = 'held'",
        ),
        plant(
            "due_task_left_waiting",
            "waiter",
            "UPDATE tasks SET status = 'pending', run_after = now() - interval '6 minutes' WHERE task_id = 'waiter'",
        ),
        plant(
            "timeout_not_applied",
            "waiter",
            "UPDATE tasks SET deadline = now() - interval '6 minutes' WHERE task_id = 'waiter'",
        ),
        plant(
            "timeout_not_applied",
            "held",
            "UPDATE tasks SET approve_until = now() - interval '6 minutes' WHERE task_id = 'held'",
        ),
        plant(
            "cancelled_task_left_waiting",
            "held",
            "UPDATE tasks SET cancel_requested_at = now(), cancel_requested_by = 'ada', cancel_force = false WHERE task_id = 'held'",
        ),
        plant("end_without_a_time", "done", "UPDATE tasks SET finished_at = NULL WHERE task_id = 'done'"),
        plant(
            "in_hand_without_assignee",
            "running",
            "UPDATE tasks SET pod_name = NULL WHERE task_id = 'running'",
        ),
        plant("in_hand_without_assignee", "held", "UPDATE tasks SET agent_id = 'a' WHERE task_id = 'held'"),
        plant(
            "in_hand_without_its_attempt",
            "running",
            "UPDATE attempts SET lease_token = gen_random_uuid() WHERE task_id = 'running'",
        ),
        plant(
            "open_attempt_of_a_task_not_in_hand",
            "running#1",
            format!(
                "UPDATE tasks SET status = 'cancelled', finished_at = now(), {NOBODY} WHERE task_id = 'running'"
            ),
        ),
        plant(
            "uncertain_without_a_start",
            "running",
            "UPDATE tasks SET status = 'uncertain' WHERE task_id = 'running'",
        ),
        plant("two_holders", "w: held, waiter", "UPDATE tasks SET holds = true WHERE task_id = 'waiter'"),
        plant("two_heads", "w: held, waiter", "UPDATE tasks SET status = 'pending' WHERE task_id = 'waiter'"),
        plant(
            "in_progress_without_its_workspace",
            "held",
            "UPDATE tasks SET holds = false WHERE task_id = 'held'",
        ),
        plant("holds_wrongly", "done", "UPDATE tasks SET holds = true WHERE task_id = 'done'"),
        plant(
            "blocked_by_nobody_earlier",
            "waiter",
            "UPDATE tasks SET position = 0 WHERE task_id = 'waiter'",
        ),
        plant(
            "head_overtook_a_waiter",
            "held before waiter",
            "UPDATE tasks SET position = 0 WHERE task_id = 'waiter'",
        ),
        plant("position_not_given", "waiter", "UPDATE tasks SET position = 99 WHERE task_id = 'waiter'"),
        plant("applied_without_approver", "held", apply),
        plant("attempt_of_an_unapproved_step", "held#2", attempt("held", 2, 1, false, false, "lost")),
        plant("approved_other_bytes", "held", approved),
        plant("approved_artifacts_are_gone", "held", "DELETE FROM artifacts WHERE task_id = 'held'"),
        plant(
            "artifact_parts_are_missing",
            "held: plan",
            "DELETE FROM artifact_parts WHERE task_id = 'held'",
        ),
        plant(
            "artifact_parts_are_missing",
            "held: plan",
            "UPDATE artifact_parts SET bytes = 'other' WHERE task_id = 'held'",
        ),
    ]
}

fn plants_of_agents() -> Vec<Plant> {
    let twice =
        || vec![attempt("done", 2, 1, false, true, "lost"), attempt("done", 3, 1, false, true, "failed")];
    vec![
        plant(
            "attempt_of_an_ended_session",
            "running#1",
            "UPDATE agent_sessions SET ended_at = now() - interval '6 minutes', end_reason = 'silent'",
        ),
        Plant { check: "started_twice", offender: "done, step 1", sql: twice() },
        Plant { check: "attempt_after_a_start", offender: "done#3", sql: twice() },
        plant("settled_twice", "done, step 0", attempt("done", 2, 0, true, false, "succeeded")),
        plant(
            "attempt_of_another_pool",
            "running#1",
            "UPDATE attempts SET pool_id = 'other' WHERE task_id = 'running'",
        ),
        plant("attempt_of_another_pool", "held", "UPDATE tasks SET pool_id = 'other' WHERE task_id = 'held'"),
        plant("two_open_attempts", "running", attempt("running", 2, 0, true, false, "")),
        plant("two_open_attempts", "done", "UPDATE tasks SET attempts = 0 WHERE task_id = 'done'"),
        plant(
            "two_current_sessions",
            "default/worker-0",
            "INSERT INTO agent_sessions (session, pool_id, agent_id) VALUES (gen_random_uuid(), 'default', 'worker-0')",
        ),
        plant(
            "two_current_sessions",
            "default/worker-0",
            "UPDATE agent_sessions SET ended_at = now(), end_reason = 'silent'",
        ),
        plant(
            "over_capacity",
            "default/worker-0: 1 open, 0 exclusive",
            "UPDATE agents SET slots = 0, credit = 0",
        ),
    ]
}

fn plants_of_letters() -> Vec<Plant> {
    vec![
        plant("nack_without_letter", "failed#1", "DELETE FROM dead_letters"),
        plant("failed_task_without_letter", "failed", "DELETE FROM dead_letters"),
        plant(
            "letter_without_its_half",
            "L",
            "UPDATE dead_letters SET completed_at = NULL, logged_at = NULL, failed_at = now() - interval '3 minutes'",
        ),
        plant(
            "letter_never_logged",
            "L",
            "UPDATE dead_letters SET logged_at = NULL, completed_at = now() - interval '2 minutes'",
        ),
        plant("letter_without_failure", "L", "UPDATE dead_letters SET failure = NULL"),
        Plant {
            check: "open_letter_of_a_succeeded_task",
            offender: "L",
            sql: vec![
                "UPDATE tasks SET status = 'succeeded', finished_at = now() - interval '2 minutes' WHERE task_id = 'failed'".into(),
                "UPDATE dead_letters SET logged_at = now() - interval '2 minutes'".into(),
            ],
        },
    ]
}

#[tokio::test]
async fn every_check_finds_its_violation() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    without_constraints(&seed).await;
    let plants: Vec<Plant> =
        [plants_of_tasks(), plants_of_agents(), plants_of_letters()].into_iter().flatten().collect();
    let covered: BTreeSet<&str> = plants.iter().map(|plant| plant.check).collect();
    let known: BTreeSet<&str> = all().iter().map(|check| check.name).collect();
    assert_eq!(covered, known, "each check is planted");
    for plant in plants {
        clear(&seed).await;
        sound(&database.db).await;
        assert_eq!(run(&database.db).await.unwrap(), [], "sound before {}", plant.check);
        let letter: i64 = seed.value("SELECT letter_id FROM dead_letters", &[]).await;
        for sql in &plant.sql {
            assert!(seed.execute(sql, &[]).await > 0, "{sql} changes nothing");
        }
        let findings = run(&database.db).await.unwrap();
        let offender = if plant.offender == "L" { letter.to_string() } else { plant.offender.to_owned() };
        let found = findings.iter().find(|finding| finding.name == plant.check);
        let named = found.is_some_and(|finding| finding.offenders.contains(&offender));
        assert!(named, "{}: {offender} in {findings:#?}", plant.check);
    }
}

#[tokio::test]
async fn offenders_are_named_up_to_the_limit_and_all_are_counted() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    seed.execute(
        "INSERT INTO dead_letters (letter_key, origin, broker_copy_expected, failure_kind, failure_message, failure, fingerprint,
            failed_at, completed_at)
         SELECT 'message:' || n, 'message', false, 'poison', 'm', '{}', 'f', now(), now() - interval '2 minutes'
         FROM generate_series(1, 101) n",
        &[],
    )
    .await;
    let findings: Vec<Finding> = run(&database.db).await.unwrap();
    assert_eq!(findings.len(), 1);
    assert_eq!((findings[0].count, findings[0].offenders.len()), (101, OFFENDERS_MAX_COUNT));
    assert_eq!((findings[0].invariant, findings[0].name), (9, "letter_never_logged"));
}

#[tokio::test]
async fn rows_that_cannot_be_read_are_findings_that_say_why() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    sound(&database.db).await;
    seed.execute("UPDATE tasks SET steps = jsonb_set(steps, '{0,name}', '7') WHERE task_id = 'done'", &[])
        .await;
    seed.execute(
        "UPDATE attempts SET revoke_requested_at = now(), revoke_reason = 'of_a_newer_replica', revoke_force = false
         WHERE task_id = 'running'",
        &[],
    )
    .await;
    let findings = run(&database.db).await.unwrap();
    assert_eq!(findings.len(), 1, "{findings:#?}");
    let finding = &findings[0];
    assert_eq!((finding.invariant, finding.name, finding.count), (2, "row_that_cannot_be_read", 2));
    assert!(finding.offenders[0].starts_with("task done: tasks.steps: "), "{finding:#?}");
    assert!(finding.offenders[1].starts_with("attempt running#1: revoke_reason: "), "{finding:#?}");
}

#[tokio::test]
async fn a_step_that_left_no_artifacts_and_waits_for_its_approval_is_sound() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    seed.workspace("w", "default").await;
    let agent = seed.agent("default", "worker-0").await;
    let task = seed.task(&TaskSeed::new("held", "w", "plan_and_apply")).await;
    let claim = seed.assign(&task, &agent).await;
    let end = OutcomeEnd::Succeeded { changes: true, artifacts: Manifest::default(), result: None };
    seed.must(&task, Input::Outcome { reporter: reporter(&agent), claim, end }).await;
    assert_eq!(seed.status(&task).await, "awaiting_approval");
    assert_eq!(run(&database.db).await.unwrap(), []);
}

#[tokio::test]
async fn an_empty_database_is_sound() {
    let database = TestDatabase::new().await;
    assert_eq!(run(&database.db).await.unwrap(), []);
}
