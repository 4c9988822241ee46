//! What Kubernetes and Prometheus read of an agent.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use switchyard_common::task::Status;
use switchyard_tests::harness::scenario::{Process, Scenario, http};
use switchyard_tests::harness::wait::{Look, until};

const WITHIN: Duration = Duration::from_secs(60);

/// The port that an agent chose for itself, as its log says.
async fn port(agent: &Process) -> anyhow::Result<u16> {
    let line = agent.log().until("its address", WITHIN, |line| line.message() == "HTTP is served").await?;
    let address: std::net::SocketAddr = line.text("address").parse().context("an address")?;
    ensure!(address.ip().is_loopback(), "{address}");
    Ok(address.port())
}

async fn ready(port: u16) -> anyhow::Result<(u16, Value)> {
    let answer = http::get(port, "/readyz").await?;
    Ok((answer.status, serde_json::from_str(&answer.body)?))
}

async fn until_ready(port: u16, wanted: u16, what: &str) -> anyhow::Result<Value> {
    until(what.to_owned(), WITHIN, async || {
        let (status, report) = ready(port).await?;
        Ok(Look::of((status == wanted).then(|| report.clone()), || format!("{status}: {report}")))
    })
    .await
}

#[tokio::test]
async fn an_agent_says_whether_it_lives_and_can_be_given_work_and_what_it_has_done() -> anyhow::Result<()> {
    let scenario = Scenario::new("agent_health").await?;
    let dispatcher = scenario.dispatcher("dispatcher-1").start().await?;
    let mut agent =
        scenario.agent("agent-1").slots(3).env("SWITCHYARD_AGENT_HTTP_LISTEN", "127.0.0.1:0").start().await?;
    let port = port(&agent).await?;
    assert_eq!(http::get(port, "/livez").await?.status, 200);
    let report = until_ready(port, 200, "the agent to be ready").await?;
    assert_eq!((&report["slots"], &report["broker_connected"]), (&json!(3), &json!(true)));

    let mut upstream = scenario.upstream().await?;
    upstream.register("shop").await?;
    upstream.submit("done", "shop", "plan", json!({})).await?;
    scenario.until_status("done", Status::Succeeded).await?;
    upstream.submit("fails", "shop", "once", json!({ "do": "fail" })).await?;
    scenario.until_status("fails", Status::Failed).await?;
    upstream.submit("hangs", "shop", "plan", json!({ "do": "hang" })).await?;
    scenario.until_status("hangs", Status::Running).await?;
    let metrics = http::get(port, "/metrics").await?.body;
    for wanted in [
        "switchyard_agent_in_hand 1",
        "switchyard_agent_slots 3",
        "switchyard_agent_ready 1",
        "switchyard_agent_consuming 1",
        r#"switchyard_agent_handlers_ended_total{end="succeeded"} 1"#,
        r#"switchyard_agent_handlers_ended_total{end="failed"} 1"#,
        r#"switchyard_broker_connected{role="publish"} 1"#,
    ] {
        assert!(metrics.lines().any(|line| line == wanted), "{wanted:?} is not in {metrics}");
    }
    let age = metrics.lines().find_map(|line| line.strip_prefix("switchyard_agent_heartbeat_age_seconds "));
    let age: f64 = age.context("the age of the newest heartbeat")?.parse()?;
    assert!((0.0..60.0).contains(&age), "{age}");

    // While it drains it is alive, not ready, and says why.
    agent.signal(nix::sys::signal::Signal::SIGTERM)?;
    let report = until_ready(port, 503, "the agent to drain").await?;
    assert!(report["because"][0].as_str().is_some_and(|why| why.contains("drains")), "{report}");
    assert_eq!(http::get(port, "/livez").await?.status, 200);
    upstream.cancel("hangs", "ann").await?;
    assert!(agent.until_ended(WITHIN).await?.success());
    drop(dispatcher);
    Ok(())
}

#[tokio::test]
async fn an_agent_without_a_broker_is_alive_and_not_ready_and_one_that_is_not_asked_to_listens_nowhere()
-> anyhow::Result<()> {
    let scenario = Scenario::new("agent_health_alone").await?;
    let nobody = format!("amqp://nobody:nothing@127.0.0.1:{}/none", http::free_port()?);
    let agent = |id: &str| scenario.agent(id).env("SWITCHYARD_AMQP_URL", nobody.as_str());
    let listens = agent("agent-1").env("SWITCHYARD_AGENT_HTTP_LISTEN", "127.0.0.1:0").spawn()?;
    let port = port(&listens).await?;
    assert_eq!(http::get(port, "/livez").await?.status, 200);
    let (status, report) = ready(port).await?;
    assert_eq!((status, &report["broker_connected"]), (503, &json!(false)));

    let silent = agent("agent-2").spawn()?;
    silent.log().until("its start", WITHIN, |line| line.message() == "agent starts").await?;
    silent.log().until("its tries", WITHIN, |line| line.message().contains("broker connection")).await?;
    assert!(silent.log().find(|line| line.message() == "HTTP is served")?.is_empty());

    // An address that is taken ends it with a message.
    let mut taken =
        agent("agent-3").env("SWITCHYARD_AGENT_HTTP_LISTEN", format!("127.0.0.1:{port}")).spawn()?;
    assert_eq!(taken.until_ended(WITHIN).await?.code(), Some(2));
    assert!(taken.log().tail().contains("cannot listen on 127.0.0.1"), "{}", taken.log().tail());
    Ok(())
}
