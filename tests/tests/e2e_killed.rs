//! The real broker and the real database, killed and stopped in the middle of work: every task is accounted for, nothing that may run
//! once runs twice, no agent is lost, and work goes on by itself. Each test has a broker or a database server of its own.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use switchyard_common::broker::{declare, delete_queue};
use switchyard_tests::harness::scenario::{LogLine, Process, Scenario};
use switchyard_tests::harness::services::{Part, Services};

/// Longest wait for the first task to succeed after the broker is back, on a loaded machine. A queue without a leader is made anew
/// after 10 s, which takes the broker 5 s.
const RESUMES_WITHIN: Duration = Duration::from_secs(60);
/// How the line about a queue that does not answer begins.
const SILENT: &str = "a queue does not answer";
const HEARTBEAT: Duration = Duration::from_millis(500);
/// An agent needs two heartbeats, the kill grace of the builtin handlers (5 s) and two seconds within it.
const LOST_AFTER: Duration = Duration::from_secs(9);

/// The shared queues, with their names on the broker's disk: from now on it forgets nothing that it has confirmed.
async fn shared_queues_on_disk(scenario: &Scenario, services: &Services) -> anyhow::Result<()> {
    for queue in scenario.namespace.dispatcher_topology().queues {
        services.until_on_disk(&queue.name).await?;
    }
    Ok(())
}

async fn no_agent_was_lost(scenario: &Scenario, dispatchers: &[&Process]) -> anyhow::Result<()> {
    let lost = |line: &LogLine| line.message().starts_with("agent lost");
    for dispatcher in dispatchers {
        let lines = dispatcher.log().find(lost)?;
        ensure!(lines.is_empty(), "{lines:?} (logs in {})", scenario.folder.display());
    }
    Ok(())
}

/// No ERROR line, but those that `expected` explains.
fn no_errors(processes: &[&Process], expected: &[&str]) -> anyhow::Result<()> {
    for process in processes {
        let mut errors = process.log().errors()?;
        errors.retain(|line| !expected.iter().any(|text| line.message().starts_with(text)));
        ensure!(errors.is_empty(), "{}: {errors:#?}", process.name());
    }
    Ok(())
}

async fn succeeded(scenario: &Scenario) -> anyhow::Result<i64> {
    scenario.count("SELECT count(*) FROM tasks WHERE status = 'succeeded'").await
}

#[tokio::test]
async fn a_broker_that_is_killed_or_stopped_in_the_middle_of_work_costs_no_task_and_no_agent()
-> anyhow::Result<()> {
    let services = Services::start("killed_broker", Part::Broker).await?;
    the_broker_is_killed_in_the_middle_of_two_hundred_tasks(&services).await?;
    the_broker_is_away_for_longer_than_the_lost_timeout(&services).await?;
    an_agent_dies_with_the_broker_and_nobody_is_left_to_make_its_queue_anew(&services).await
}

async fn the_broker_is_killed_in_the_middle_of_two_hundred_tasks(services: &Services) -> anyhow::Result<()> {
    let scenario = Scenario::on("killed_broker_midway", services).await?;
    let first = scenario.dispatcher("dispatcher-1").start().await?;
    let second = scenario.dispatcher("dispatcher-2").start().await?;
    let agents = [scenario.agent("agent-1").start().await?, scenario.agent("agent-2").start().await?];
    shared_queues_on_disk(&scenario, services).await?;
    scenario.publish_applies(20, &json!({ "artifact_bytes": 10, "sleep_ms": 50 })).await?;
    scenario.publish_many(180, &json!({ "sleep_ms": 50 })).await?;
    scenario.until_succeeded(40).await?;
    services.kill().await?;
    first.until_readiness(false).await?;
    services.start_again().await?;
    scenario.until_succeeded_within(succeeded(&scenario).await? + 1, RESUMES_WITHIN).await?;
    scenario.until_succeeded(200).await?;
    first.until_readiness(true).await?;
    no_agent_was_lost(&scenario, &[&first, &second]).await?;
    no_errors(&[&first, &second, &agents[0], &agents[1]], &[])?;
    scenario.no_letters().await?;
    scenario.all_accounted_for(200).await
}

