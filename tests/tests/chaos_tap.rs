//! What the chaos runs copy, on a real broker: the harness itself must do nothing to a message that a broker never does.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use switchyard_common::broker::{
    AckResult, BrokerConfig, ConsumeConnection, ConsumerEvent, ConsumerStream, Outgoing, Properties,
    PublishOutcome, Publisher, Subscription, declare, queue_counts,
};
use switchyard_common::config::Secret;
use switchyard_common::contract::ids::{AgentId, PoolId};
use switchyard_common::contract::topology::DEFAULT_EXCHANGE;
use switchyard_tests::chaos::tap::{Line, Moment, Tap, What};
use switchyard_tests::harness::scenario::Scenario;
use switchyard_tests::harness::services::{Part, Services};
use switchyard_tests::harness::wait::{Look, until};
use switchyard_tests::sim::dice::Dice;

/// Longest wait for the tap, on a loaded machine: a copy comes up to four seconds late.
const WITHIN: Duration = Duration::from_secs(60);
/// More than are published within that time, one for each look.
const PREFETCH: u16 = 2_000;
/// To a queue that is not there.
const RETURNED: u32 = 10_000;
/// To an exchange that has no queue for it.
const NO_REPORT: u32 = 10_001;
/// To an exchange that has a queue for it.
const REPORT: u32 = 20_000;
/// Given back to its queue when it first comes.
const GIVEN_BACK: u32 = 20_001;

/// Found by a chaos run: a returned assignment came to the agent all the same, once its queue was there again, and ran beside another
/// task of the workspace. The default exchange is where that can happen: its traces name a queue that is not there.
#[tokio::test]
async fn a_message_that_a_queue_had_comes_again_and_one_that_went_back_to_its_publisher_does_not()
-> anyhow::Result<()> {
    let services = Services::start("chaos-tap", Part::Broker).await?;
    services.ctl(&["trace_on", "-p", "switchyard"]).await?;
    let scenario = Scenario::on("chaos_tap", &services).await?;
    let (session, namespace) = (scenario.session("stage").await?, scenario.namespace.clone());
    let (pool, here, gone) = (PoolId::new("default")?, AgentId::new("here")?, AgentId::new("gone")?);
    let (queue, gone_queue) = (namespace.agent_queue(&pool, &here), namespace.agent_queue(&pool, &gone));
    let (reports, starts) = (namespace.reports_exchange(), namespace.starts_queue());
    declare(&session, &namespace.dispatcher_topology().and(namespace.agent_queue_topology(&pool, &here)))
        .await?;
    let url = services.amqp_url.as_deref().context("a broker has a URL")?;
    let config = |role: &str| BrokerConfig::new(Secret::new(url), role);
    let consuming =
        ConsumeConnection::start(&config("agent"), "consume", Arc::new(|_| Box::pin(async { Ok(()) })))?;
    let mut agent = consuming.subscribe(Subscription::new(&queue, PREFETCH));
    let mut dispatcher = consuming.subscribe(Subscription::new(&starts, PREFETCH));
    let file = scenario.folder.join("tap.jsonl");
    let tap = Tap::start(url, namespace.clone(), Dice::new(1), &file)?;
    let publisher = Publisher::start(&config("publisher"), "publish")?;
    let publish = async |exchange: &str, key: &str, number: u32| {
        let body = number.to_string().into_bytes();
        let message = Outgoing::new(exchange, key, Properties::persistent("application/json"), body, true)?;
        anyhow::Ok(publisher.publish(message).await)
    };

    // The tap listens from some moment on: the first number that it saw delivered is the first that comes again.
    let mut last = 0;
    until("the tap sees what is delivered", WITHIN, async || {
        last += 1;
        ensure!(publish(DEFAULT_EXCHANGE, &queue, last).await?.is_acked(), "a message was not taken");
        Ok(Look::holds(first_copied(&file)?.is_some(), || format!("{last} messages, and none was seen")))
    })
    .await?;
    for (exchange, key, number) in
        [(DEFAULT_EXCHANGE, gone_queue.as_str(), RETURNED), (&reports, "no.such.report", NO_REPORT)]
    {
        let returned = publish(exchange, key, number).await?;
        ensure!(matches!(returned, PublishOutcome::Returned { .. }), "it was not returned: {returned:?}");
    }
    // As an agent does whose queue was deleted.
    declare(&session, &namespace.agent_queue_topology(&pool, &gone)).await?;
    ensure!(publish(&reports, "started.default.here", REPORT).await?.is_acked(), "a message was not taken");
    ensure!(publish(DEFAULT_EXCHANGE, &queue, GIVEN_BACK).await?.is_acked(), "a message was not taken");

    let first = first_copied(&file)?.context("the tap has seen one")?;
    let twice = (first..=last).flat_map(|number| [number; 2]);
    // Delivered, delivered again, and its copy.
    let mut expected: Vec<u32> = (1..first).chain(twice).chain([GIVEN_BACK; 3]).collect();
    expected.sort_unstable();
    ensure!(numbers(&mut agent, expected.len()).await? == expected, "not what the agent's queue had, twice");
    ensure!(numbers(&mut dispatcher, 2).await? == [REPORT; 2], "not what the dispatcher's queue had, twice");
    // Each was seen by now, what was returned as well: none of that has a copy on its way.
    let seen = seen(&file)?;
    let of = |number: u32| -> Vec<(Moment, bool)> {
        seen.iter()
            .filter(|seen| seen.number == number && !seen.is_copy)
            .map(|seen| (seen.moment, seen.comes_again))
            .collect()
    };
    for number in [RETURNED, NO_REPORT] {
        ensure!(of(number) == [(Moment::Published, false)], "{number} was seen as {:?}", of(number));
    }
    let given_back = [(Moment::Published, false), (Moment::Delivered, true), (Moment::Delivered, false)];
    ensure!(of(GIVEN_BACK) == given_back, "what was given back was seen as {:?}", of(GIVEN_BACK));
    let copies = u64::try_from(seen.iter().filter(|seen| seen.comes_again).count())?;
    until("every copy is counted", WITHIN, async || {
        Ok(Look::holds(tap.copied() == copies, || format!("{} of {copies}", tap.copied())))
    })
    .await?;
    tap.stop()?;
    let counts = queue_counts(&session, &gone_queue).await?.context("the queue is away")?;
    ensure!(counts.messages == 0, "the queue that was not there has {} messages", counts.messages);
    Ok(())
}

