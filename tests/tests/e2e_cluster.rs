//! A broker of three nodes, of which one is away at a time: no task is lost, no agent is lost, and work goes on without the node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::json;
use switchyard_common::broker::{
    BrokerConfig, ConsumeConnection, ConsumerEvent, ConsumerStream, Incoming, Outgoing, Properties,
    PublishOutcome, Publisher, Subscription, declare,
};
use switchyard_common::config::Secret;
use switchyard_common::contract::topology::DEFAULT_EXCHANGE;

use futures::future::try_join_all;
use switchyard_tests::harness::cluster::NODES_COUNT;
use switchyard_tests::harness::scenario::Scenario;
use switchyard_tests::harness::services::Services;
use switchyard_tests::harness::wait::{Look, until};

/// Longest wait for the next task to succeed while a node is away, on a loaded machine: an election and new connections take a few seconds.
const GOES_ON_WITHIN: Duration = Duration::from_secs(30);
/// Publishers on living nodes that have not published to a queue before its leader dies.
const NEWCOMERS_COUNT: usize = 8;
/// Longest wait until the broker takes a publish while a node is away.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);
/// Longest wait for all tasks, which must come through three restarts of nodes.
const ALL_WITHIN: Duration = Duration::from_secs(120);

#[tokio::test]
async fn a_node_of_three_that_leads_queues_may_die_or_be_restarted_and_no_task_is_lost() -> anyhow::Result<()>
{
    let services = Services::start_cluster("cluster").await?;
    the_node_that_leads_most_queues_is_killed_in_the_middle_of_two_hundred_tasks(&services).await?;
    each_node_in_turn_is_stopped_and_started_in_the_middle_of_work(&services).await?;
    what_first_publishes_while_the_leader_dies_is_not_refused_for_ever(&services).await?;
    what_somebody_has_in_hand_who_takes_nothing_more_comes_back_when_the_node_of_its_connection_dies(
        &services,
    )
    .await
}

async fn the_node_that_leads_most_queues_is_killed_in_the_middle_of_two_hundred_tasks(
    services: &Services,
) -> anyhow::Result<()> {
    let scenario = Scenario::on("cluster_node_killed", services).await?;
    let dispatchers = [
        scenario.dispatcher("dispatcher-1").start().await?,
        scenario.dispatcher("dispatcher-2").start().await?,
    ];
    let _agents = [scenario.agent("agent-1").start().await?, scenario.agent("agent-2").start().await?];
    let members = services.member_counts(scenario.namespace.as_str()).await?;
    ensure!(members.values().all(|count| *count == NODES_COUNT), "a queue lacks members: {members:?}");
    scenario.publish_applies(20, &json!({ "artifact_bytes": 10, "sleep_ms": 50 })).await?;
    scenario.publish_many(180, &json!({ "sleep_ms": 50 })).await?;
    scenario.until_succeeded(20).await?;
    let leader = leads_most(&services.leaders(scenario.namespace.as_str()).await?)?;
    services.kill_node(leader).await?;
    goes_on(&scenario, 200).await?;
    scenario.until_succeeded(200).await?;
    services.start_node(leader).await?;
    scenario.no_letters().await?;
    scenario.all_accounted_for(200).await?;
    for dispatcher in &dispatchers {
        let lost = dispatcher.log().find(|line| line.message().starts_with("agent lost"))?;
        ensure!(lost.is_empty(), "{lost:#?}");
    }
    Ok(())
}

async fn each_node_in_turn_is_stopped_and_started_in_the_middle_of_work(
    services: &Services,
) -> anyhow::Result<()> {
    let scenario = Scenario::on("cluster_nodes_restarted", services).await?;
    let _dispatcher = scenario.dispatcher("dispatcher-1").start().await?;
    let _agents = [scenario.agent("agent-1").start().await?, scenario.agent("agent-2").start().await?];
    scenario.publish_many(300, &json!({ "sleep_ms": 200 })).await?;
    for node in 1..=NODES_COUNT {
        services.stop_node(node).await?;
        goes_on(&scenario, 300).await?;
        services.start_node(node).await?;
    }
    scenario.until_succeeded_within(300, ALL_WITHIN).await?;
    scenario.no_letters().await?;
    scenario.all_accounted_for(300).await
}

