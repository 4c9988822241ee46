//! A compromised agent is assumed: somebody who has the credentials of one pool, and even the lease token of another pool's attempt, says
//! whatever it likes. Nothing outside its own attempts changes, and the work of other pools goes on.
#![expect(
    clippy::unwrap_used,
    reason = "all of this is tests; clippy exempts only the test functions themselves"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::Utc;
use lapin::BasicProperties;
use lapin::options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions};
use serde_json::{Value, json};
use switchyard_common::broker::{Session, declare, delete_queue, queue_counts};
use switchyard_common::contract::access::Role;
use switchyard_common::contract::artifact::Manifest;
use switchyard_common::contract::assignment::{AgentMessage, Assignment, AttemptKey};
use switchyard_common::contract::event::EventType;
use switchyard_common::contract::ids::{AgentId, HandlerName, LeaseToken, Nonce, PoolId, SessionId};
use switchyard_common::contract::report::{
    Ask, Claim, InHand, LogLine, LogLines, LogStream, Outcome, OutcomeBatch, OutcomeEnd, Presence, Report,
    ReportBody, StartedBatch,
};
use switchyard_common::contract::routing::ReportKind;
use switchyard_common::contract::topology::Namespace;
use switchyard_common::failure::{Failure, FailureKind};
use switchyard_common::task::Status;
use switchyard_tests::harness::accounts::{Accounts, local_ctl};
use switchyard_tests::harness::scenario::Scenario;
use switchyard_tests::harness::scenario::process::Process;
use switchyard_tests::harness::scenario::upstream::Upstream;
use switchyard_tests::harness::wait::{Look, until};
use uuid::Uuid;

/// Longest wait for the dispatcher to have heard everything.
const HEARD_WITHIN: Duration = Duration::from_secs(120);
/// Reports of a flood, and the lines of each.
const FLOOD_REPORTS: usize = 200;
const FLOOD_LINES: u64 = 200;

fn pool(name: &str) -> PoolId {
    PoolId::new(name).unwrap()
}

/// Switchyard with an account for each role: the pool `default` has an honest agent, the pool `red` the attacker.
struct Stage {
    upstream: Upstream,
    attacker: Attacker,
    _agent: Process,
    dispatcher: Process,
    accounts: Accounts,
    scenario: Scenario,
}

impl Stage {
    async fn new(name: &str) -> anyhow::Result<Self> {
        let scenario = Scenario::new(name).await?;
        let roles = [Role::Dispatcher, Role::Upstream, Role::Pool(pool("default")), Role::Pool(pool("red"))];
        let accounts = Accounts::make(local_ctl(), &scenario.amqp_url, &scenario.namespace, &roles).await?;
        let url = |role: &Role| accounts.url(role).to_owned();
        let dispatcher =
            scenario.dispatcher("dispatcher-1").env("SWITCHYARD_AMQP_URL", url(&roles[0])).start().await?;
        let agent = scenario.agent("agent-1").env("SWITCHYARD_AMQP_URL", url(&roles[2])).start().await?;
        let upstream = Upstream::open(scenario.namespace.clone(), accounts.session(&roles[1]).await?).await?;
        let attacker = Attacker::new(&scenario.namespace, accounts.session(&roles[3]).await?).await?;
        Ok(Self { upstream, attacker, _agent: agent, dispatcher, accounts, scenario })
    }

    /// A task of the honest agent that runs until it is stopped; gives what would prove its outcome.
    async fn victim(&mut self) -> anyhow::Result<Claim> {
        self.upstream.submit("t-1", "shop", "once", json!({ "do": "hang", "log_lines": 2 })).await?;
        let running = "to run, with its log";
        let scenario = &self.scenario;
        scenario.until_task("t-1", running, HEARD_WITHIN, |task| task.status == Status::Running).await?;
        until("the log of t-1", HEARD_WITHIN, async || {
            Ok(Look::holds(scenario.logs("t-1").await?.len() == 2, || "not yet".to_owned()))
        })
        .await?;
        let sql = "SELECT session, lease_token FROM attempts WHERE task_id = 't-1' AND attempt = 1";
        let row = self.scenario.database.db.connection().await?.query_one(sql, &[]).await?;
        Ok(Claim {
            task_id: "t-1".parse()?,
            attempt: 1,
            session: SessionId(row.get("session")),
            lease: LeaseToken(row.get("lease_token")),
        })
    }