/// The numbers of the next so many deliveries, sorted. One of them is given back when it first comes.
async fn numbers(events: &mut ConsumerStream, count: usize) -> anyhow::Result<Vec<u32>> {
    let mut found = Vec::new();
    while found.len() < count {
        let event = tokio::time::timeout(WITHIN, events.next()).await;
        let event = event.with_context(|| format!("{found:?} was delivered, and nothing more"))?;
        if let ConsumerEvent::Delivery(incoming) = event.context("the subscription is over")? {
            let number = serde_json::from_slice(&incoming.message.body)?;
            let settled = if number == GIVEN_BACK && !found.contains(&number) {
                incoming.acker.nack(true).await
            } else {
                incoming.acker.ack().await
            };
            ensure!(settled == AckResult::Sent, "a delivery was not settled");
            found.push(number);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// A line of the tap's file.
struct Seen {
    number: u32,
    moment: Moment,
    is_copy: bool,
    comes_again: bool,
}

/// What the tap saw.
fn seen(file: &Path) -> anyhow::Result<Vec<Seen>> {
    let text = std::fs::read_to_string(file)?;
    let mut found = Vec::new();
    // The last line may be half written.
    for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        if let What::Seen { moment, is_copy, copy_in_ms, body, .. } = serde_json::from_str::<Line>(line)?.what
        {
            found.push(Seen {
                number: serde_json::from_value(body)?,
                moment,
                is_copy,
                comes_again: copy_in_ms.is_some(),
            });
        }
    }
    Ok(found)
}

fn first_copied(file: &Path) -> anyhow::Result<Option<u32>> {
    Ok(seen(file)?.into_iter().find(|seen| seen.comes_again).map(|seen| seen.number))
}
