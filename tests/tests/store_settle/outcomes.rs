//! Ends of attempts.

use switchyard_common::contract::ids::{LeaseToken, SessionId};
use switchyard_common::contract::report::{
    Claim, NotStarted, OutcomeBatch, OutcomeEnd, ReportBody, StoppedBy,
};
use switchyard_common::task::{Input, LossReason, ResolveTo};
use switchyard_dispatcher::settle::{Fate, Settler};
use switchyard_dispatcher::store::view::explain_agents;
use switchyard_tests::harness::seed::TaskSeed;
use uuid::Uuid;

use crate::world::*;

#[tokio::test]
async fn a_success_ends_the_task_with_what_its_agent_reported() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (task, claim) = world.assigned("t", "plan", &agent).await;
    let end = OutcomeEnd::Succeeded {
        changes: true,
        artifacts: Default::default(),
        result: Some(serde_json::json!({"n": 1})),
    };
    world.report(&agent, &claim, end).await;
    assert_eq!(world.seed().status(&task).await, "succeeded");
    assert!(world.is_free(&task).await);
    let kept: bool = world.value("SELECT outcome = 'succeeded' AND result = '{\"n\": 1}' AND log_lines = 3 AND handler_started_at IS NOT NULL \
                AND handler_ended_at IS NOT NULL FROM attempts WHERE task_id = 't'")
        .await;
    assert!(kept);
    assert_eq!(world.seed().notes(&task).await, [""; 0], "the happy path needs no notes");
}

#[tokio::test]
async fn many_outcomes_in_one_batch_settle_together_and_copies_change_nothing() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let mut reports = Vec::new();
    for n in 0..20 {
        let (_, claim) = world.assigned(&format!("t{n}"), "plan", &agent).await;
        reports.push(outcome(&agent, &claim, done()));
    }
    reports.push(reports[0].clone());
    let fates = world.try_settle(&reports).await.unwrap();
    assert_eq!(fates, vec![Fate::Done; 21]);
    assert_eq!(world.count("tasks WHERE status = 'succeeded'").await, 20);
    let version: i64 = world.value("SELECT version FROM tasks WHERE task_id = 't0'").await;
    world.try_settle(&reports).await.unwrap();
    assert_eq!(world.value::<i64>("SELECT version FROM tasks WHERE task_id = 't0'").await, version);
    assert_eq!(world.count("task_notes").await, 0, "copies are benign");
}

#[tokio::test]
async fn a_failure_is_tried_again_later_with_a_letter_and_a_note() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (task, claim) = world.assigned("t", "plan", &agent).await;
    world.report(&agent, &claim, failed()).await;
    assert_eq!(world.seed().status(&task).await, "pending");
    assert_eq!(
        world
            .count("dead_letters WHERE letter_key = 'attempt:t#1' AND failure_kind = 'handler_failed'")
            .await,
        1
    );
    assert_eq!(world.seed().notes(&task).await, ["tried again later"]);
    assert_eq!(world.count("tasks WHERE charge = 1 AND run_after > now()").await, 1);
}

#[tokio::test]
async fn the_end_of_an_exclusive_task_promotes_its_waiter_in_the_same_transaction() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (_, claim) = world.assigned("first", "plan_and_apply", &agent).await;
    let second = world.seed().task(&TaskSeed::new("second", "w", "plan_and_apply")).await;
    assert_eq!(world.seed().status(&second).await, "blocked");
    let end = OutcomeEnd::Succeeded { changes: false, artifacts: Default::default(), result: None };
    world.report(&agent, &claim, end).await;
    assert_eq!(world.seed().status(&second).await, "pending");
}

