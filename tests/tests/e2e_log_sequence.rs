//! The lines that operators follow at night, from the JSON log of a real dispatcher: an approved apply from the pass that finds it to
//! its confirmed publish, and a pass that finds nothing. Begin and end come as a pair, always: the absence of "pass begins" is itself
//! the diagnosis.

use anyhow::Context as _;
use serde_json::json;
use switchyard_common::task::Status;
use switchyard_tests::harness::scenario::look::MOVE_WITHIN;
use switchyard_tests::harness::scenario::{LogLine, Scenario};

/// An agent that plans and does not apply: it is skipped, and the reason is told.
const PLANS_ONLY: &str = "[handlers.plan]\nbuiltin = \"test\"\n";

/// What a pass tells, in the order in which it tells it.
const TOLD_BY_A_PASS: [&str; 7] = [
    "pass begins",
    "task found",
    "workspace held",
    "candidate agent skipped",
    "agent selected",
    "assignment committed",
    "pass ends",
];

/// The lines of the pass that committed attempt 2 of the task, from its begin to its end.
fn pass_of_the_apply(lines: &[LogLine]) -> anyhow::Result<Vec<LogLine>> {
    let told: Vec<&LogLine> = lines.iter().filter(|line| TOLD_BY_A_PASS.contains(&line.message())).collect();
    let committed = told
        .iter()
        .position(|line| line.message() == "assignment committed" && *line.field("attempt") == json!(2))
        .context("the apply was never committed")?;
    let begin =
        told[..committed].iter().rposition(|line| line.message() == "pass begins").context("no begin")?;
    let end = told[committed..].iter().position(|line| line.message() == "pass ends").context("no end")?;
    Ok(told[begin..=committed + end].iter().map(|line| (*line).clone()).collect())
}

#[tokio::test]
async fn the_log_of_an_approved_apply_tells_every_step_from_the_pass_to_the_confirmed_publish()
-> anyhow::Result<()> {
    let scenario = Scenario::new("log_sequence_apply").await?;
    let dispatcher = scenario.dispatcher("dispatcher-1").start().await?;
    let _applies = scenario.agent("agent-1").start().await?;
    let _plans = scenario.agent("agent-2").config(PLANS_ONLY).start().await?;
    let mut upstream = scenario.upstream().await?;
    upstream.submit("t-1", "shop", "plan_and_apply", json!({ "artifact_bytes": 10 })).await?;
    scenario.until_status("t-1", Status::AwaitingApproval).await?;
    upstream.approve("t-1", "ann").await?;
    scenario.until_status("t-1", Status::Succeeded).await?;
    let published = |line: &LogLine| {
        line.message() == "assignment published and confirmed" && line.text("action") == "apply"
    };
    let published = dispatcher.log().until("the confirmed apply", MOVE_WITHIN, published).await?;

    let pass = pass_of_the_apply(&dispatcher.log().lines()?)?;
    assert_eq!(pass.iter().map(LogLine::message).collect::<Vec<_>>(), TOLD_BY_A_PASS);
    for line in &pass {
        assert_eq!(line.text("pool"), "default", "{line:?}");
    }
    for line in &pass[1..6] {
        assert_eq!((line.text("task_id"), line.text("workspace_id")), ("t-1", "shop"), "{line:?}");
    }
    assert_eq!(pass[2].text("held_by"), "t-1");
    assert_eq!((pass[3].text("agent"), pass[3].text("reason")), ("agent-2", "does not offer handler apply"));
    assert_eq!(pass[4].text("agent"), "agent-1");
    assert_eq!(pass[5].text("agent"), "agent-1");
    assert_eq!((pass[6].text("decision"), pass[6].field("assigned")), ("assigned", &json!(1)));
    // Committed, then published: routing is a stage of its own, so the pass may have ended before.
    assert_eq!((published.text("task_id"), published.text("workspace_id")), ("t-1", "shop"));
    assert_eq!((published.text("agent"), published.field("attempt")), ("agent-1", &json!(2)));
    let place =
        |wanted: &LogLine| dispatcher.log().lines().map(|lines| lines.iter().position(|line| line == wanted));
    assert!(place(&pass[5])? < place(&published)?, "published before it was committed");
    Ok(())
}

#[tokio::test]
async fn a_pass_that_finds_nothing_begins_and_ends_and_says_why() -> anyhow::Result<()> {
    let scenario = Scenario::new("log_sequence_nothing").await?;
    let dispatcher = scenario.dispatcher("dispatcher-1").start().await?;
    scenario.upstream().await?.register("shop").await?;
    let says = |reason: &'static str| {
        move |line: &LogLine| line.message() == "pass ends" && line.text("reason") == reason
    };
    dispatcher.log().until("a pass without agents", MOVE_WITHIN, says("the pool has no agents")).await?;
    let _agent = scenario.agent("agent-1").start().await?;
    let nothing = says("nothing can run that an agent has room for");
    let end = dispatcher.log().until("a pass with an agent and no task", MOVE_WITHIN, nothing).await?;
    assert_eq!((end.text("pool"), end.text("decision")), ("default", "nothing"));
    // A pass may be under way: then its end is missing, and nothing else.
    let lines = dispatcher.log().lines()?;
    let told: Vec<&str> =
        lines.iter().map(LogLine::message).filter(|said| said.starts_with("pass ")).collect();
    assert!(told.chunks(2).all(|pair| pair[0] == "pass begins"), "{told:?}");
    assert!(told.chunks_exact(2).all(|pair| pair[1] == "pass ends"), "{told:?}");
    Ok(())
}