async fn the_broker_is_away_for_longer_than_the_lost_timeout(services: &Services) -> anyhow::Result<()> {
    let scenario = Scenario::on("killed_broker_away", services).await?.with_pace(HEARTBEAT, LOST_AFTER);
    let dispatcher = scenario.dispatcher("dispatcher-1").start().await?;
    let agents = [scenario.agent("agent-1").start().await?, scenario.agent("agent-2").start().await?];
    shared_queues_on_disk(&scenario, services).await?;
    scenario.publish_many(60, &json!({ "sleep_ms": 100 })).await?;
    scenario.until_succeeded(10).await?;
    services.stop().await?;
    // The agents notice: silent for the lost timeout, they end their sessions themselves.
    for agent in &agents {
        let ended = |line: &LogLine| line.message().contains("could not be heard for too long");
        agent.log().until("the end of its session", LOST_AFTER * 4, ended).await?;
    }
    services.start_again().await?;
    scenario.until_succeeded_within(succeeded(&scenario).await? + 1, RESUMES_WITHIN).await?;
    scenario.until_succeeded(60).await?;
    no_agent_was_lost(&scenario, &[&dispatcher]).await?;
    scenario.all_accounted_for(60).await
}

/// What is published to a queue without a leader holds up everything behind it on the same channel. That must neither stop the canary,
/// without which the dead agent is never declared lost, nor the other agents' work for good.
async fn an_agent_dies_with_the_broker_and_nobody_is_left_to_make_its_queue_anew(
    services: &Services,
) -> anyhow::Result<()> {
    let scenario = Scenario::on("killed_broker_and_agent", services).await?.with_pace(HEARTBEAT, LOST_AFTER);
    let dispatcher = scenario.dispatcher("dispatcher-1").start().await?;
    shared_queues_on_disk(&scenario, services).await?;
    scenario.publish_many(60, &json!({ "sleep_ms": 50 })).await?;
    let _stays = scenario.agent("agent-1").start().await?;
    let mut dies = scenario.agent("agent-2").start().await?;
    scenario.until_succeeded(5).await?;
    services.kill().await?;
    dies.kill()?;
    services.start_again().await?;
    scenario.until_succeeded(60).await?;
    let lost = dispatcher.log().find(|line| line.message().starts_with("agent lost"))?;
    ensure!(lost.iter().all(|line| line.text("agent") == "default/agent-2"), "{lost:#?}");
    no_errors(&[&dispatcher], &["dead letter"])?;
    scenario.all_accounted_for(60).await
}

