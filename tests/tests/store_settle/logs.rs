//! Log lines.

use chrono::Utc;
use switchyard_common::contract::report::{Claim, LogLine, LogLines, LogStream, ReportBody};
use switchyard_dispatcher::settle::Settler;
use switchyard_dispatcher::settle::logs::Logs;
use switchyard_dispatcher::store::logs::{CUT_MARK, LOG_LINES_PER_ATTEMPT_MAX_COUNT};
use switchyard_tests::harness::seed::AgentSeed;

use crate::world::*;

async fn log(world: &World, agent: &AgentSeed, claim: &Claim, sequences: std::ops::Range<u64>) {
    let line = |sequence| LogLine {
        sequence,
        at: Utc::now(),
        stream: LogStream::Stdout,
        text: format!("line {sequence}"),
    };
    let lines = LogLines { claim: claim.clone(), lines: sequences.map(line).collect() };
    let report = heard(&agent.agent, ReportBody::Log(lines));
    Logs { db: world.database.db.clone() }.settle(&[&report]).await.unwrap();
}

#[tokio::test]
async fn incident_75_a_late_log_upload_touches_no_task_row() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (task, claim) = world.assigned("t", "plan", &agent).await;
    world.report(&agent, &claim, done()).await;
    let row = || world.value::<String>("SELECT xmin::text || t::text FROM tasks t");
    let before = row().await;
    log(&world, &agent, &claim, 1..4).await;
    log(&world, &agent, &claim, 2..5).await;
    assert_eq!(row().await, before, "not even rewritten with the same values");
    assert_eq!(world.count("logs").await, 4, "copies of lines change nothing");
    assert_eq!(world.seed().status(&task).await, "succeeded");
}

#[tokio::test]
async fn lines_of_a_stranger_are_not_stored() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let stranger = world.seed().agent("default", "worker-1").await;
    let (_, claim) = world.assigned("t", "plan", &agent).await;
    log(&world, &stranger, &claim, 1..2).await;
    assert_eq!(world.count("logs").await, 0);
    world.seed().execute("UPDATE pools SET revoked_at = now()", &[]).await;
    log(&world, &agent, &claim, 1..2).await;
    assert_eq!(world.count("logs").await, 0, "the grant is revoked");
}

#[tokio::test]
async fn an_attempt_keeps_lines_up_to_its_limit_and_one_marker_in_place_of_the_rest() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (_, claim) = world.assigned("t", "plan", &agent).await;
    let limit = LOG_LINES_PER_ATTEMPT_MAX_COUNT;
    log(&world, &agent, &claim, limit - 1..limit + 1).await;
    assert_eq!(world.count("logs").await, 2, "at the limit");
    log(&world, &agent, &claim, limit + 1..limit + 100).await;
    log(&world, &agent, &claim, limit + 100..limit + 200).await;
    assert_eq!(world.count("logs").await, 3);
    let marker: String = world.value("SELECT line FROM logs ORDER BY sequence DESC LIMIT 1").await;
    assert_eq!(marker, CUT_MARK);
}