    /// Everything that could have changed for the pool `default`, as text.
    async fn state(&self) -> anyhow::Result<Vec<String>> {
        let parts = [
            "SELECT jsonb_build_array(task_id, status, step, attempts, charge, losses, agent_id, session, lease_token, version, \
                cancel_requested_at)::text FROM tasks WHERE pool_id = 'default' ORDER BY task_id",
            "SELECT jsonb_build_array(task_id, attempt, agent_id, session, lease_token, started_at, nonce, revoke_requested_at, \
                outcome, ended_at, result)::text FROM attempts WHERE pool_id = 'default' ORDER BY task_id, attempt",
            "SELECT jsonb_build_array(l.task_id, l.line)::text FROM logs l JOIN tasks t USING (task_id) WHERE t.pool_id = 'default' \
                ORDER BY l.task_id, l.attempt, l.sequence",
            "SELECT jsonb_build_array(a.task_id, a.name)::text FROM artifact_parts a JOIN tasks t USING (task_id) \
                WHERE t.pool_id = 'default' ORDER BY 1",
            "SELECT jsonb_build_array(agent_id, session, slots, live, draining)::text FROM agents WHERE pool_id = 'default' ORDER BY 1",
            "SELECT jsonb_build_array(workspace_id, pool_id)::text FROM workspaces WHERE pool_id = 'default' ORDER BY 1",
            "SELECT jsonb_build_array(letter_key, task_id)::text FROM dead_letters WHERE task_id = 't-1' OR pool_id = 'default' ORDER BY 1",
        ];
        let connection = self.scenario.database.db.connection().await?;
        let mut state = Vec::new();
        for sql in parts {
            state.extend(connection.query(sql, &[]).await?.iter().map(|row| row.get::<_, String>(0)));
        }
        Ok(state)
    }

    /// Waits until every report was taken off its queue and settled.
    async fn until_heard(&self) -> anyhow::Result<()> {
        let session = self.scenario.session("look").await?;
        let namespace = &self.scenario.namespace;
        let queues = [
            namespace.outcomes_queue(),
            namespace.starts_queue(),
            namespace.logs_queue(),
            namespace.dead_letters_queue(),
        ];
        until("the attacker's reports to be heard", HEARD_WITHIN, async || {
            for queue in &queues {
                let waiting = queue_counts(&session, queue).await?.map_or(0, |counts| counts.messages);
                if waiting > 0 {
                    return Ok(Look::NotYet(format!("{waiting} in {queue}")));
                }
            }
            Ok(Look::There(()))
        })
        .await?;
        // What was handed out but not settled is behind one more report, which is refused and counted as a letter of its own.
        let mark = format!("mark-{}", Uuid::new_v4().simple());
        for kind in [ReportKind::Outcome, ReportKind::Ask, ReportKind::Log] {
            let body = json!({ "mark": mark }).to_string().into_bytes();
            assert!(self.attacker.says(kind, &body).await);
        }
        let sql = format!(
            "SELECT count(*) FROM dead_letters WHERE payload LIKE '%{mark}%' AND failed_at IS NOT NULL"
        );
        until("the marks behind them", HEARD_WITHIN, async || {
            let found = self.scenario.count(&sql).await?;
            // The three bodies are the same bytes, and letters of unknown messages are known by their bytes and properties.
            Ok(Look::holds(found >= 1, || format!("{found} letters")))
        })
        .await
    }

