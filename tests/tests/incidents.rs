//! Incidents that are guarded by the store, where no other suite has them. Each name carries the incident's number; the list of all of
//! them, with the tests and the mutants that prove them, is held by `incident_register.rs`.
#![expect(
    clippy::expect_used,
    reason = "all of this is tests; clippy exempts only the test functions themselves"
)]

use std::collections::BTreeMap;

use serde_json::json;
use switchyard_common::contract::artifact::Manifest;
use switchyard_common::contract::assignment::AttemptKey;
use switchyard_common::contract::ids::{AgentRef, LeaseToken, PoolId, TaskId};
use switchyard_common::contract::report::{Claim, OutcomeEnd};
use switchyard_common::failure::FailureKind;
use switchyard_common::task::{AssignTo, Input, Reporter};
use switchyard_dispatcher::intake::command::Verdict;
use switchyard_dispatcher::pass::run_once;
use switchyard_dispatcher::schedule::WaitingOn;
use switchyard_dispatcher::store::intake::{IntakeRules, store};
use switchyard_dispatcher::store::route::{Publish, claim_resends, contents, input_parts};
use switchyard_dispatcher::store::view::{TaskFilter, tasks};
use switchyard_dispatcher::store::{Applier, Named};
use switchyard_tests::harness::database::TestDatabase;
use switchyard_tests::harness::events::{store_one, submission};
use switchyard_tests::harness::seed::{AgentSeed, Seed};
use uuid::Uuid;

fn task_id(text: &str) -> TaskId {
    TaskId::new(text).expect("a task id")
}

async fn pass(database: &TestDatabase) -> Vec<String> {
    let report = run_once(&database.db, &PoolId::new("default").expect("a pool")).await.expect("a pass");
    report.assigned.iter().map(|committed| committed.key.task_id.to_string()).collect()
}

/// A `plan_and_apply` whose plan left one file, as settling stores it, and that waits for approval.
async fn awaiting_approval(database: &TestDatabase, agent: &AgentSeed, id: &str) -> Manifest {
    let seed = Seed::new(&database.db);
    store_one(&database.db, submission(id, "w", "plan_and_apply", json!({}))).await;
    let claim = seed.assign(&task_id(id), agent).await;
    let manifest =
        Manifest::of(&BTreeMap::from([("plan".to_owned(), b"change it".to_vec())])).expect("small");
    let (value, digest) = (serde_json::to_value(&manifest).expect("JSON"), manifest.digest().to_string());
    seed.execute(
        "INSERT INTO artifact_parts (task_id, attempt, name, part, bytes) VALUES ($1, 1, 'plan', 0, $2)",
        &[&id, &b"change it".to_vec()],
    )
    .await;
    seed.execute(
        "INSERT INTO artifacts (task_id, attempt, manifest, digest, total_bytes, created_at) VALUES ($1, 1, $2, $3, 9, now())",
        &[&id, &value, &digest],
    )
    .await;
    let reporter = Reporter { agent: agent.agent.clone(), granted: true, epoch_is_current: true };
    let end = OutcomeEnd::Succeeded { changes: true, artifacts: manifest.clone(), result: None };
    seed.apply(Named {
        task_id: task_id(id),
        attempt: Some(claim.attempt),
        input: Input::Outcome { reporter, claim, end },
    })
    .await;
    assert_eq!(seed.status(&task_id(id)).await, "awaiting_approval");
    manifest
}

#[tokio::test]
async fn incident_11_plans_run_while_an_apply_of_their_workspace_awaits_approval() {
    let database = TestDatabase::new().await;
    let agent = Seed::new(&database.db).agent("default", "worker-0").await;
    awaiting_approval(&database, &agent, "apply").await;
    store_one(&database.db, submission("plan", "w", "plan", json!({}))).await;
    assert_eq!(pass(&database).await, ["plan"]);
}

#[tokio::test]
async fn incident_12_a_pool_that_nobody_serves_is_refused_or_the_wait_for_it_can_be_read() {
    let database = TestDatabase::new().await;
    let rules = IntakeRules { allow_new_pools: false };
    let refused =
        store(&database.db, &[submission("t", "w", "plan", json!({}))], rules).await.expect("stored");
    let (Verdict::Rejected(rejection) | Verdict::Hold(rejection)) = &refused.verdicts[0] else {
        panic!("accepted into a pool that does not exist")
    };
    assert!(rejection.message.contains("default") && !rejection.what_to_do.is_empty(), "{rejection}");
    assert_ne!(rejection.code, FailureKind::PoisonRow);

    store_one(&database.db, submission("t", "w", "plan", json!({}))).await;
    assert!(pass(&database).await.is_empty());
    let filter = TaskFilter { task_id: Some("t".into()), limit: 1, ..TaskFilter::default() };
    let waiting = tasks(&database.db, &filter).await.expect("a list");
    assert_eq!(waiting[0].waiting_on, WaitingOn::LiveAgent { pool: "default".into() });
    assert!(waiting[0].waiting_for.contains("there is none"), "{}", waiting[0].waiting_for);
}

