//! Silence, return, and a presence queue that goes away.

use std::time::{Duration, Instant};

use serde_json::json;
use switchyard_common::broker::{Outgoing, Properties};
use switchyard_common::contract::control::Order;
use switchyard_common::contract::ids::SessionId;
use switchyard_common::contract::routing::ReportKind;
use switchyard_dispatcher::presence;
use switchyard_tests::harness::cut::Cut;
use switchyard_tests::harness::scenario::Scenario;
use switchyard_tests::harness::seed::{AgentSeed, Seed, TaskSeed};
use switchyard_tests::harness::wait::{Look, until};
use uuid::Uuid;

use crate::stage::*;

#[tokio::test]
async fn a_lone_silent_agent_is_lost_and_its_session_is_told_so_when_it_returns() {
    let scenario = Scenario::new("settle_presence").await.unwrap();
    let seed = Seed::new(&scenario.database.db);
    seed.workspace("w", "default").await;
    let agent = seed.agent("default", "worker-0").await;
    let task = seed.task(&TaskSeed::new("t", "w", "plan")).await;
    seed.assign(&task, &agent).await;
    let mut puppet = Puppet::new(&scenario, agent.clone()).await;
    let replica = Replica::start(&scenario, Duration::from_secs(6)).await;
    puppet.heartbeat(agent.session, 2).await;
    count_becomes(seed, "agents WHERE sequence = 2 AND live", 1).await;
    puppet.send(ReportKind::Heartbeat, json!({ "epoch": 1 }).to_string().into_bytes()).await;
    status_becomes(seed, "t", "pending").await;
    count_becomes(seed, "agent_sessions WHERE end_reason = 'silent'", 1).await;
    puppet.heartbeat(agent.session, 3).await;
    let order = puppet.order().await;
    assert_eq!(order, Order::EndSession { session: agent.session });
    let fresh = SessionId(Uuid::new_v4());
    puppet.heartbeat(fresh, 1).await;
    count_becomes(seed, "agents WHERE live", 1).await;
    replica.end().await;
}

#[tokio::test]
async fn presence_goes_on_when_the_channel_of_its_queue_is_lost() {
    let scenario = Scenario::new("settle_presence_channel").await.unwrap();
    let seed = Seed::new(&scenario.database.db);
    let replica = Replica::start(&scenario, Duration::from_secs(20)).await;
    let agent = AgentSeed { session: SessionId(Uuid::new_v4()), ..seed.agent("default", "worker-0").await };
    let puppet = Puppet::new(&scenario, agent.clone()).await;
    puppet.heartbeat(agent.session, 1).await;
    count_becomes(seed, "agents WHERE sequence = 1 AND version = 'test' AND session <> '00000000-0000-0000-0000-000000000000'", 1)
        .await;
    // Somebody deletes the queue: the broker cancels the consumer, and the queue is gone.
    let id = presence::run::replica_id(replica.context.replica).unwrap();
    let session = replica.context.consumers.session().unwrap();
    switchyard_common::broker::delete_queue(&session, &scenario.namespace.presence_queue(&id)).await.unwrap();
    let mut sequence = 1;
    until("a later heartbeat is heard", WAIT, async || {
        sequence += 1;
        // Not mandatory here: while the queue is gone, nobody hears it, which is harmless.
        let presence = json!({ "type": "heartbeat", "session": agent.session, "sequence": sequence, "pod": "p", "version": "later",
            "slots": 1, "credit": 0, "max_exclusive": 1, "handlers": [], "draining": false, "in_hand": [] });
        let body = json!({ "epoch": 1, "body": presence }).to_string().into_bytes();
        let key = ReportKind::Heartbeat.key(&agent.agent);
        let message = Outgoing::new(&puppet.exchange, &key, Properties::default(), body, false).unwrap();
        assert!(puppet.publisher.publish(message).await.is_acked());
        let heard: i64 = seed.value("SELECT count(*) FROM agents WHERE version = 'later'", &[]).await;
        Ok(Look::holds(heard == 1, || format!("heartbeat {sequence} is not heard")))
    })
    .await
    .unwrap();
    replica.end().await;
}

#[tokio::test]
async fn an_outcome_that_another_replica_has_in_hand_is_not_taken_for_silence() {
    const LOST_AFTER: Duration = Duration::from_secs(3);
    let scenario = Scenario::new("settle_in_hand").await.unwrap();
    let seed = Seed::new(&scenario.database.db);
    seed.workspace("w", "default").await;
    let agent = seed.agent("default", "worker-0").await;
    let task = seed.task(&TaskSeed::new("t", "w", "plan")).await;
    let claim = seed.assign(&task, &agent).await;
    let cut = Cut::new(&scenario.database.url).await.unwrap();
    let by_cut = scenario.database.another_replica_by(&cut.url);
    let busy = Replica::start_on(&scenario, by_cut, Duration::from_secs(60)).await;
    count_becomes(seed, "replicas WHERE settled_through IS NOT NULL", 1).await;
    let puppet = Puppet::new(&scenario, agent.clone()).await;
    cut.down();
    puppet.outcome(&claim, done()).await;
    until("the replica without a database has it in hand", WAIT, async || {
        let left = messages_left(&scenario, &scenario.namespace.outcomes_queue()).await;
        Ok(Look::holds(left == 0, || format!("{left} are ready")))
    })
    .await
    .unwrap();
    let since = Instant::now();
    let judging = Replica::start(&scenario, LOST_AFTER).await;
    // It hears, the database answers, and nothing is ready in the queue, for more than twice as long as it would take; until the other one
    // gives back what it cannot settle.
    until("the outcome is given back and settled", WAIT, async || {
        let status = seed.status(&task).await;
        let is_live = seed.value::<bool>("SELECT live FROM agents", &[]).await;
        anyhow::ensure!(is_live || status == "succeeded", "the agent was declared lost");
        Ok(Look::holds(status == "succeeded", || status.clone()))
    })
    .await
    .unwrap();
    assert!(since.elapsed() > LOST_AFTER * 2, "it was not in hand for long: {:?}", since.elapsed());
    cut.up();
    count_becomes(seed, "agent_sessions WHERE end_reason = 'silent'", 1).await;
    judging.end().await;
    busy.end().await;
}
