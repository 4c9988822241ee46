//! What goes wrong around the dispatcher and the agents: each fault has a log line and a metric, nothing is lost, and work goes on when
//! the fault is gone. Services are away by a cut way here, which takes a moment; `e2e_killed` kills and stops the real ones.

use nix::sys::signal::Signal;
use serde_json::json;
use switchyard_common::contract::event::EventType;
use switchyard_common::failure::FailureKind;
use switchyard_common::task::Status;
use switchyard_dispatcher::schedule::WaitingOn;
use switchyard_tests::harness::cut::Cut;
use switchyard_tests::harness::scenario::look::MOVE_WITHIN;
use switchyard_tests::harness::scenario::{LogLine, Scenario};
use switchyard_tests::harness::wait::{Look, until};

#[tokio::test]
async fn without_live_agents_a_task_waits_readably_and_runs_when_one_comes() -> anyhow::Result<()> {
    let scenario = Scenario::new("fault_no_agents").await?;
    let dispatcher = scenario.dispatcher("dispatcher-1").start().await?;
    scenario.upstream().await?.submit("t-1", "shop", "plan", json!({})).await?;
    let told =
        |line: &LogLine| line.message() == "pass ends" && line.text("reason") == "the pool has no agents";
    dispatcher.log().until("the reason in the log", MOVE_WITHIN, told).await?;
    assert_eq!(scenario.task("t-1").await?.waiting_on, WaitingOn::LiveAgent { pool: "default".into() });
    dispatcher
        .until_metric("switchyard_tasks{pool=\"default\",status=\"pending\"}", |value| value == 1.0)
        .await?;
    let _agent = scenario.agent("agent-1").start().await?;
    scenario.until_status("t-1", Status::Succeeded).await?;
    scenario.no_letters().await
}

#[tokio::test]
async fn without_a_database_events_wait_at_the_broker_and_are_stored_when_it_is_back() -> anyhow::Result<()> {
    let scenario = Scenario::new("fault_no_database").await?;
    let way = Cut::new(&scenario.database.url).await?;
    let dispatcher =
        scenario.dispatcher("dispatcher-1").env("SWITCHYARD_DATABASE_URL", &way.url).start().await?;
    let _agent = scenario.agent("agent-1").start().await?;
    let mut upstream = scenario.upstream().await?;
    upstream.submit("t-1", "shop", "plan", json!({})).await?;
    scenario.until_status("t-1", Status::Succeeded).await?;
    way.down();
    let meanwhile = async {
        let told = |line: &LogLine| line.message() == "intake waits for the database";
        dispatcher.log().until("the reason in the log", MOVE_WITHIN, told).await?;
        dispatcher
            .until_metric("switchyard_store_waits_total{part=\"intake\"}", |value| value >= 1.0)
            .await?;
        dispatcher.until_readiness(false).await?;
        way.up();
        anyhow::Ok(())
    };
    // The publisher gets its answer after the fault: nothing was nacked.
    let (accepted, waited) = tokio::join!(upstream.submit("t-2", "shop", "plan", json!({})), meanwhile);
    waited?;
    accepted?;
    scenario.until_status("t-2", Status::Succeeded).await?;
    scenario.no_letters().await
}

#[tokio::test]
async fn an_unregistered_workspace_is_told_and_work_goes_on_when_it_is_registered() -> anyhow::Result<()> {
    let scenario = Scenario::new("fault_unregistered").await?;
    let dispatcher = scenario.dispatcher("dispatcher-1").start().await?;
    let _agent = scenario.agent("agent-1").start().await?;
    let mut upstream = scenario.upstream().await?;
    let task = json!({ "task_id": "t-1", "workspace_id": "nowhere", "kind": "plan", "payload": {} });
    let rejected = upstream.rejected(EventType::TaskSubmitted, task.clone()).await?;
    assert_eq!(rejected.code, FailureKind::UnknownWorkspace);
    assert!(rejected.message.contains("nowhere"), "{rejected:?}");
    let letter = scenario
        .until_letter("of the event", |letter| letter.workspace_id.as_deref() == Some("nowhere"))
        .await?;
    assert_eq!(letter.failure_kind.as_deref(), Some("unknown_workspace"));
    let lines = dispatcher.log().errors()?;
    assert_eq!(lines.iter().map(LogLine::message).collect::<Vec<_>>(), ["dead letter"]);
    dispatcher.until_metric("switchyard_events_total{answer=\"rejected\"}", |value| value == 1.0).await?;
    upstream.register("nowhere").await?;
    upstream.accepted(EventType::TaskSubmitted, task).await?;
    scenario.until_status("t-1", Status::Succeeded).await?;
    Ok(())
}

#[tokio::test]
async fn two_hundred_tasks_survive_the_death_of_one_of_two_dispatchers() -> anyhow::Result<()> {
    let scenario = Scenario::new("fault_dispatcher_killed").await?;
    let mut first = scenario.dispatcher("dispatcher-1").start().await?;
    let _second = scenario.dispatcher("dispatcher-2").start().await?;
    let _agents = [scenario.agent("agent-1").start().await?, scenario.agent("agent-2").start().await?];
    scenario.publish_many(200, &json!({ "sleep_ms": 50 })).await?;
    scenario.until_succeeded(40).await?;
    first.kill()?;
    scenario.until_succeeded(200).await?;
    assert_eq!(scenario.count("SELECT count(*) FROM tasks").await?, 200);
    scenario.no_letters().await
}

#[tokio::test]
async fn work_goes_on_after_the_broker_was_away_in_the_middle_of_it() -> anyhow::Result<()> {
    let scenario = Scenario::new("fault_broker_away").await?;
    let way = Cut::new(&std::env::var("SWITCHYARD_AMQP_URL")?).await?;
    let dispatcher = scenario.dispatcher("dispatcher-1").env("SWITCHYARD_AMQP_URL", &way.url).start().await?;
    let _agent = scenario.agent("agent-1").env("SWITCHYARD_AMQP_URL", &way.url).start().await?;
    scenario.publish_many(60, &json!({ "sleep_ms": 200 })).await?;
    scenario.until_succeeded(5).await?;
    way.down();
    dispatcher.until_readiness(false).await?;
    way.up();
    scenario.until_succeeded(60).await?;
    assert_eq!(scenario.count("SELECT count(*) FROM tasks").await?, 60);
    scenario.no_letters().await
}

#[tokio::test]
async fn an_agent_that_is_told_to_end_charges_nothing_to_the_tasks_that_it_had() -> anyhow::Result<()> {
    let scenario = Scenario::new("fault_agent_drains").await?;
    let _dispatcher = scenario.dispatcher("dispatcher-1").start().await?;
    let mut first = scenario.agent("agent-1").env("SWITCHYARD_DRAIN_FOR", "3s").slots(4).start().await?;
    // Four that run longer than the agent may take to end, and four that wait at it.
    scenario.publish_many(8, &json!({ "sleep_ms": 8_000 })).await?;
    until("tasks in hand", MOVE_WITHIN, async || {
        let running = scenario.count("SELECT count(*) FROM tasks WHERE status = 'running'").await?;
        Ok(Look::holds(running >= 4, || format!("{running} run")))
    })
    .await?;
    first.signal(Signal::SIGTERM)?;
    first.until_ended(MOVE_WITHIN).await?;
    let _second = scenario.agent("agent-2").slots(8).start().await?;
    scenario.until_succeeded(8).await?;
    assert_eq!(scenario.count("SELECT count(*) FROM tasks WHERE charge > 0 OR losses > 0").await?, 0);
    scenario.no_letters().await
}
