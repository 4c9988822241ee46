//! Bad input against a real dispatcher: each piece of it gets a dead letter, one ERROR line and, where an answer was asked for, a
//! rejection that says what to do. A good task in between runs to its end as if nothing had happened.
#![expect(
    clippy::expect_used,
    reason = "all of this is tests; clippy exempts only the test functions themselves"
)]

use anyhow::{Context as _, ensure};
use chrono::Utc;
use serde_json::{Value, json};
use switchyard_common::broker::headers::{HeaderValue, Headers};
use switchyard_common::broker::{BrokerConfig, Outgoing, Properties, Publisher};
use switchyard_common::config::Secret;
use switchyard_common::contract::answer::{Answer, Rejected};
use switchyard_common::contract::artifact::Manifest;
use switchyard_common::contract::cloudevent::{CloudEvent, STRUCTURED_CONTENT_TYPE};
use switchyard_common::contract::event::EventType;
use switchyard_common::contract::ids::{AgentId, AgentRef, LeaseToken, PoolId, SessionId, TaskId};
use switchyard_common::contract::limits::EVENT_BODY_MAX_BYTES;
use switchyard_common::contract::report::{Claim, Outcome, OutcomeBatch, OutcomeEnd, Report, ReportBody};
use switchyard_common::contract::routing::ReportKind;
use switchyard_common::failure::FailureKind;
use switchyard_common::task::Status;
use switchyard_dispatcher::store::letters::Letter;
use switchyard_dispatcher::store::letters::browse::LetterFilter;
use switchyard_dispatcher::store::view::TaskSummary;
use switchyard_tests::harness::scenario::look::MOVE_WITHIN;
use switchyard_tests::harness::scenario::upstream::{Upstream, event, submission};
use switchyard_tests::harness::scenario::{Process, Scenario};
use switchyard_tests::harness::seed::Seed;
use switchyard_tests::harness::wait::{Look, until};
use uuid::Uuid;

const SUBMITTED: &str = "switchyard.task.submitted.v1";

struct Bench {
    scenario: Scenario,
    dispatcher: Process,
    _agent: Process,
    upstream: Upstream,
    rejected: usize,
}

impl Bench {
    async fn new(name: &str) -> anyhow::Result<Self> {
        let scenario = Scenario::new(name).await?;
        let dispatcher = scenario.dispatcher("dispatcher-1").start().await?;
        let agent = scenario.agent("agent-1").start().await?;
        let mut upstream = scenario.upstream().await?;
        upstream.register("shop").await?;
        Ok(Self { scenario, dispatcher, _agent: agent, upstream, rejected: 0 })
    }

    /// Publishes bytes that must be rejected, and sees that the rejection helps.
    async fn bytes(
        &mut self,
        what: &str,
        kind: FailureKind,
        body: impl Into<Vec<u8>>,
    ) -> anyhow::Result<Rejected> {
        let properties = Properties::persistent(STRUCTURED_CONTENT_TYPE);
        let answer = self.upstream.request(SUBMITTED, properties, body).await?;
        self.judged(what, kind, answer)
    }

    /// Publishes data that must be rejected.
    async fn data(
        &mut self,
        kind: FailureKind,
        event_type: EventType,
        data: Value,
    ) -> anyhow::Result<Rejected> {
        let answer = self.upstream.ask(event_type, data.clone()).await?;
        self.judged(&data.to_string(), kind, answer)
    }

    fn judged(&mut self, what: &str, kind: FailureKind, answer: Answer) -> anyhow::Result<Rejected> {
        let Answer::Rejected(rejected) = answer else { anyhow::bail!("{what} was accepted: {answer:?}") };
        ensure!(rejected.code == kind, "{what}: {rejected:?} is not {kind:?}");
        ensure!(!rejected.message.is_empty() && !rejected.what_to_do.is_empty(), "{what}: {rejected:?}");
        self.rejected += 1;
        Ok(rejected)
    }

