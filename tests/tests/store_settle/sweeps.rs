//! What time brings, and what a lost message would leave behind.

use chrono::{TimeDelta, Utc};
use switchyard_common::contract::control::Order;
use switchyard_common::contract::report::{OutcomeEnd, StoppedBy};
use switchyard_common::task::Input;
use switchyard_dispatcher::sweep::stops::UNANSWERED_FROM_SENDS;
use switchyard_tests::harness::seed::{Seed, TaskSeed};

use crate::world::*;

fn with_policy(id: &str, change: impl Fn(&mut switchyard_common::task::StepPolicy)) -> TaskSeed {
    let mut seed = TaskSeed::new(id, "w", "plan");
    let mut steps = seed.kind.steps.to_vec();
    steps.iter_mut().for_each(|step| change(&mut step.policy));
    seed.kind.steps = steps.into();
    seed
}

#[tokio::test]
async fn tasks_become_due_when_their_time_comes_and_take_their_place_then() {
    let world = World::new().await;
    let soon = Utc::now() - TimeDelta::seconds(1);
    let later = Utc::now() + TimeDelta::hours(1);
    let due = TaskSeed { not_before: Some(soon), ..TaskSeed::new("due", "w", "plan_and_apply") };
    let due = world.seed().task(&due).await;
    let early = TaskSeed { not_before: Some(later), ..TaskSeed::new("early", "w", "plan_and_apply") };
    world.seed().task(&early).await;
    let first = world.seed().task(&TaskSeed::new("first", "w", "plan_and_apply")).await;
    assert_eq!(world.sweeper(&world.database.db).due().await.unwrap(), 1);
    assert_eq!(world.seed().status(&first).await, "pending");
    assert_eq!(
        world.seed().status(&due).await,
        "blocked",
        "it takes its place behind those that came before it was due"
    );
    assert_eq!(
        world.count("tasks WHERE task_id = 'early' AND position IS NULL AND run_after IS NOT NULL").await,
        1
    );
}

#[tokio::test]
async fn incident_70_two_replicas_that_sweep_at_once_change_each_task_once() {
    let world = World::new().await;
    let other = world.database.another_replica();
    let past = Utc::now() - TimeDelta::seconds(1);
    for n in 0..30 {
        let kind = ["plan", "drift_check", "plan_and_apply"][n % 3];
        let seed = TaskSeed { not_before: Some(past), ..TaskSeed::new(&format!("t{n:02}"), "w", kind) };
        world.seed().task(&seed).await;
    }
    let (one, two) = (world.sweeper(&world.database.db), world.sweeper(&other));
    let (first, second) = futures::join!(one.due(), two.due());
    assert_eq!(first.unwrap() + second.unwrap(), 30);
    assert_eq!(world.count("tasks WHERE version = 2").await, 30);
    assert_eq!(
        world.count("tasks WHERE exclusive AND status = 'pending'").await,
        1,
        "one head in the workspace"
    );
}

#[tokio::test]
async fn a_deadline_fails_what_waits_and_stops_what_runs() {
    let mut world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let past = Some(Utc::now() - TimeDelta::seconds(1));
    let waits = world.seed().task(&TaskSeed { deadline: past, ..TaskSeed::new("waits", "w", "plan") }).await;
    let runs = world.seed().task(&TaskSeed { deadline: past, ..TaskSeed::new("runs", "w", "plan") }).await;
    let claim = world.seed().assign(&runs, &agent).await;
    let sweeper = world.sweeper(&world.database.db);
    assert_eq!(sweeper.deadlines().await.unwrap(), 2);
    assert_eq!(world.seed().status(&waits).await, "failed");
    assert!(matches!(&world.told()[..], [Order::Revoke { claim: told, force: true, .. }] if *told == claim));
    assert_eq!(sweeper.deadlines().await.unwrap(), 0, "asked once");
    assert_eq!(world.seed().status(&runs).await, "assigned", "until its agent answers");
    world.report(&agent, &claim, OutcomeEnd::Cancelled { by: StoppedBy::Dispatcher }).await;
    assert_eq!(world.seed().status(&runs).await, "failed");
    assert_eq!(world.count("dead_letters WHERE failure_kind = 'deadline'").await, 2);
}

#[tokio::test]
async fn a_step_that_no_agent_takes_fails_after_its_queue_timeout() {
    let world = World::new().await;
    let task = world.seed().task(&with_policy("t", |policy| policy.queue_timeout_ms = Some(60_000))).await;
    let sweeper = world.sweeper(&world.database.db);
    assert_eq!(sweeper.waits().await.unwrap(), 0);
    world.seed().execute("UPDATE tasks SET queue_until = now()", &[]).await;
    assert_eq!(sweeper.waits().await.unwrap(), 1);
    assert_eq!(world.seed().status(&task).await, "failed");
    assert_eq!(world.count("dead_letters WHERE failure_kind = 'queue_timeout'").await, 1);
}

