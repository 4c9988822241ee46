//! What a dispatcher says while nothing happens.

use std::collections::BTreeMap;
use std::time::Duration;

use switchyard_tests::harness::scenario::{LogLine, Scenario};
use switchyard_tests::harness::wait::{Look, until};

/// Heartbeats that are heard meanwhile.
const HEARTBEATS: i64 = 60;

#[tokio::test]
async fn heartbeats_that_say_nothing_new_leave_no_line_at_info_of_dispatcher_and_agent() -> anyhow::Result<()>
{
    let pace = (Duration::from_millis(200), Duration::from_secs(8));
    let scenario = Scenario::new("quiet").await?.with_pace(pace.0, pace.1);
    let dispatcher = scenario.dispatcher("dispatcher-1").env("RUST_LOG", "info").start().await?;
    let agent = scenario.agent("agent-1").env("RUST_LOG", "info").start().await?;
    // The lost timeout has passed once, so that losses are judged.
    let sequence = "SELECT max(sequence)::bigint FROM agents";
    let heard = async |more: i64| {
        let from = scenario.count(sequence).await?;
        until(format!("{more} heartbeats"), Duration::from_secs(60), async || {
            let now = scenario.count(sequence).await?;
            Ok(Look::holds(now >= from + more, || format!("{now}")))
        })
        .await
    };
    heard(HEARTBEATS).await?;
    let before = (dispatcher.log().lines()?.len(), agent.log().lines()?.len());
    heard(HEARTBEATS).await?;
    // Passes are told at info by design; everything else must have something new to say.
    let new = |lines: Vec<LogLine>, from: usize| {
        let mut said = BTreeMap::new();
        for line in lines.iter().skip(from).filter(|line| !line.message().starts_with("pass ")) {
            *said.entry(line.message().to_owned()).or_insert(0_u32) += 1;
        }
        said
    };
    assert_eq!(new(dispatcher.log().lines()?, before.0), BTreeMap::new());
    assert_eq!(new(agent.log().lines()?, before.1), BTreeMap::new());
    Ok(())
}
