//! Reports that nobody may send, of every type, against a real dispatcher: each changes nothing, is counted by its reason, and is
//! told with who claimed what; not so often that the log is full of it.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use chrono::Utc;
use serde_json::json;
use switchyard_common::broker::{BrokerConfig, Outgoing, Properties, Publisher};
use switchyard_common::config::Secret;
use switchyard_common::contract::artifact::split;
use switchyard_common::contract::ids::{AgentId, AgentRef, LeaseToken, Nonce, PoolId, SessionId, TaskId};
use switchyard_common::contract::report::{
    Ask, Claim, LeftPart, LogLine, LogLines, LogStream, Outcome, OutcomeBatch, OutcomeEnd, Report,
    ReportBody, StartedBatch,
};
use switchyard_common::failure::{Failure, FailureKind};
use switchyard_common::task::Status;
use switchyard_dispatcher::settle::quiet::REPEAT_AFTER;
use switchyard_tests::harness::scenario::look::MOVE_WITHIN;
use switchyard_tests::harness::scenario::{Process, Scenario};
use switchyard_tests::harness::wait::{Look, until};
use uuid::Uuid;

/// Publishes reports as anybody with the credentials of a pool could.
struct Forger<'a> {
    scenario: &'a Scenario,
    publisher: Publisher,
}

impl Forger<'_> {
    async fn send(&self, agent: &str, body: ReportBody) -> anyhow::Result<()> {
        let sender = AgentRef { pool: PoolId::new("default")?, agent: AgentId::new(agent)? };
        let key = body.kind().key(&sender);
        let exchange = self.scenario.namespace.reports_exchange();
        let properties = Properties::persistent("application/json");
        let bytes = serde_json::to_vec(&Report { epoch: 1, body })?;
        let outcome = self.publisher.publish(Outgoing::new(&exchange, &key, properties, bytes, true)?).await;
        ensure!(outcome.is_acked(), "{outcome:?}");
        Ok(())
    }
}

/// The newest attempt of a task as its own agent would claim it.
async fn claim(scenario: &Scenario, task: &str) -> anyhow::Result<Claim> {
    let connection = scenario.database.db.connection().await?;
    let sql =
        "SELECT attempt, session, lease_token FROM attempts WHERE task_id = $1 ORDER BY attempt DESC LIMIT 1";
    let row = connection.query_one(sql, &[&task]).await?;
    Ok(Claim {
        task_id: TaskId::new(task)?,
        attempt: u32::try_from(row.get::<_, i32>(0))?,
        session: SessionId(row.get(1)),
        lease: LeaseToken(row.get(2)),
    })
}

/// A report of every type by this claim.
fn reports(claim: &Claim) -> anyhow::Result<Vec<(&'static str, ReportBody)>> {
    let claim = || claim.clone();
    let end = OutcomeEnd::Failed { failure: Failure::new(FailureKind::HandlerFailed, "forged") };
    let outcome = Outcome { claim: claim(), started_at: None, ended_at: Utc::now(), log_lines: 0, end };
    let part = split(&[("forged".to_owned(), b"forged".to_vec())].into()).next().context("a part")?;
    Ok(vec![
        ("started", ReportBody::Started(StartedBatch { claims: vec![claim()] })),
        ("ask", ReportBody::Ask(Ask { claim: claim(), nonce: Nonce(Uuid::new_v4()) })),
        ("outcome", ReportBody::Outcome(OutcomeBatch { outcomes: vec![outcome] })),
        ("artifact", ReportBody::Artifact(LeftPart { claim: claim(), part })),
        ("log", log(claim())),
    ])
}

fn log(claim: Claim) -> ReportBody {
    let line =
        LogLine { sequence: 9_000, at: Utc::now(), stream: LogStream::Stdout, text: "forged".to_owned() };
    ReportBody::Log(LogLines { claim, lines: vec![line] })
}

/// The counter of reports without effect.
async fn counted(dispatcher: &Process, report: &str, reason: &str) -> anyhow::Result<u64> {
    let metrics = dispatcher.get("/metrics").await?.body;
    let name = format!("switchyard_reports_without_effect_total{{type=\"{report}\",reason=\"{reason}\"}} ");
    Ok(metrics.lines().find_map(|line| line.strip_prefix(&name)).map_or(Ok(0), str::parse)?)
}