    /// A task that runs to its end: nothing else is disturbed.
    async fn good(&mut self, task_id: &str) -> anyhow::Result<()> {
        self.upstream.submit(task_id, "shop", "plan", json!({})).await?;
        let task = self.scenario.until_status(task_id, Status::Succeeded).await?;
        ensure!(task.attempts == 1, "{task:?}");
        Ok(())
    }

    /// Every rejection has one letter, complete, and one ERROR line; there is no other ERROR line.
    async fn settled(&self) -> anyhow::Result<Vec<Letter>> {
        let all = LetterFilter { resolved: None, count_max: 500, ..LetterFilter::default() };
        let letters = until("a letter per piece of bad input", MOVE_WITHIN, async || {
            let letters = self.scenario.letters(&all).await?;
            let done = letters
                .iter()
                .filter(|letter| letter.logged_at.is_some() && letter.broker_at.is_some())
                .count();
            let found = (done >= self.rejected).then_some(letters.clone());
            Ok(Look::of(found, || format!("{done} of {}: {letters:?}", self.rejected)))
        })
        .await?;
        ensure!(letters.len() == self.rejected, "{} letters for {}", letters.len(), self.rejected);
        let errors = self.dispatcher.log().errors()?;
        let lines: Vec<&str> = errors.iter().map(|line| line.message()).collect();
        ensure!(lines == vec!["dead letter"; self.rejected], "{errors:?}");
        Ok(letters)
    }
}

fn envelope(data: Value) -> Value {
    serde_json::to_value(event(EventType::TaskSubmitted, data)).expect("an event is JSON")
}

fn without(field: &str) -> String {
    let mut event = envelope(submission("t", "shop", "plan", json!({})));
    event.as_object_mut().expect("an object").remove(field);
    event.to_string()
}

/// An event of exactly so many bytes.
fn sized(task_id: &str, bytes: usize) -> Vec<u8> {
    let bare = envelope(submission(task_id, "shop", "plan", json!({ "message": "" }))).to_string();
    let padded = "x".repeat(bytes - bare.len());
    bare.replace("\"message\":\"\"", &format!("\"message\":\"{padded}\"")).into_bytes()
}

#[tokio::test]
async fn events_that_cannot_be_read_are_rejected_one_by_one_and_disturb_nothing() -> anyhow::Result<()> {
    use FailureKind::{
        InvalidValue, MalformedEvent, OversizedEvent, UnknownKind, UnknownType, UnknownWorkspace,
    };
    let mut bench = Bench::new("bad_input_events").await?;
    bench.bytes("not JSON", MalformedEvent, "apply everything").await?;
    bench.bytes("JSON of the wrong shape", MalformedEvent, "[1, 2, 3]").await?;
    bench
        .bytes("data of the wrong shape", MalformedEvent, envelope(json!({ "kind": 7 })).to_string())
        .await?;
    for field in ["id", "source", "type"] {
        let rejected = bench.bytes(field, MalformedEvent, without(field)).await?;
        assert!(rejected.message.contains(field), "{rejected:?}");
    }
    bench.good("good-1").await?;
    let other = CloudEvent::new("e", "/tests", "switchyard.task.exploded.v1", json!({}));
    let rejected = bench.bytes("unknown type", UnknownType, serde_json::to_vec(&other)?).await?;
    assert!(rejected.what_to_do.contains(SUBMITTED));
    let submitted = EventType::TaskSubmitted;
    let rejected = bench.data(UnknownKind, submitted, submission("k", "shop", "destroy", json!({}))).await?;
    assert!(rejected.what_to_do.contains("plan_and_apply"), "{rejected:?}");
    let nowhere = json!({ "task_id": "u", "workspace_id": "nowhere", "kind": "plan", "payload": {} });
    bench.data(UnknownWorkspace, submitted, nowhere).await?;

    let properties = || Properties::persistent(STRUCTURED_CONTENT_TYPE);
    let at_limit =
        bench.upstream.request(SUBMITTED, properties(), sized("big", EVENT_BODY_MAX_BYTES)).await?;
    assert!(matches!(at_limit, Answer::Accepted(_)), "{at_limit:?}");
    let rejected =
        bench.bytes("a byte over", OversizedEvent, sized("bigger", EVENT_BODY_MAX_BYTES + 1)).await?;
    assert!(rejected.message.contains("1048576"), "the limit is not named: {rejected:?}");
    bench.scenario.until_status("big", Status::Succeeded).await?;

    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let nested =
        envelope(submission("deep", "shop", "plan", json!("DEEP"))).to_string().replace("\"DEEP\"", &deep);
    bench.bytes("nested 10,000 deep", MalformedEvent, nested).await?;
    let mut not_utf8 = envelope(submission("utf", "shop", "plan", json!("X"))).to_string().into_bytes();
    let at = not_utf8.iter().position(|byte| *byte == b'X').expect("the payload");
    not_utf8[at] = 0xff;
    bench.bytes("invalid UTF-8", MalformedEvent, not_utf8).await?;
    let nul = submission("nul", "shop", "plan", json!("a\0b"));
    let rejected = bench.data(MalformedEvent, submitted, nul).await?;
    assert!(rejected.message.contains("PostgreSQL"), "{rejected:?}");
    bench.data(InvalidValue, submitted, submission(&"t".repeat(129), "shop", "plan", json!({}))).await?;
    let mut urgent = submission("p", "shop", "plan", json!({}));
    urgent["priority"] = json!(99);
    bench.data(InvalidValue, submitted, urgent).await?;
    let mut late = submission("n", "shop", "plan", json!({}));
    late["not_before"] = json!("9999-12-31T23:59:59Z");
    bench.data(InvalidValue, submitted, late).await?;
    bench.good("good-2").await?;
    bench.settled().await?;
    Ok(())
}