#[tokio::test]
async fn incident_13_nothing_can_be_sent_of_an_assignment_before_it_is_committed() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    store_one(&database.db, submission("t", "w", "plan", json!({}))).await;
    let agent = seed.agent("default", "worker-0").await;
    let to = AssignTo {
        agent: agent.agent.clone(),
        pod: "worker-0-pod".into(),
        session: agent.session,
        lease: LeaseToken(Uuid::new_v4()),
    };
    let input = [Named { task_id: task_id("t"), attempt: None, input: Input::Assign(to) }];
    let first = [Publish::first(AttemptKey { task_id: task_id("t"), attempt: 1 })];
    let (db, input, first) = (&database.db, &input, &first);
    db.transaction(|transaction| async move {
        let mut applier = Applier::load(db, &transaction, input).await?;
        applier.decide(&input[0]);
        applier.finish().await?;
        // Written, not committed: whoever reads it to send it, on another connection, finds nothing.
        assert!(contents(db, first).await?.is_empty());
        Ok(())
    })
    .await
    .expect("assigned");
    let sent = contents(db, first).await.expect("read");
    let assignment = &sent[0].assignment;
    assert_eq!((&assignment.agent, assignment.session), (&agent.agent.agent, agent.session));
}

#[tokio::test]
async fn incident_16_an_apply_carries_the_approved_plan_whoever_sends_it() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    let agent = seed.agent("default", "worker-0").await;
    let manifest = awaiting_approval(&database, &agent, "t").await;
    seed.must(&task_id("t"), Input::Approve { by: "eve".into(), digest: None }).await;
    assert_eq!(pass(&database).await, ["t"]);
    // A dispatcher that was started later knows nothing but the rows.
    let restarted = database.another_replica();
    let lost = Publish::first(AttemptKey { task_id: task_id("t"), attempt: 2 });
    let claimed = claim_resends(&restarted, &[lost]).await.expect("taken over");
    let sent = contents(&restarted, &claimed).await.expect("read");
    let assignment = &sent[0].assignment;
    let parts = input_parts(&restarted, &sent[0]).await.expect("read");
    assert_eq!(assignment.inputs, manifest);
    assert_eq!(assignment.approval.as_ref().map(|approval| &approval.digest), Some(&manifest.digest()));
    assert_eq!(parts.iter().map(|part| part.part.bytes.as_slice()).collect::<Vec<_>>(), [b"change it"]);
    // The reference cannot go missing: the database refuses an apply in hand without it.
    let connection = database.db.connection().await.expect("a connection");
    let lost =
        connection.execute("UPDATE tasks SET artifact_digest = NULL, artifact_attempt = NULL", &[]).await;
    let error = lost.expect_err("the reference to the plan was lost");
    assert!(
        error.as_db_error().is_some_and(|error| error.constraint() == Some("gated_step_is_approved")),
        "{error:?}"
    );
}

#[tokio::test]
async fn incident_46_the_database_refuses_an_approval_wait_or_a_run_without_the_workspace() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    let agent = seed.agent("default", "worker-0").await;
    awaiting_approval(&database, &agent, "t").await;
    let release = async || {
        let connection = database.db.connection().await.expect("a connection");
        let released = connection.execute("UPDATE tasks SET holds = false WHERE task_id = 't'", &[]).await;
        let error = released.expect_err("the workspace was let go");
        error.as_db_error().and_then(|error| error.constraint().map(str::to_owned)).expect("a constraint")
    };
    assert_eq!(release().await, "in_progress_holds_its_workspace");
    seed.must(&task_id("t"), Input::Approve { by: "eve".into(), digest: None }).await;
    seed.assign(&task_id("t"), &agent).await;
    assert_eq!(release().await, "in_progress_holds_its_workspace");
}

#[tokio::test]
async fn incident_03_a_lost_agent_resolves_the_attempt_that_never_reported() {
    let database = TestDatabase::new().await;
    let seed = Seed::new(&database.db);
    store_one(&database.db, submission("t", "w", "plan", json!({}))).await;
    let agent = seed.agent("default", "worker-0").await;
    let claim: Claim = seed.assign(&task_id("t"), &agent).await;
    let reporter =
        Reporter { agent: AgentRef { ..agent.agent.clone() }, granted: true, epoch_is_current: true };
    seed.must(&task_id("t"), Input::Started { reporter, claim }).await;
    let reason = switchyard_common::task::LossReason::Silent;
    seed.must(&task_id("t"), Input::SessionEnded { session: agent.session, reason }).await;
    assert_eq!(seed.status(&task_id("t")).await, "pending");
    let open: i64 = seed.value("SELECT count(*) FROM attempts WHERE ended_at IS NULL", &[]).await;
    assert_eq!(open, 0);
}
