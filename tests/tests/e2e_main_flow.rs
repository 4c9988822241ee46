//! The main flow: from a published event to a settled task, through the real broker, database and processes.

use serde_json::json;
use switchyard_common::contract::event::EventType;
use switchyard_common::task::Status;
use switchyard_tests::harness::scenario::Scenario;
use switchyard_tests::harness::scenario::look::MOVE_WITHIN;
use switchyard_tests::harness::scenario::upstream::submission;
use switchyard_tests::harness::wait::{Look, until};

#[tokio::test]
async fn a_published_event_becomes_a_task_that_an_agent_runs_and_every_step_of_it_is_told()
-> anyhow::Result<()> {
    let scenario = Scenario::new("main_flow_plan").await?;
    let dispatcher = scenario.dispatcher("dispatcher-1").start().await?;
    let _agent = scenario.agent("agent-1").start().await?;
    let mut upstream = scenario.upstream().await?;
    upstream.register("shop").await?;
    let accepted =
        upstream.submit("t-1", "shop", "plan", json!({ "log_lines": 2, "artifact_bytes": 10 })).await?;
    assert_eq!(accepted.task_id.map(|id| id.to_string()).as_deref(), Some("t-1"));

    let task = scenario.until_status("t-1", Status::Succeeded).await?;
    assert_eq!(task.attempts, 1);
    let attempts = scenario.attempts("t-1").await?;
    assert_eq!(attempts.len(), 1);
    assert_eq!((attempts[0].agent.as_str(), attempts[0].outcome.as_deref()), ("agent-1", Some("succeeded")));
    assert_eq!(scenario.artifacts("t-1", 1).await?["artifact"], b"xxxxxxxxxx");
    let moments: Vec<String> =
        scenario.timeline("t-1").await?.into_iter().map(|moment| moment.what).collect();
    for expected in ["submitted", "assigned", "succeeded"] {
        assert!(moments.iter().any(|what| what == expected), "{expected} is not in {moments:?}");
    }
    until("both log lines of t-1", MOVE_WITHIN, async || {
        let lines: Vec<String> = scenario.logs("t-1").await?.into_iter().map(|line| line.line).collect();
        Ok(Look::holds(lines == ["line 1 of 2", "line 2 of 2"], || format!("{lines:?}")))
    })
    .await?;
    assert!(dispatcher.log().errors()?.is_empty(), "{:?}", dispatcher.log().errors()?);
    assert!(scenario.letters_of("t-1").await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_hundred_tasks_over_two_agents_and_two_dispatchers_all_succeed_once() -> anyhow::Result<()> {
    let scenario = Scenario::new("main_flow_many").await?;
    let first = scenario.dispatcher("dispatcher-1").start().await?;
    let second = scenario.dispatcher("dispatcher-2").start().await?;
    let _agents = [scenario.agent("agent-1").start().await?, scenario.agent("agent-2").start().await?];
    let mut upstream = scenario.upstream().await?;
    for number in 0..100 {
        let data = submission(&format!("t-{number}"), &format!("w-{}", number % 7), "plan", json!({}));
        upstream.accepted(EventType::TaskSubmitted, data).await?;
    }
    for number in 0..100 {
        scenario.until_status(&format!("t-{number}"), Status::Succeeded).await?;
    }
    assert_eq!(scenario.count("SELECT count(*) FROM attempts").await?, 100);
    assert_eq!(scenario.count("SELECT count(DISTINCT agent_id) FROM attempts").await?, 2);
    for dispatcher in [&first, &second] {
        assert!(dispatcher.log().errors()?.is_empty(), "{:?}", dispatcher.log().errors()?);
    }
    Ok(())
}