    async fn finish(mut self, before: Vec<String>) -> anyhow::Result<()> {
        assert_eq!(self.state().await?, before, "something of another pool has changed");
        assert_eq!(self.dispatcher.ended()?, None, "the dispatcher has ended");
        self.upstream.submit("t-2", "shop-2", "once", json!({ "do": "succeed" })).await?;
        self.scenario.until_status("t-2", Status::Succeeded).await?;
        self.upstream.cancel("t-1", "ada").await?;
        self.scenario.until_status("t-1", Status::Cancelled).await?;
        delete_queue(&self.attacker.session, &self.attacker.queue()).await?;
        let audit = self
            .scenario
            .dispatcher("audit")
            .env("SWITCHYARD_AMQP_URL", self.accounts.url(&Role::Dispatcher))
            .run(&["audit"])?;
        assert!(audit.status.success(), "{}", String::from_utf8_lossy(&audit.stdout));
        Ok(())
    }
}

/// Somebody with the credentials of the pool `red`.
struct Attacker {
    namespace: Namespace,
    session: Session,
    channel: lapin::Channel,
    own: SessionId,
}

impl Attacker {
    async fn new(namespace: &Namespace, session: Session) -> anyhow::Result<Self> {
        let channel = session.channel().await?;
        session.request(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        declare(&session, &namespace.agent_queue_topology(&pool("red"), &AgentId::new("evil")?)).await?;
        Ok(Self { namespace: namespace.clone(), session, channel, own: SessionId(Uuid::new_v4()) })
    }

    fn queue(&self) -> String {
        self.namespace.agent_queue(&pool("red"), &AgentId::new("evil").unwrap())
    }

    /// Publishes any bytes as a report of its own agent; true when the broker took it.
    async fn says(&self, kind: ReportKind, body: &[u8]) -> bool {
        let exchange = self.namespace.reports_exchange();
        let key = format!("{}.red.evil", kind.as_str());
        let publishing = self.channel.basic_publish(
            exchange.as_str().into(),
            key.as_str().into(),
            BasicPublishOptions::default(),
            body,
            BasicProperties::default(),
        );
        let confirm = self.session.request(publishing).await.unwrap();
        self.session.request(confirm).await.is_ok_and(|answer| answer.is_ack())
    }

    async fn reports(&self, body: ReportBody) {
        let kind = body.kind();
        let body = serde_json::to_vec(&Report { epoch: 1, body }).unwrap();
        assert!(self.says(kind, &body).await, "{kind:?}");
    }

    fn presence(&self, session: SessionId, sequence: u64, in_hand: Vec<InHand>) -> Presence {
        Presence {
            session,
            sequence,
            pod: "evil-pod".into(),
            node: None,
            version: "0".into(),
            slots: 1,
            credit: 0,
            max_exclusive: 1,
            handlers: BTreeSet::from([HandlerName::new("test").unwrap()]),
            draining: false,
            in_hand,
        }
    }

    /// Everything that an agent can say about an attempt.
    async fn claims(&self, claim: &Claim) {
        self.reports(ReportBody::Started(StartedBatch { claims: vec![claim.clone()] })).await;
        self.reports(ReportBody::Ask(Ask { claim: claim.clone(), nonce: Nonce(Uuid::new_v4()) })).await;
        self.reports(ReportBody::Log(lines(claim, 1_000, 1, "forged"))).await;
        for end in [
            OutcomeEnd::Succeeded {
                changes: false,
                artifacts: Manifest::default(),
                result: Some(json!("forged")),
            },
            OutcomeEnd::Failed { failure: Failure::new(FailureKind::HandlerFailed, "forged") },
        ] {
            self.reports(outcome(claim, end)).await;
        }
    }

    /// Waits for an assignment of its own.
    async fn takes_work(&self) -> anyhow::Result<Assignment> {
        let queue = self.queue();
        until("work for the attacker", HEARD_WITHIN, async || {
            let getting = self.channel.basic_get(queue.as_str().into(), BasicGetOptions { no_ack: true });
            let Some(got) = self.session.request(getting).await? else {
                self.reports(ReportBody::Heartbeat(self.presence(
                    self.own,
                    u64::from(Utc::now().timestamp_subsec_nanos()) + 2,
                    vec![],
                )))
                .await;
                return Ok(Look::NotYet("the queue is empty".to_owned()));
            };
            match serde_json::from_slice(&got.delivery.data)? {
                AgentMessage::Assignment(work) => Ok(Look::There(*work)),
                AgentMessage::InputPart(_) => Ok(Look::NotYet("a part".to_owned())),
            }
        })
        .await
    }
}

fn outcome(claim: &Claim, end: OutcomeEnd) -> ReportBody {
    let outcome = Outcome { claim: claim.clone(), started_at: None, ended_at: Utc::now(), log_lines: 0, end };
    ReportBody::Outcome(OutcomeBatch { outcomes: vec![outcome] })
}

fn lines(claim: &Claim, from: u64, count: u64, text: &str) -> LogLines {
    let line =
        |sequence| LogLine { sequence, at: Utc::now(), stream: LogStream::Stdout, text: text.to_owned() };
    LogLines { claim: claim.clone(), lines: (from..from + count).map(line).collect() }
}

#[tokio::test]
async fn an_attempt_of_another_pool_cannot_be_touched_even_with_its_lease_token() -> anyhow::Result<()> {
    let mut stage = Stage::new("hostile_forged").await?;
    let claim = stage.victim().await?;
    let before = stage.state().await?;
    // With the true token but from another pool; with a guessed token; for an attempt that never was.
    let guessed = Claim { lease: LeaseToken(Uuid::new_v4()), ..claim.clone() };
    let never = Claim { attempt: 9, ..claim.clone() };
    let own_session = Claim { session: stage.attacker.own, ..claim.clone() };
    for claim in [&claim, &guessed, &never, &own_session] {
        stage.attacker.claims(claim).await;
    }
    // It says that it is the other's session, and that it has the attempt in hand.
    let key = AttemptKey { task_id: claim.task_id.clone(), attempt: 1 };
    let in_hand = vec![InHand { key, session: claim.session, running: true }];
    stage
        .attacker
        .reports(ReportBody::Hello(stage.attacker.presence(claim.session, 1_000_000, vec![])))
        .await;
    stage
        .attacker
        .reports(ReportBody::Hello(stage.attacker.presence(stage.attacker.own, 1, in_hand.clone())))
        .await;
    stage
        .attacker
        .reports(ReportBody::Heartbeat(stage.attacker.presence(stage.attacker.own, 2, in_hand)))
        .await;
    stage.until_heard().await?;
    stage.finish(before).await
}

#[tokio::test]
async fn whatever_bytes_an_agent_sends_the_dispatcher_reads_on() -> anyhow::Result<()> {
    let mut stage = Stage::new("hostile_bytes").await?;
    stage.victim().await?;
    let before = stage.state().await?;
    let bodies: Vec<Vec<u8>> = vec![
        Vec::new(),
        vec![0xff, 0xfe, 0x00, 0xc3, 0x28],
        b"\0".repeat(1_000),
        vec![b'['; 200_000],
        [b"{\"a\":".repeat(100_000), b"1".to_vec()].concat(),
        b"{\"epoch\":1e999,\"body\":null}".to_vec(),
        b"{\"epoch\":1,\"body\":{\"type\":\"outcome\",\"outcomes\":[{\"claim\":{\"task_id\":\"t\\u0000-1\"}}]}}".to_vec(),
        vec![b'a'; 2_000_000],
        "\u{202e}\u{1b}[2J'; DROP TABLE tasks; --".as_bytes().to_vec(),
    ];
    for kind in ReportKind::ALL {
        for body in &bodies {
            assert!(stage.attacker.says(kind, body).await, "{kind:?}");
        }
    }
    stage.until_heard().await?;
    stage.finish(before).await
}

#[tokio::test]
async fn a_flood_of_log_lines_delays_no_other_pool() -> anyhow::Result<()> {
    let mut stage = Stage::new("hostile_flood").await?;
    let claim = stage.victim().await?;
    let before = stage.state().await?;
    let text = "x".repeat(200);
    for report in 0..FLOOD_REPORTS as u64 {
        stage
            .attacker
            .reports(ReportBody::Log(lines(&claim, 1 + report * FLOOD_LINES, FLOOD_LINES, &text)))
            .await;
    }
    // While the flood is being read.
    let data = json!({ "task_id": "t-3", "workspace_id": "shop-3", "kind": "once", "pool": "default", "payload": {} });
    stage.upstream.accepted(EventType::TaskSubmitted, data).await?;
    stage.scenario.until_status("t-3", Status::Succeeded).await?;
    stage.until_heard().await?;
    let now = stage.state().await?;
    let added: Vec<&String> = now.iter().filter(|line| !before.contains(line)).collect();
    assert!(added.iter().all(|line| line.contains("t-3") || line.contains("shop-3")), "{added:?}");
    stage.finish(now.clone()).await
}

#[tokio::test]
async fn hostile_output_of_an_own_attempt_ends_that_attempt_alone() -> anyhow::Result<()> {
    let mut stage = Stage::new("hostile_output").await?;
    stage.victim().await?;
    let before = stage.state().await?;
    let presence = stage.attacker.presence(stage.attacker.own, 1, vec![]);
    stage.attacker.reports(ReportBody::Hello(presence)).await;
    let data = json!({ "task_id": "t-red", "workspace_id": "red-shop", "kind": "once", "pool": "red", "payload": {} });
    stage.upstream.accepted(EventType::TaskSubmitted, data).await?;
    let work = stage.attacker.takes_work().await?;
    let claim = Claim {
        task_id: work.task_id.clone(),
        attempt: work.attempt,
        session: work.session,
        lease: work.lease,
    };
    let nasty = "\0\u{1b}[31m\u{202e}'; DROP TABLE tasks; --".repeat(20_000);
    let mut failure = Failure::new(FailureKind::HandlerPanicked, nasty.clone());
    failure.log_tail = vec![nasty.clone(); 20];
    failure.backtrace = Some(nasty.clone());
    stage.attacker.reports(ReportBody::Log(lines(&claim, 1, 50, &nasty[..2_000]))).await;
    let deep = (0..60).fold(Value::Null, |inner, _| json!({ "\0": [inner] }));
    let wrong = OutcomeEnd::Succeeded { changes: true, artifacts: Manifest::default(), result: Some(deep) };
    let forged = Claim { lease: LeaseToken(Uuid::new_v4()), ..claim.clone() };
    stage.attacker.reports(outcome(&forged, wrong)).await;
    // Too large for the broker's own limit would close the channel; this is just below.
    failure.log_tail.truncate(1);
    failure.backtrace = None;
    stage.attacker.reports(outcome(&claim, OutcomeEnd::Panicked { failure })).await;
    let task = stage.scenario.until_status("t-red", Status::Failed).await?;
    assert!(task.failure_message.is_some_and(|message| !message.contains('\0') && message.len() < 100_000));
    stage.until_heard().await?;
    stage.finish(before).await
}

#[tokio::test]
async fn an_agent_cannot_speak_for_upstream_or_claim_a_workspace() -> anyhow::Result<()> {
    let mut stage = Stage::new("hostile_upstream").await?;
    stage.victim().await?;
    let before = stage.state().await?;
    let session = stage.accounts.session(&Role::Pool(pool("red"))).await?;
    for (event_type, data) in [
        (EventType::WorkspaceRegistered, json!({ "workspace_id": "shop", "pool": "red" })),
        (EventType::TaskCancelRequested, json!({ "task_id": "t-1", "requested_by": "evil" })),
    ] {
        let as_agent = Upstream::open(stage.scenario.namespace.clone(), session.clone())
            .await?
            .ask(event_type, data.clone())
            .await;
        assert!(as_agent.is_err(), "an event of an agent was taken");
        // Upstream itself cannot move a workspace away from a task that runs in it.
        if event_type == EventType::WorkspaceRegistered {
            stage.upstream.rejected(event_type, data).await?;
        }
    }
    stage.finish(before).await
}