#[tokio::test]
async fn incident_39_a_cancelled_task_is_not_resurrected_by_its_agents_report() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (task, claim) = world.assigned("t", "plan", &agent).await;
    world.started(&agent, &claim).await;
    world.seed().must(&task, Input::Cancel { by: "bob".into(), force: false }).await;
    world.report(&agent, &claim, OutcomeEnd::Cancelled { by: StoppedBy::Dispatcher }).await;
    assert_eq!(world.seed().status(&task).await, "cancelled");
    let frozen = || world.value::<String>("SELECT t::text FROM tasks t WHERE task_id = 't'");
    let before = frozen().await;
    world.report(&agent, &claim, done()).await;
    world.report(&agent, &claim, failed()).await;
    world.started(&agent, &claim).await;
    assert_eq!(frozen().await, before);
    // What its agent said late is kept for people, once per report.
    let notes = world.seed().notes(&task).await;
    assert_eq!(notes, ["stopped", "late outcome refused", "late outcome refused"]);
    assert_eq!(
        world.count("dead_letters WHERE letter_key = 'attempt:t#1'").await,
        1,
        "the failure is evidence"
    );
}

#[tokio::test]
async fn incident_42_losing_an_agent_leaves_no_task_in_its_hand_and_keeps_the_logs() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let mut claims = Vec::new();
    for n in 0..3 {
        let (_, claim) = world.assigned(&format!("t{n}"), "plan", &agent).await;
        world.started(&agent, &claim).await;
        claims.push(claim);
    }
    world.seed().execute("INSERT INTO logs VALUES ('t0', 1, 1, now(), 'stdout', 'hello')", &[]).await;
    world.seed().execute("UPDATE agents SET last_seen = now() - interval '21 s'", &[]).await;
    let lost =
        switchyard_dispatcher::presence::heard::lose_silent(&world.database.db, LOST_AFTER).await.unwrap();
    assert_eq!(lost.len(), 1);
    let sweeper = world.sweeper(&world.database.db);
    assert_eq!(sweeper.agents().await.unwrap(), 3);
    assert_eq!(world.count("tasks WHERE status = 'pending' AND agent_id IS NULL AND losses = 1").await, 3);
    assert_eq!(world.count("attempts WHERE outcome = 'lost'").await, 3);
    assert_eq!(world.count("logs").await, 1);
    assert_eq!(world.count("task_notes WHERE what = 'agent lost'").await, 3);
}

#[tokio::test]
async fn incident_48_settling_writes_no_column_that_it_does_not_own() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let task = world.awaiting_approval("t", &agent).await;
    let kept = || {
        world.value::<String>("SELECT concat_ws('|', payload, steps, priority, kind, source, event_id, created_at, artifact_attempt, artifact_digest) \
                FROM tasks WHERE task_id = 't'")
    };
    let before = kept().await;
    world.seed().must(&task, Input::Approve { by: "ann".into(), digest: None }).await;
    let claim = world.seed().assign(&task, &agent).await;
    world.ask(&agent, &claim, switchyard_common::contract::ids::Nonce(Uuid::nil())).await;
    // The apply leaves nothing: the plan that it applied stays the task's artifact.
    world.report(&agent, &claim, done()).await;
    assert_eq!(world.seed().status(&task).await, "succeeded");
    assert_eq!(kept().await, before);
    assert_eq!(world.count("artifact_parts WHERE task_id = 't'").await, 1);
}

#[tokio::test]
async fn incident_64_a_report_of_a_stranger_changes_nothing_and_leaves_no_trace_that_could_be_forged() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let stranger = world.seed().agent("default", "worker-1").await;
    let (task, claim) = world.assigned("t", "plan", &agent).await;
    let forged = |claim: Claim| claim;
    let wrong_lease = forged(Claim { lease: LeaseToken(Uuid::new_v4()), ..claim.clone() });
    let other_session = forged(Claim { session: SessionId(Uuid::new_v4()), ..claim.clone() });
    let unknown = forged(Claim { attempt: 9, ..claim.clone() });
    world.report(&stranger, &claim, failed()).await;
    for forged in [&wrong_lease, &other_session, &unknown] {
        world.report(&agent, forged, failed()).await;
        world.started(&agent, forged).await;
    }
    assert_eq!(world.seed().status(&task).await, "assigned");
    assert_eq!(world.count("dead_letters").await, 0);
    assert_eq!(world.count("task_notes").await, 0);
    world.report(&agent, &claim, done()).await;
    assert_eq!(world.seed().status(&task).await, "succeeded");
}