async fn until_counted(dispatcher: &Process, report: &str, reason: &str, count: u64) -> anyhow::Result<()> {
    until(format!("{count} of {report} to be counted as {reason}"), MOVE_WITHIN, async || {
        let found = counted(dispatcher, report, reason).await?;
        Ok(Look::holds(found == count, || format!("{found}")))
    })
    .await
}

/// One WARN line that says who claimed what.
async fn told(
    dispatcher: &Process,
    report: &str,
    reason: &str,
    agent: &str,
    claim: &Claim,
) -> anyhow::Result<()> {
    let attempt = u64::from(claim.attempt);
    let (agent, task) = (format!("default/{agent}"), claim.task_id.to_string());
    let wanted =
        [("report", report), ("reason", reason), ("agent", agent.as_str()), ("task_id", task.as_str())];
    let what = format!("a line of {wanted:?}");
    dispatcher
        .log()
        .until(&what, MOVE_WITHIN, |line| {
            line.level() == "WARN" && line.has(&wanted) && line.field("attempt").as_u64() == Some(attempt)
        })
        .await?;
    Ok(())
}

#[tokio::test]
async fn every_type_of_report_that_is_forged_is_counted_by_its_reason_and_told_with_who_claimed_what()
-> anyhow::Result<()> {
    let scenario = Scenario::new("forged_reports").await?;
    let dispatcher = scenario.dispatcher("dispatcher-1").start().await?;
    let _agent = scenario.agent("agent-1").start().await?;
    let mut upstream = scenario.upstream().await?;
    upstream.register("shop").await?;
    let url = std::env::var("SWITCHYARD_AMQP_URL")?;
    let publisher = Publisher::start(&BrokerConfig::new(Secret::new(url), "forger"), "publish")?;
    let forger = Forger { scenario: &scenario, publisher };

    upstream.submit("done", "shop", "plan", json!({})).await?;
    scenario.until_status("done", Status::Succeeded).await?;
    upstream.submit("runs", "shop", "plan", json!({ "do": "hang" })).await?;
    scenario.until_status("runs", Status::Running).await?;
    let (own, done) = (claim(&scenario, "runs").await?, claim(&scenario, "done").await?);
    let wrong = Claim { lease: LeaseToken(Uuid::new_v4()), ..own.clone() };
    let unknown = Claim { attempt: 7, ..own.clone() };
    let other = Claim { session: SessionId(Uuid::new_v4()), ..own.clone() };
    for (agent, claim, reason) in [
        ("agent-1", &wrong, "wrong_token"),
        ("agent-2", &own, "foreign_agent"),
        ("agent-1", &unknown, "unknown_attempt"),
        ("agent-1", &other, "other_session"),
        ("agent-1", &done, "ended"),
    ] {
        for (report, body) in reports(claim)? {
            // The last lines of an attempt that has ended are taken: they tell most.
            let is_refused = (report, reason) != ("log", "ended");
            forger.send(agent, body).await?;
            if is_refused {
                until_counted(&dispatcher, report, reason, 1).await?;
                told(&dispatcher, report, reason, agent, claim).await?;
            }
        }
    }
    let running = scenario.task("runs").await?;
    assert_eq!((running.status, running.attempts), (Status::Running, 1));
    assert_eq!(scenario.task("done").await?.status, Status::Succeeded);
    let kept = "SELECT (SELECT count(*) FROM logs WHERE line = 'forged' AND task_id = 'runs') \
        + (SELECT count(*) FROM artifact_parts WHERE name = 'forged')";
    assert_eq!(scenario.count(kept).await?, 0);

    // Many of them are all counted, and told now and then.
    let (before, started) = (lines(&dispatcher)?, Instant::now());
    for _ in 0..50 {
        forger.send("agent-1", log(wrong.clone())).await?;
    }
    until_counted(&dispatcher, "log", "wrong_token", 51).await?;
    let more = lines(&dispatcher)? - before;
    let due = 1 + started.elapsed().as_secs() / REPEAT_AFTER.as_secs();
    assert!(more as u64 <= due, "{more} lines for 50 reports of one kind within {:?}", started.elapsed());
    upstream.cancel("runs", "ann").await?;
    scenario.until_status("runs", Status::Cancelled).await?;
    Ok(())
}

/// Lines about logs with a wrong token.
fn lines(dispatcher: &Process) -> anyhow::Result<usize> {
    let wanted = [("report", "log"), ("reason", "wrong_token")];
    Ok(dispatcher.log().find(|line| line.has(&wanted))?.len())
}
