//! Connections that break in every phase: while the agent connects, declares, begins to consume, says hello, and while it drains. The
//! agent never locks itself out of its own id, and nothing is lost.

use std::time::Duration;

use serde_json::json;
use switchyard_common::contract::assignment::Assignment;
use switchyard_common::contract::report::{NotStarted, OutcomeEnd, ReportBody};
use switchyard_worker_agent::{AgentConfig, Finished};

use super::support::proxy::{Break, Proxy};
use super::support::{Bench, url};

/// More than an agent sends until its queues are consumed, on one connection, and its hello is confirmed, on the other.
const START_MAX_BYTES: usize = 1_500;

/// An agent whose first connections break so comes to work in the end.
async fn comes_to_work(breaks: Vec<Break>, change: impl FnOnce(&mut AgentConfig)) {
    let mut bench = Bench::new().await;
    let proxy = Proxy::start(&url()).await;
    proxy.break_next(breaks);
    let mut config = bench.config(proxy.url());
    change(&mut config);
    let agent = bench.start_with(config, Duration::from_secs(20));
    // Each connection that breaks is followed by another, until none is left to break.
    let all_broken = async {
        while proxy.breaks_left() > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), all_broken).await.expect("it stopped to reconnect");
    // Else the last ones might break when the work is done, and take its ack with them.
    proxy.break_no_more();
    bench.forget_reports();
    let heard = bench.report(|body| match body {
        ReportBody::Hello(presence) | ReportBody::Heartbeat(presence) => Some(presence.session),
        _ => None,
    });
    let session = heard.await;
    let work = bench.work(session, json!({}));
    bench.assign_when_possible(&work).await;
    assert_eq!(bench.outcome(&work).await.end.name(), "succeeded");
    agent.stop().await;
    assert_eq!(bench.waiting().await, 0);
    bench.tear_down().await;
}

#[tokio::test]
async fn an_agent_whose_connection_is_cut_at_any_point_of_its_start_comes_to_work_in_the_end() {
    // Twice each, because two connections share them.
    let limits = (0..START_MAX_BYTES).step_by(100).flat_map(|limit| [limit, limit]);
    comes_to_work(limits.map(Break::CloseAfterBytes).collect(), |_| {}).await;
}

#[tokio::test]
async fn an_agent_whose_connection_goes_silent_at_any_point_of_its_start_comes_to_work_in_the_end() {
    let limits = [0, 300, 500, 700, 900, 1_100, 1_300].into_iter().flat_map(|limit| [limit, limit]);
    comes_to_work(limits.map(Break::StallAfterBytes).collect(), |config| {
        config.broker.heartbeat = Duration::from_secs(1);
        config.broker.connect_timeout = Duration::from_secs(1);
        config.broker.request_timeout = Duration::from_secs(3);
    })
    .await;
}

#[tokio::test]
async fn a_drain_in_which_the_connection_is_cut_ends_in_time_and_hands_back_what_waits() {
    let mut bench = Bench::new().await;
    let proxy = Proxy::start(&url()).await;
    let agent = bench.start_with(bench.config(proxy.url()), Duration::from_secs(30));
    let session = bench.hello().await.session;
    let running: Vec<Assignment> = (0..4).map(|_| bench.gated(session, json!({}))).collect();
    let waiting = bench.work(session, json!({}));
    for work in running.iter().chain([&waiting]) {
        bench.assign(work).await;
    }
    bench.heartbeat(|presence| presence.in_hand.len() == 5).await;
    agent.shutdown.trigger("test");
    proxy.cut();
    bench.heartbeat(|presence| presence.draining).await;
    assert_eq!(bench.outcome(&waiting).await.end, OutcomeEnd::NotStarted { reason: NotStarted::Draining });
    bench.gate.add_permits(running.len());
    for work in &running {
        assert_eq!(bench.outcome(work).await.end.name(), "succeeded");
        proxy.cut();
    }
    assert_eq!(agent.ended().await, Finished { left_count: 0 });
    bench.tear_down().await;
}