#[tokio::test]
async fn incident_63_a_revoked_pool_is_not_heard_any_more() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (task, claim) = world.assigned("t", "plan", &agent).await;
    world.seed().execute("UPDATE pools SET revoked_at = now(), revoked_by = 'ann'", &[]).await;
    world.report(&agent, &claim, done()).await;
    world.started(&agent, &claim).await;
    assert_eq!(world.seed().status(&task).await, "assigned");
    assert_eq!(world.sweeper(&world.database.db).agents().await.unwrap(), 1);
    assert_eq!(world.seed().status(&task).await, "pending");
    assert_eq!(world.count("agent_sessions WHERE end_reason = 'pool_revoked'").await, 1);
    assert_eq!(world.count("agents WHERE live").await, 0);
}

#[tokio::test]
async fn a_report_from_before_a_restore_changes_nothing() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (task, claim) = world.assigned("t", "plan", &agent).await;
    world.seed().execute("UPDATE fence SET epoch = 2", &[]).await;
    world.report(&agent, &claim, done()).await;
    assert_eq!(world.seed().status(&task).await, "assigned");
}

#[tokio::test]
async fn incident_69_a_success_after_the_loss_was_declared_is_fenced_and_the_retry_goes_on() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let other = world.seed().agent("default", "worker-1").await;
    let (task, claim) = world.assigned("t", "plan", &agent).await;
    world.started(&agent, &claim).await;
    world
        .seed()
        .must(&task, Input::SessionEnded { session: agent.session, reason: LossReason::Silent })
        .await;
    world.report(&agent, &claim, done()).await;
    assert_eq!(world.seed().status(&task).await, "pending", "the first attempt is over");
    assert!(world.seed().notes(&task).await.contains(&"late outcome refused".to_owned()));
    world.seed().execute("UPDATE tasks SET run_after = now() - interval '1 s'", &[]).await;
    assert_eq!(world.sweeper(&world.database.db).due().await.unwrap(), 1);
    let second = world.seed().assign(&task, &other).await;
    assert_eq!(second.attempt, 2);
    world.report(&other, &second, done()).await;
    assert_eq!(world.seed().status(&task).await, "succeeded");
}

#[tokio::test]
async fn incident_73_a_lost_apply_is_uncertain_and_only_its_late_outcome_or_an_operator_ends_it() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (task, claim) = world.applying("t", &agent).await;
    world.seed().execute("UPDATE agent_sessions SET ended_at = now(), end_reason = 'silent'", &[]).await;
    let sweeper = world.sweeper(&world.database.db);
    assert_eq!(sweeper.agents().await.unwrap(), 1);
    assert_eq!(world.seed().status(&task).await, "uncertain");
    for _ in 0..3 {
        for swept in
            [sweeper.agents().await, sweeper.due().await, sweeper.attempts().await, sweeper.stops().await]
        {
            assert_eq!(swept.unwrap(), 0, "nothing moves an uncertain task");
        }
    }
    let second = world.seed().task(&TaskSeed::new("second", "w", "plan_and_apply")).await;
    assert_eq!(world.seed().status(&second).await, "blocked", "it keeps its workspace");
    world.report(&agent, &claim, done()).await;
    assert_eq!(world.seed().status(&task).await, "succeeded");
    assert_eq!(world.seed().status(&second).await, "pending");
    assert!(world.seed().notes(&task).await.contains(&"uncertain attempt reported".to_owned()));
}

#[tokio::test]
async fn a_late_outcome_after_an_operator_has_resolved_is_kept_as_evidence_only() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (task, claim) = world.applying("t", &agent).await;
    world
        .seed()
        .must(&task, Input::SessionEnded { session: agent.session, reason: LossReason::Silent })
        .await;
    let resolve =
        Input::Resolve { by: "ann".into(), to: ResolveTo::Failed, session_over: true, override_reason: None };
    world.seed().must(&task, resolve).await;
    world.report(&agent, &claim, done()).await;
    assert_eq!(world.seed().status(&task).await, "failed");
    assert!(world.seed().notes(&task).await.contains(&"late outcome refused".to_owned()));
}