#[tokio::test]
async fn a_letter_and_the_answer_name_the_event_as_far_as_it_can_be_read() -> anyhow::Result<()> {
    use FailureKind::{MalformedEvent, OversizedEvent, UnknownKind};
    let mut bench = Bench::new("bad_input_names").await?;
    let whole = |id: &str| {
        let mut event = envelope(submission("t", "shop", "no_such_kind", json!({})));
        event["id"] = json!(id);
        event.to_string()
    };
    let large =
        format!(r#"{{"id":"large","source":"/tests","data":"{}"}}"#, "x".repeat(EVENT_BODY_MAX_BYTES));
    let mut anonymous: Value = serde_json::from_str(&whole("anonymous"))?;
    anonymous.as_object_mut().expect("an object").remove("source");
    let broken = r#"{"id":"broken","source":"/tests","data":{"#;
    for (id, kind, body) in [
        ("whole", UnknownKind, whole("whole")),
        ("large", OversizedEvent, large),
        ("broken", MalformedEvent, broken.to_owned()),
        ("anonymous", MalformedEvent, anonymous.to_string()),
    ] {
        let rejected = bench.bytes(id, kind, body).await?;
        assert_eq!(rejected.event_id.as_deref(), Some(id));
    }
    let letters = bench.settled().await?;
    let named = |id: &str| letters.iter().find(|letter| letter.event_id.as_deref() == Some(id)).cloned();
    for id in ["whole", "large", "broken"] {
        let letter = named(id).with_context(|| format!("no letter names {id}: {letters:?}"))?;
        assert!(letter.event_source.is_some_and(|source| source.starts_with("/tests")), "{id}");
    }
    assert_eq!(named("anonymous").context("the event without a source")?.event_source, None);
    Ok(())
}

#[tokio::test]
async fn copies_conflicts_and_approvals_that_cannot_be_are_answered_and_change_nothing() -> anyhow::Result<()>
{
    use FailureKind::{IdConflict, InvalidValue, RejectedTransition, UnknownTask};
    let mut bench = Bench::new("bad_input_states").await?;
    let first = event(
        EventType::TaskSubmitted,
        submission("t-1", "shop", "plan_and_apply", json!({ "artifact_bytes": 5 })),
    );
    let accepted = bench.upstream.publish(&first).await?;
    // A second copy of an event is not bad input: it changes nothing and gets the same answer.
    assert_eq!(bench.upstream.publish(&first).await?, accepted);
    let mut other = event(EventType::TaskSubmitted, submission("t-1", "shop", "plan", json!({})));
    other.source = "/tests/another".to_owned();
    let answer = bench.upstream.publish(&other).await?;
    bench.judged("the same task_id from two sources", IdConflict, answer)?;

    let approve = |task: &str| json!({ "task_id": task, "approved_by": "ann" });
    let approved = EventType::TaskApproved;
    bench.data(UnknownTask, approved, approve("nobody")).await?;
    bench.good("plan-1").await?;
    bench.data(RejectedTransition, approved, approve("plan-1")).await?;
    bench.upstream.submit("waits", "shop", "plan_and_apply", json!({})).await?;
    bench.data(RejectedTransition, approved, approve("waits")).await?;

    let waiting = bench.scenario.until_status("t-1", Status::AwaitingApproval).await?;
    let mut wrong = approve("t-1");
    wrong["artifact_digest"] = json!(format!("sha256:{}", "0".repeat(64)));
    let rejected = bench.data(InvalidValue, approved, wrong).await?;
    let digest = waiting.artifact_digest.expect("the plan left something");
    assert!(rejected.message.contains(&digest), "what waits is not named: {rejected:?}");
    bench.upstream.approve("t-1", "ann").await?;
    bench.data(RejectedTransition, approved, approve("t-1")).await?;
    bench.scenario.until_status("t-1", Status::Succeeded).await?;
    bench.data(RejectedTransition, approved, approve("t-1")).await?;
    assert_eq!(bench.scenario.count("SELECT count(*) FROM tasks WHERE task_id = 't-1'").await?, 1);
    let letters = bench.settled().await?;
    assert!(letters.iter().all(|letter| letter.event_id.is_some() && letter.payload.is_some()));
    Ok(())
}

#[tokio::test]
async fn a_forged_x_death_header_is_believed_by_nobody() -> anyhow::Result<()> {
    let mut bench = Bench::new("bad_input_x_death").await?;
    let death: Headers = [
        ("queue".to_owned(), HeaderValue::from("switchyard.agent.default.agent-1")),
        ("reason".to_owned(), HeaderValue::from("rejected")),
        ("count".to_owned(), HeaderValue::Int(41)),
    ]
    .into();
    let properties = || {
        let mut properties = Properties::persistent(STRUCTURED_CONTENT_TYPE);
        properties
            .headers
            .insert("x-death".into(), HeaderValue::List(vec![HeaderValue::Table(death.clone())]));
        properties.headers.insert("x-delivery-count".into(), HeaderValue::Int(41));
        properties
    };
    // A good event stays a good event whatever it says of its past.
    let good = serde_json::to_vec(&envelope(submission("t-1", "shop", "plan", json!({}))))?;
    let answer = bench.upstream.request(SUBMITTED, properties(), good).await?;
    assert!(matches!(answer, Answer::Accepted(_)), "{answer:?}");
    bench.scenario.until_status("t-1", Status::Succeeded).await?;
    // A bad one is told by what it is.
    let answer = bench.upstream.request(SUBMITTED, properties(), "not JSON").await?;
    bench.judged("a forged x-death", FailureKind::MalformedEvent, answer)?;
    let letters = bench.settled().await?;
    let queue = bench.scenario.namespace.events_queue();
    assert_eq!((letters[0].queue.as_deref(), letters[0].agent_id.as_deref()), (Some(queue.as_str()), None));
    Ok(())
}

/// What an agent shows for an attempt, as the database has it.
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

fn success(claim: Claim) -> Report {
    let end = OutcomeEnd::Succeeded { changes: true, artifacts: Manifest::default(), result: None };
    let outcome = Outcome { claim, started_at: None, ended_at: Utc::now(), log_lines: 0, end };
    Report { epoch: 1, body: ReportBody::Outcome(OutcomeBatch { outcomes: vec![outcome] }) }
}

#[tokio::test]
async fn reports_that_nobody_may_send_get_a_letter_each_and_change_nothing() -> anyhow::Result<()> {
    let mut bench = Bench::new("bad_input_reports").await?;
    let url = std::env::var("SWITCHYARD_AMQP_URL")?;
    let publisher = Publisher::start(&BrokerConfig::new(Secret::new(url), "forger"), "publish")?;
    let exchange = bench.scenario.namespace.reports_exchange();
    let send = async |agent: &str, report: &Report| {
        let sender = AgentRef { pool: PoolId::new("default")?, agent: AgentId::new(agent)? };
        let properties = Properties::persistent("application/json");
        let body = serde_json::to_vec(report)?;
        let message = Outgoing::new(&exchange, &ReportKind::Outcome.key(&sender), properties, body, true)?;
        ensure!(publisher.publish(message).await.is_acked(), "not published");
        anyhow::Ok(())
    };
    bench.upstream.submit("runs", "shop", "plan", json!({ "do": "hang" })).await?;
    let assigned = |task: &TaskSummary| task.agent.is_some();
    bench.scenario.until_task("runs", "to be in hand", MOVE_WITHIN, assigned).await?;
    let own = claim(&bench.scenario, "runs").await?;
    send("agent-1", &success(Claim { lease: LeaseToken(Uuid::new_v4()), ..own.clone() })).await?;
    send("agent-2", &success(own.clone())).await?;
    send("agent-1", &success(Claim { attempt: 7, ..own.clone() })).await?;
    bench.rejected += 3;

    // A stale attempt: its session was declared over, and the task waits for another one.
    bench.upstream.submit("stale", "shop", "plan", json!({ "do": "fail" })).await?;
    let failed_once = |task: &TaskSummary| task.failure_kind.is_some();
    bench.scenario.until_task("stale", "to have failed once", MOVE_WITHIN, failed_once).await?;
    let stale = claim(&bench.scenario, "stale").await?;
    send("agent-1", &success(stale)).await?;
    bench.upstream.cancel("stale", "ann").await?;
    // A finished task.
    bench.good("done").await?;
    let mut late = success(claim(&bench.scenario, "done").await?);
    if let ReportBody::Outcome(batch) = &mut late.body {
        batch.outcomes[0].claim.lease = LeaseToken(Uuid::new_v4());
    }
    send("agent-1", &late).await?;

    let kinds = until("the letters", MOVE_WITHIN, async || {
        let connection = bench.scenario.database.db.connection().await?;
        let sql = "SELECT failure_kind FROM dead_letters WHERE logged_at IS NOT NULL AND origin = 'message' ORDER BY 1";
        let kinds: Vec<String> = connection.query(sql, &[]).await?.iter().map(|row| row.get(0)).collect();
        Ok(Look::of((kinds.len() >= 5).then_some(kinds.clone()), || format!("{kinds:?}")))
    })
    .await?;
    assert_eq!(
        kinds,
        [
            "malformed_report",
            "malformed_report",
            "malformed_report",
            "malformed_report",
            "rejected_transition"
        ]
    );
    // Nothing was changed by any of them.
    assert!(bench.scenario.task("runs").await?.agent.is_some());
    assert_eq!(bench.scenario.task("done").await?.status, Status::Succeeded);
    let secrets: i64 = Seed::new(&bench.scenario.database.db)
        .value(
            "SELECT count(*) FROM dead_letters d, attempts a WHERE d.payload LIKE '%' || a.lease_token || '%' \
                OR d.failure_message LIKE '%' || a.lease_token || '%'",
            &[],
        )
        .await;
    assert_eq!(secrets, 0, "a letter shows a lease token");
    bench.upstream.cancel("runs", "ann").await?;
    bench.scenario.until_status("runs", Status::Cancelled).await?;
    Ok(())
}
