//! Agents that drain on order, and agents that are retired.

use std::time::Duration;

use switchyard_common::broker::{Outgoing, Properties, PublishOutcome, declare, queue_counts};
use switchyard_common::contract::assignment::AgentMessage;
use switchyard_common::contract::control::Order;
use switchyard_common::contract::ids::SessionId;
use switchyard_dispatcher::presence::retire;
use switchyard_dispatcher::store::agents::{AgentAct, act};
use switchyard_dispatcher::store::route::{Publish, contents};
use switchyard_tests::harness::scenario::Scenario;
use switchyard_tests::harness::seed::{Seed, TaskSeed};
use uuid::Uuid;

use crate::stage::*;

#[tokio::test]
async fn an_agent_is_told_to_drain_until_it_does_and_gets_nothing_meanwhile() {
    let scenario = Scenario::new("settle_drain").await.unwrap();
    let seed = Seed::new(&scenario.database.db);
    seed.workspace("w", "default").await;
    let agent = seed.agent("default", "worker-0").await;
    let mut puppet = Puppet::new(&scenario, agent.clone()).await;
    let replica = Replica::start(&scenario, Duration::from_secs(60)).await;
    assert!(
        act(&scenario.database.db, &agent.agent, AgentAct::Drain, "eve", Some("a new node")).await.unwrap()
    );
    assert_eq!(puppet.order().await, Order::Drain);
    assert_eq!(puppet.order().await, Order::Drain, "again, because it has not said that it drains");
    seed.task(&TaskSeed::new("t", "w", "plan")).await;
    let pass = switchyard_dispatcher::pass::run_once(&scenario.database.db, &agent.agent.pool).await.unwrap();
    assert!(pass.assigned.is_empty());
    count_becomes(
        seed,
        "audit_log WHERE action = 'drain' AND actor = 'eve' AND subject = 'agent:default/worker-0'",
        1,
    )
    .await;
    // Started anew, it works again.
    puppet.heartbeat(SessionId(Uuid::new_v4()), 1).await;
    count_becomes(seed, "agents WHERE drain_requested_at IS NULL", 1).await;
    replica.end().await;
}

#[tokio::test]
async fn a_retired_agents_queue_is_settled_and_deleted_and_a_new_hello_undoes_it() {
    let scenario = Scenario::new("settle_retire").await.unwrap();
    let db = &scenario.database.db;
    let seed = Seed::new(db);
    seed.workspace("w", "default").await;
    let agent = seed.agent("default", "worker-0").await;
    let task = seed.task(&TaskSeed::new("t", "w", "plan")).await;
    let claim = seed.assign(&task, &agent).await;
    let replica = Replica::start(&scenario, Duration::from_secs(60)).await;
    let (pool, id) = (&agent.agent.pool, &agent.agent.agent);
    let session = scenario.session("retire").await.unwrap();
    declare(&session, &scenario.namespace.agent_queue_topology(pool, id)).await.unwrap();
    let queue = scenario.namespace.agent_queue(pool, id);
    let sent = contents(db, &[Publish::first(claim.key())]).await.unwrap().remove(0);
    let body = serde_json::to_vec(&AgentMessage::Assignment(Box::new(sent.assignment))).unwrap();
    let message = Outgoing::new("", &queue, Properties::persistent("application/json"), body, true).unwrap();
    assert_eq!(replica.context.publisher.publish(message).await, PublishOutcome::Acked);

    assert!(!act(db, &agent.agent, AgentAct::Retire, "eve", None).await.unwrap(), "it lives");
    retire::run_once(&replica.context).await;
    assert!(queue_counts(&session, &queue).await.unwrap().is_some(), "nobody asked");
    seed.execute("UPDATE agents SET live = false", &[]).await;
    assert!(act(db, &agent.agent, AgentAct::Retire, "eve", None).await.unwrap());
    retire::run_once(&replica.context).await;
    assert_eq!(queue_counts(&session, &queue).await.unwrap(), None, "the queue is gone");
    count_becomes(seed, "attempts WHERE ended_at IS NOT NULL AND started_at IS NULL", 1).await;
    status_becomes(seed, "t", "pending").await;
    count_becomes(seed, "tasks WHERE charge = 0", 1).await;
    count_becomes(seed, "agents WHERE retired_at IS NOT NULL", 1).await;
    count_becomes(seed, "audit_log WHERE action = 'retired' AND actor = 'eve'", 1).await;

    let puppet = Puppet::new(&scenario, agent.clone()).await;
    puppet.heartbeat(SessionId(Uuid::new_v4()), 1).await;
    count_becomes(seed, "agents WHERE live AND retired_at IS NULL AND retire_requested_at IS NULL", 1).await;
    replica.end().await;
}

#[tokio::test]
async fn an_agent_that_nobody_has_heard_of_for_long_is_retired_but_never_one_that_is_connected() {
    let scenario = Scenario::new("settle_retire_time").await.unwrap();
    let seed = Seed::new(&scenario.database.db);
    let agent = seed.agent("default", "worker-0").await;
    let replica = Replica::start(&scenario, Duration::from_secs(60)).await;
    let session = scenario.session("retire").await.unwrap();
    let (pool, id) = (&agent.agent.pool, &agent.agent.agent);
    declare(&session, &scenario.namespace.agent_queue_topology(pool, id)).await.unwrap();
    let queue = scenario.namespace.agent_queue(pool, id);
    let gone_for = "UPDATE agents SET live = false, last_seen = now() - $1::bigint * interval '1 s'";
    let retire_after = i64::try_from(replica.context.config.agent_retire_after.as_secs()).unwrap();
    seed.execute(gone_for, &[&(retire_after - 60)]).await;
    retire::run_once(&replica.context).await;
    assert!(queue_counts(&session, &queue).await.unwrap().is_some(), "not yet");
    seed.execute(gone_for, &[&(retire_after + 1)]).await;
    let puppet = Puppet::new(&scenario, agent.clone()).await;
    retire::run_once(&replica.context).await;
    assert!(queue_counts(&session, &queue).await.unwrap().is_some(), "it is connected");
    drop(puppet);
    switchyard_tests::harness::wait::until("the agent is retired", WAIT, async || {
        retire::run_once(&replica.context).await;
        let left = queue_counts(&session, &queue).await?;
        Ok(switchyard_tests::harness::wait::Look::holds(left.is_none(), || format!("{left:?}")))
    })
    .await
    .unwrap();
    count_becomes(seed, "audit_log WHERE action = 'retired' AND actor = 'retire_after'", 1).await;
    replica.end().await;
}