/// A channel remembers the leader that it saw at its first publish to a queue. When that one's node is down, the broker refuses every
/// publish of the channel until the node is back, although the queue has a new leader for long (seen with RabbitMQ 3.10.8).
async fn what_first_publishes_while_the_leader_dies_is_not_refused_for_ever(
    services: &Services,
) -> anyhow::Result<()> {
    let scenario = Scenario::on("cluster_leader_of_yesterday", services).await?;
    declare(&scenario.session("declares").await?, &scenario.namespace.dispatcher_topology()).await?;
    let leaders = services.leaders(&scenario.namespace.events_queue()).await?;
    let leader = *leaders.get(&scenario.namespace.events_queue()).context("the events queue has a leader")?;
    let living = services.amqp_urls.iter().enumerate().filter(|(node, _)| node + 1 != leader);
    let mut newcomers = Vec::new();
    for (_, url) in living.cycle().take(NEWCOMERS_COUNT) {
        let config = BrokerConfig::new(Secret::new(url.clone()), "newcomer");
        let newcomer = Publisher::start(&config, "publish")?;
        newcomer.state().wait_for(|state| state.is_up()).await?;
        newcomers.push(newcomer);
    }
    let publishing = newcomers.iter().map(|newcomer| refusals_before_it_is_taken(&scenario, newcomer));
    let (killed, refused) = tokio::join!(services.kill_node(leader), try_join_all(publishing));
    killed?;
    let refused = refused?;
    ensure!(refused.iter().any(|count| *count > 0), "nobody was refused, so nothing was tried");
    services.start_node(leader).await
}

/// A replica without its database takes no more outcomes. What it had in hand was lost for ever when it stopped its consumer for that and
/// the node of its connection died: the broker keeps it (seen with RabbitMQ 3.10.8; docs/adr/messages-that-stay-behind.md).
async fn what_somebody_has_in_hand_who_takes_nothing_more_comes_back_when_the_node_of_its_connection_dies(
    services: &Services,
) -> anyhow::Result<()> {
    const IN_HAND: usize = 3;
    let scenario = Scenario::on("cluster_in_hand", services).await?;
    declare(&scenario.session("declares").await?, &scenario.namespace.dispatcher_topology()).await?;
    let queue = scenario.namespace.outcomes_queue();
    let leader = *services.leaders(&queue).await?.get(&queue).context("the queue has a leader")?;
    let dies = leader % NODES_COUNT + 1;
    let consuming = |node: usize| {
        let config = BrokerConfig::new(Secret::new(services.amqp_urls[node - 1].clone()), "consumer");
        ConsumeConnection::start(&config, "consume", Arc::new(|_| Box::pin(async { Ok(()) })))
    };
    let holder = consuming(dies)?;
    let mut held = holder.subscribe(Subscription::new(&queue, 10));
    let publisher = Publisher::start(
        &BrokerConfig::new(Secret::new(services.amqp_urls[leader - 1].clone()), "publisher"),
        "publish",
    )?;
    for _ in 0..IN_HAND {
        let properties = Properties::persistent("text/plain");
        let message = Outgoing::new(DEFAULT_EXCHANGE, &queue, properties, b"outcome".to_vec(), true)?;
        ensure!(publisher.publish(message).await.is_acked(), "a message was not taken");
    }
    let in_hand = deliveries(&mut held, IN_HAND).await?;
    held.handle().hold();
    services.kill_node(dies).await?;
    let other = consuming(leader)?;
    let mut others = other.subscribe(Subscription::new(&queue, 10));
    let come_back = tokio::time::timeout(GOES_ON_WITHIN, deliveries(&mut others, IN_HAND)).await;
    services.start_node(dies).await?;
    drop((in_hand, come_back.context("what was in hand does not come back")??));
    Ok(())
}

/// The next so many deliveries.
async fn deliveries(events: &mut ConsumerStream, count: usize) -> anyhow::Result<Vec<Incoming>> {
    let mut found = Vec::new();
    while found.len() < count {
        match events.next().await.context("the subscription is over")? {
            ConsumerEvent::Delivery(incoming) => found.push(*incoming),
            ConsumerEvent::Ready { .. } | ConsumerEvent::Lost { .. } => {}
        }
    }
    Ok(found)
}

/// How often the broker refused the message before it took it.
async fn refusals_before_it_is_taken(scenario: &Scenario, publisher: &Publisher) -> anyhow::Result<usize> {
    let mut refused = 0;
    until("the broker to take a publish", TAKEN_WITHIN, async || {
        match publisher.publish(scenario.plan(0, &json!({}))?).await {
            PublishOutcome::Acked => Ok(Look::There(())),
            PublishOutcome::Nacked => {
                refused += 1;
                Ok(Look::NotYet(format!("refused {refused} times")))
            }
            other @ (PublishOutcome::Returned { .. } | PublishOutcome::Lost(_)) => {
                Ok(Look::NotYet(format!("{other:?}")))
            }
        }
    })
    .await?;
    Ok(refused)
}

/// Another task succeeds, unless all have.
async fn goes_on(scenario: &Scenario, all: i64) -> anyhow::Result<()> {
    let done = scenario.count("SELECT count(*) FROM tasks WHERE status = 'succeeded'").await?;
    scenario.until_succeeded_within((done + 1).min(all), GOES_ON_WITHIN).await
}

/// The node that leads the most queues.
fn leads_most(leaders: &BTreeMap<String, usize>) -> anyhow::Result<usize> {
    let led = |node: &usize| leaders.values().filter(|leader| *leader == node).count();
    (1..=NODES_COUNT).max_by_key(led).context("a cluster has nodes")
}