#[tokio::test]
async fn incident_53_two_replicas_that_settle_the_same_report_change_the_task_once() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (_, claim) = world.assigned("t", "plan", &agent).await;
    let report = outcome(&agent, &claim, failed());
    let other = world.database.another_replica();
    let (one, two) = (world.outcomes(&world.database.db), world.outcomes(&other));
    let batch = [&report];
    let (first, second) = futures::join!(one.settle(&batch), two.settle(&batch));
    first.unwrap();
    second.unwrap();
    assert_eq!(world.count("tasks WHERE charge = 1").await, 1, "charged once");
    assert_eq!(world.count("task_notes WHERE what = 'tried again later'").await, 1);
}

#[tokio::test]
async fn whoever_gives_work_back_because_it_drains_gets_none_again_before_its_sign_of_life_says_so() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    world.seed().agent("default", "worker-1").await;
    let (_, claim) = world.assigned("t", "plan", &agent).await;
    let foreign = Claim { session: SessionId(Uuid::new_v4()), ..claim.clone() };
    world
        .try_settle(&[outcome(&agent, &foreign, OutcomeEnd::NotStarted { reason: NotStarted::Draining })])
        .await
        .unwrap();
    assert_eq!(world.count("agents WHERE draining").await, 0, "a session that is not its own says nothing");
    world.report(&agent, &claim, OutcomeEnd::NotStarted { reason: NotStarted::Draining }).await;
    assert_eq!(world.count("agents WHERE draining AND agent_id = 'worker-0'").await, 1);
    assert_eq!(world.count("agents WHERE draining").await, 1);
}

#[tokio::test]
async fn what_was_not_started_goes_to_somebody_else_uncharged() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (task, claim) = world.assigned("t", "plan", &agent).await;
    world.report(&agent, &claim, OutcomeEnd::NotStarted { reason: NotStarted::Draining }).await;
    assert_eq!(
        world
            .count("tasks WHERE status = 'pending' AND run_after IS NULL AND charge = 0 AND losses = 0")
            .await,
        1
    );
    assert_eq!(world.seed().notes(&task).await, ["not started"]);
}

#[tokio::test]
async fn a_step_that_approves_itself_says_so_in_the_timeline() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let seed = TaskSeed { auto_approve: true, ..TaskSeed::new("t", "w", "plan_and_apply") };
    let task = world.seed().task(&seed).await;
    let claim = world.seed().assign(&task, &agent).await;
    world.report(&agent, &claim, done()).await;
    assert_eq!(world.count("tasks WHERE status = 'pending' AND approved_by = 'auto_approve'").await, 1);
    assert_eq!(world.seed().notes(&task).await, ["approved"]);
}

#[tokio::test]
async fn incident_27_places_of_an_agent_are_what_is_open_and_nothing_else() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let open = || world.count("attempts WHERE agent_id = 'worker-0' AND ended_at IS NULL");
    let (task, _) = world.applying("t", &agent).await;
    assert_eq!(open().await, 1, "the plan's place was given back, the apply has its own");
    let claim: (Uuid, i32) = {
        let connection = world.database.db.connection().await.unwrap();
        let row = connection
            .query_one("SELECT lease_token, attempt FROM attempts WHERE ended_at IS NULL", &[])
            .await
            .unwrap();
        (row.get(0), row.get(1))
    };
    let claim = Claim {
        task_id: task,
        attempt: claim.1.unsigned_abs(),
        session: agent.session,
        lease: LeaseToken(claim.0),
    };
    world.report(&agent, &claim, done()).await;
    assert_eq!(open().await, 0);
    // And so the scheduler counts them.
    let next = world.seed().task(&TaskSeed::new("next", "w", "plan")).await;
    let told = explain_agents(&world.database.db, &next).await.unwrap();
    assert!(told[0].1.contains("(0 of "), "{told:?}");
}

#[tokio::test]
async fn an_empty_batch_of_outcomes_is_harmless() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let empty = heard(&agent.agent, ReportBody::Outcome(OutcomeBatch { outcomes: Vec::new() }));
    world.settle(empty).await;
}