#[tokio::test]
async fn a_broker_that_is_killed_seconds_after_the_queues_were_declared_heals_three_times_over()
-> anyhow::Result<()> {
    let services = Services::start("killed_broker_young", Part::Broker).await?;
    for round in 1..=3 {
        let scenario = Scenario::on(&format!("killed_broker_young_{round}"), &services).await?;
        let dispatcher = scenario.dispatcher("dispatcher-1").start().await?;
        shared_queues_on_disk(&scenario, &services).await?;
        // The work waits, so that the agents' queues are in use as soon as they are declared.
        scenario.publish_many(60, &json!({ "sleep_ms": 50 })).await?;
        let agents = [scenario.agent("agent-1").start().await?, scenario.agent("agent-2").start().await?];
        scenario.until_succeeded(5).await?;
        services.kill().await?;
        services.start_again().await?;
        scenario.until_succeeded_within(succeeded(&scenario).await? + 1, RESUMES_WITHIN).await?;
        scenario.until_succeeded(60).await?;
        no_agent_was_lost(&scenario, &[&dispatcher]).await?;
        no_errors(&[&dispatcher, &agents[0], &agents[1]], &[])?;
        scenario.all_accounted_for(60).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_shared_queue_that_came_back_without_its_leader_is_told_never_deleted_and_used_again_when_an_operator_has_deleted_it()
-> anyhow::Result<()> {
    let services = Services::start("killed_broker_shared", Part::Broker).await?;
    let scenario = Scenario::on("killed_broker_shared", &services).await?;
    let events = scenario.namespace.events_queue();
    // Declared a moment before the kill, as a dispatcher does at the first start.
    let mut young = scenario.namespace.dispatcher_topology();
    young.queues.retain(|queue| queue.name == events);
    young.bindings.clear();
    declare(&scenario.session("first start").await?, &young).await?;
    services.kill().await?;
    ensure!(!services.is_on_disk(&events), "the kill came too late to show anything");
    services.start_again().await?;
    let dispatcher = scenario.dispatcher("dispatcher-1").spawn()?;
    let told = |line: &LogLine| line.message().starts_with(SILENT) && line.text("queue") == events;
    dispatcher.log().until("the silent queue", RESUMES_WITHIN, told).await?;
    dispatcher
        .until_metric(&format!("switchyard_broker_queue_silent{{queue=\"{events}\"}}"), |value| value == 1.0)
        .await?;
    let report = dispatcher.get("/readyz").await?;
    ensure!(report.status != 200 && report.body.contains(&events), "{report:?}");

    // What the line tells an operator to do. Each takes the broker some seconds.
    let session = scenario.session("operator").await?;
    let silent = dispatcher.log().find(|line| line.message().starts_with(SILENT))?;
    let deleting = silent.iter().map(|line| delete_queue(&session, line.text("queue")));
    futures::future::try_join_all(deleting).await?;
    dispatcher.until_readiness(true).await?;
    dispatcher
        .until_metric(&format!("switchyard_broker_queue_silent{{queue=\"{events}\"}}"), |value| value == 0.0)
        .await?;
    let _agent = scenario.agent("agent-1").start().await?;
    scenario.publish_many(5, &json!({})).await?;
    scenario.until_succeeded(5).await?;
    // Each told once.
    let again = dispatcher.log().find(told)?;
    ensure!(again.len() == 1, "{again:#?}");
    scenario.all_accounted_for(5).await
}

#[tokio::test]
async fn a_database_that_is_killed_or_stopped_in_the_middle_of_work_costs_no_task_and_no_agent()
-> anyhow::Result<()> {
    let services = Services::start("killed_database", Part::Database).await?;
    postgresql_is_killed_in_the_middle_of_work(&services).await?;
    without_postgresql_events_wait_at_the_broker(&services).await
}

async fn postgresql_is_killed_in_the_middle_of_work(services: &Services) -> anyhow::Result<()> {
    let scenario = Scenario::on("killed_database_midway", services).await?;
    let first = scenario.dispatcher("dispatcher-1").start().await?;
    let second = scenario.dispatcher("dispatcher-2").start().await?;
    let agents = [scenario.agent("agent-1").start().await?, scenario.agent("agent-2").start().await?];
    scenario.publish_applies(20, &json!({ "artifact_bytes": 10, "sleep_ms": 50 })).await?;
    scenario.publish_many(180, &json!({ "sleep_ms": 50 })).await?;
    scenario.until_succeeded(40).await?;
    services.kill().await?;
    first.until_readiness(false).await?;
    second.until_readiness(false).await?;
    services.start_again().await?;
    first.until_readiness(true).await?;
    second.until_readiness(true).await?;
    scenario.until_succeeded(200).await?;
    no_agent_was_lost(&scenario, &[&first, &second]).await?;
    no_errors(&[&first, &second, &agents[0], &agents[1]], &[])?;
    scenario.no_letters().await?;
    scenario.all_accounted_for(200).await
}

async fn without_postgresql_events_wait_at_the_broker(services: &Services) -> anyhow::Result<()> {
    let scenario = Scenario::on("killed_database_away", services).await?;
    let dispatcher = scenario.dispatcher("dispatcher-1").start().await?;
    let agent = scenario.agent("agent-1").start().await?;
    services.stop().await?;
    scenario.publish_many(20, &json!({})).await?;
    let told = |line: &LogLine| line.message() == "intake waits for the database";
    dispatcher.log().until("the reason in the log", RESUMES_WITHIN, told).await?;
    dispatcher.until_metric("switchyard_store_waits_total{part=\"intake\"}", |value| value >= 1.0).await?;
    dispatcher.until_readiness(false).await?;
    services.start_again().await?;
    dispatcher.until_readiness(true).await?;
    scenario.until_succeeded(20).await?;
    no_agent_was_lost(&scenario, &[&dispatcher]).await?;
    no_errors(&[&dispatcher, &agent], &[])?;
    scenario.no_letters().await?;
    scenario.all_accounted_for(20).await
}