#[tokio::test]
async fn an_approval_that_is_not_given_in_time_fails_the_task() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let task = world.awaiting_approval("t", &agent).await;
    let sweeper = world.sweeper(&world.database.db);
    assert_eq!(sweeper.waits().await.unwrap(), 0, "without a timeout it waits for ever");
    world.seed().execute("UPDATE tasks SET approve_until = now()", &[]).await;
    assert_eq!(sweeper.waits().await.unwrap(), 1);
    assert_eq!(world.seed().status(&task).await, "failed");
}

#[tokio::test]
async fn incident_67_an_assignment_that_is_not_picked_up_in_time_is_asked_back() {
    let mut world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let task = world.seed().task(&with_policy("t", |policy| policy.start_timeout_ms = Some(60_000))).await;
    let claim = world.seed().assign(&task, &agent).await;
    let sweeper = world.sweeper(&world.database.db);
    assert_eq!(sweeper.attempts().await.unwrap(), 0);
    world.seed().execute("UPDATE attempts SET start_by = now()", &[]).await;
    assert_eq!(sweeper.attempts().await.unwrap(), 1);
    assert!(matches!(&world.told()[..], [Order::Revoke { claim: told, .. }] if *told == claim));
    assert_eq!(world.seed().notes(&task).await, ["stop requested"]);
}

#[tokio::test]
async fn a_handler_that_runs_past_its_timeout_and_the_grace_is_stopped() {
    let mut world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let task = world.seed().task(&with_policy("t", |policy| policy.run_timeout_ms = 60_000)).await;
    let claim = world.seed().assign(&task, &agent).await;
    world.started(&agent, &claim).await;
    let sweeper = world.sweeper(&world.database.db);
    let runs_since = async |seconds: i32| {
        let sql = "UPDATE attempts SET started_at = now() - $1::integer * interval '1 s'";
        world.seed().execute(sql, &[&seconds]).await;
        sweeper.attempts().await.unwrap()
    };
    assert_eq!(runs_since(85).await, 0, "within the grace: its agent enforces the timeout");
    assert_eq!(runs_since(95).await, 1);
    assert!(matches!(&world.told()[..], [Order::Revoke { force: true, .. }]));
}

#[tokio::test]
async fn incident_06_a_waiter_that_nobody_promoted_is_promoted_by_the_sweep() {
    let world = World::new().await;
    world.seed().workspace("x", "default").await;
    let mut waiting = Vec::new();
    for n in 0..4 {
        waiting.push(world.seed().task(&TaskSeed::new(&format!("w{n}"), "w", "plan_and_apply")).await);
        world.seed().task(&TaskSeed::new(&format!("x{n}"), "x", "plan_and_apply")).await;
    }
    // Somebody ended the first of `w` behind the back of the store.
    let sql = "UPDATE tasks SET status = 'succeeded', finished_at = now() WHERE task_id = 'w0'";
    world.seed().execute(sql, &[]).await;
    let sweeper = world.sweeper(&world.database.db);
    assert_eq!(sweeper.waiters().await.unwrap(), 1);
    assert_eq!(world.seed().status(&waiting[1]).await, "pending");
    assert_eq!(world.seed().status(&waiting[2]).await, "blocked");
    assert_eq!(sweeper.waiters().await.unwrap(), 0);
}

#[tokio::test]
async fn pause_flags_follow_their_workspace_whatever_went_wrong() {
    let world = World::new().await;
    world.seed().workspace("x", "default").await;
    for (id, workspace) in [("w0", "w"), ("w1", "w"), ("x0", "x")] {
        world.seed().task(&TaskSeed::new(id, workspace, "plan")).await;
    }
    let sweeper = world.sweeper(&world.database.db);
    assert_eq!(sweeper.pauses().await.unwrap(), 0);
    world
        .seed()
        .execute("UPDATE workspaces SET paused_at = now(), paused_by = 'ann' WHERE workspace_id = 'w'", &[])
        .await;
    assert_eq!(sweeper.pauses().await.unwrap(), 2);
    assert_eq!(world.count("tasks WHERE workspace_paused AND workspace_id = 'w'").await, 2);
    world.seed().execute("UPDATE workspaces SET paused_at = NULL, paused_by = NULL", &[]).await;
    assert_eq!(sweeper.pauses().await.unwrap(), 2);
    assert_eq!(world.count("tasks WHERE workspace_paused").await, 0);
}

async fn stop_is_due(seed: Seed<'_>) {
    seed.execute(
        "UPDATE attempts SET revoke_sent_at = now() - interval '1 h' WHERE revoke_sent_at IS NOT NULL",
        &[],
    )
    .await;
}

#[tokio::test]
async fn incident_37_a_cancel_is_sent_until_its_agent_answers_and_told_when_it_does_not() {
    let mut world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (task, claim) = world.assigned("t", "plan", &agent).await;
    world.started(&agent, &claim).await;
    world.seed().must(&task, Input::Cancel { by: "bob".into(), force: false }).await;
    assert_eq!(world.seed().status(&task).await, "running", "the database alone does not stop a handler");
    let sweeper = world.sweeper(&world.database.db);
    assert_eq!(sweeper.stops().await.unwrap(), 1);
    assert!(matches!(&world.told()[..], [Order::Cancel { claim: told, .. }] if *told == claim));
    for _ in 1..UNANSWERED_FROM_SENDS {
        stop_is_due(world.seed()).await;
        assert_eq!(sweeper.stops().await.unwrap(), 1);
    }
    assert_eq!(world.seed().notes(&task).await, ["stop not answered"]);
    world.report(&agent, &claim, OutcomeEnd::Cancelled { by: StoppedBy::Dispatcher }).await;
    assert_eq!(world.seed().status(&task).await, "cancelled");
    stop_is_due(world.seed()).await;
    assert_eq!(sweeper.stops().await.unwrap(), 0, "answered");
}

#[tokio::test]
async fn a_stop_request_that_cannot_be_read_keeps_no_other_from_being_sent() {
    let mut world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let mut claims = Vec::new();
    for id in ["a", "b", "c"] {
        let (task, claim) = world.assigned(id, "plan", &agent).await;
        world.seed().must(&task, Input::Cancel { by: "bob".into(), force: false }).await;
        claims.push(claim);
    }
    let newer = "UPDATE attempts SET revoke_reason = 'of_a_newer_replica' WHERE task_id = 'b'";
    world.seed().execute(newer, &[]).await;
    assert_eq!(world.sweeper(&world.database.db).stops().await.unwrap(), 2);
    let told = world.told();
    for claim in [&claims[0], &claims[2]] {
        assert!(told.iter().any(|order| matches!(order, Order::Cancel { claim: told, .. } if told == claim)));
    }
    assert_eq!(told.len(), 2);
}

#[tokio::test]
async fn a_stop_request_is_sent_by_one_of_two_replicas() {
    let mut world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    for n in 0..10 {
        let (task, _) = world.assigned(&format!("t{n}"), "plan", &agent).await;
        world.seed().must(&task, Input::Cancel { by: "bob".into(), force: false }).await;
    }
    // Sent often before, so that the next wait is half a minute: on a slow machine a short one could pass within this test.
    world
        .seed()
        .execute("UPDATE attempts SET revoke_sends = 10, revoke_sent_at = now() - interval '1 h'", &[])
        .await;
    let other = world.database.another_replica();
    let (one, two) = (world.sweeper(&world.database.db), world.sweeper(&other));
    let (first, second) = futures::join!(one.stops(), two.stops());
    assert_eq!(first.unwrap() + second.unwrap(), 10);
    assert_eq!(world.told().len(), 10);
}

#[tokio::test]
async fn waits_between_repeated_stop_requests_double() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (task, _) = world.assigned("t", "plan", &agent).await;
    world.seed().must(&task, Input::Cancel { by: "bob".into(), force: false }).await;
    let sweeper = world.sweeper(&world.database.db);
    sweeper.stops().await.unwrap();
    let sent_before = async |sends: i32, seconds: f64| {
        let sql =
            "UPDATE attempts SET revoke_sends = $1, revoke_sent_at = now() - $2::float8 * interval '1 s'";
        world.seed().execute(sql, &[&sends, &seconds]).await;
        sweeper.stops().await.unwrap()
    };
    assert_eq!((sent_before(3, 0.1).await, sent_before(3, 1.1).await), (0, 1));
    assert_eq!((sent_before(5, 2.0).await, sent_before(5, 4.1).await), (0, 1));
    assert_eq!((sent_before(60, 20.0).await, sent_before(60, 31.0).await), (0, 1), "at most half a minute");
}

#[tokio::test]
async fn one_task_that_cannot_be_swept_does_not_hold_up_the_others() {
    let world = World::new().await;
    let past = Some(Utc::now() - TimeDelta::seconds(1));
    for n in 0..3 {
        world
            .seed()
            .task(&TaskSeed { not_before: past, ..TaskSeed::new(&format!("t{n}"), "w", "plan") })
            .await;
    }
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
        RAISE EXCEPTION 'not this one' USING ERRCODE = '22000'; END $$; \
        CREATE TRIGGER refuse BEFORE UPDATE ON tasks FOR EACH ROW WHEN (NEW.task_id = 't1') EXECUTE FUNCTION refuse()";
    world.database.db.connection().await.unwrap().batch_execute(refuse).await.unwrap();
    assert_eq!(world.sweeper(&world.database.db).due().await.unwrap(), 2);
}
