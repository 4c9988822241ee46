//! A dispatcher replica without a broker, on a database of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::Utc;
use switchyard_common::contract::artifact::{Manifest, split};
use switchyard_common::contract::control::Order;
use switchyard_common::contract::ids::{AgentRef, HandlerName, Nonce, SessionId, TaskId};
use switchyard_common::contract::limits::ARTIFACTS_TOTAL_MAX_BYTES;
use switchyard_common::contract::report::{
    Ask, Claim, InHand, LeftPart, Outcome, OutcomeBatch, OutcomeEnd, Presence, Report, ReportBody,
    StartedBatch,
};
use switchyard_common::failure::{Failure, FailureKind};
use switchyard_common::task::Input;
use switchyard_dispatcher::control::{Orders, Told};
use switchyard_dispatcher::pass::Wake;
use switchyard_dispatcher::presence::beat::{Beat, newest, read_beat};
use switchyard_dispatcher::presence::heard::{self, Rules};
use switchyard_dispatcher::presence::sessions::Verdict;
use switchyard_dispatcher::settle::outcomes::Outcomes;
use switchyard_dispatcher::settle::read::read;
use switchyard_dispatcher::settle::starts::Starts;
use switchyard_dispatcher::settle::{Fate, Heard, Settler};
use switchyard_dispatcher::store::{Db, StoreError};
use switchyard_dispatcher::sweep::Sweeper;
use switchyard_tests::harness::database::TestDatabase;
use switchyard_tests::harness::seed::{AgentSeed, Seed, TaskSeed};
use tokio::sync::mpsc;
use uuid::Uuid;

pub(crate) const LOST_AFTER: Duration = Duration::from_secs(20);
pub(crate) const GRACE: Duration = Duration::from_secs(30);

/// The world of one test.
pub(crate) struct World {
    pub(crate) database: TestDatabase,
    orders: Orders,
    told: mpsc::Receiver<Told>,
}

impl World {
    /// A pool `default` with a workspace `w`.
    pub(crate) async fn new() -> Self {
        let database = TestDatabase::new().await;
        let (orders, told) = Orders::channel(1_000);
        let world = Self { database, orders, told };
        world.seed().workspace("w", "default").await;
        world
    }

    pub(crate) fn seed(&self) -> Seed<'_> {
        Seed::new(&self.database.db)
    }

    pub(crate) fn outcomes(&self, db: &Db) -> Outcomes {
        Outcomes {
            db: db.clone(),
            wake: Wake::default(),
            orders: self.orders.clone(),
            artifacts_total_max_bytes: ARTIFACTS_TOTAL_MAX_BYTES as u64,
            settled: Default::default(),
        }
    }

    pub(crate) fn starts(&self, db: &Db) -> Starts {
        Starts { db: db.clone(), orders: self.orders.clone() }
    }

    pub(crate) fn sweeper(&self, db: &Db) -> Sweeper {
        Sweeper {
            db: db.clone(),
            wake: Wake::default(),
            orders: self.orders.clone(),
            run_timeout_grace: GRACE,
        }
    }

    /// Orders since the last call.
    pub(crate) fn told(&mut self) -> Vec<Order> {
        std::iter::from_fn(|| self.told.try_recv().ok()).map(|told| told.control.order).collect()
    }

    pub(crate) async fn try_settle(&self, reports: &[Heard]) -> Result<Vec<Fate>, StoreError> {
        let batch: Vec<&Heard> = reports.iter().collect();
        self.outcomes(&self.database.db).settle(&batch).await
    }

    /// Settles one report to its end.
    pub(crate) async fn settle(&self, report: Heard) {
        let fates = self.try_settle(&[report]).await.expect("it settles");
        assert!(matches!(&fates[..], [Fate::Done | Fate::Refuse(_)]), "{fates:?}");
    }

    pub(crate) async fn report(&self, agent: &AgentSeed, claim: &Claim, end: OutcomeEnd) {
        self.settle(outcome(agent, claim, end)).await;
    }

    pub(crate) async fn started(&self, agent: &AgentSeed, claim: &Claim) {
        let report = heard(&agent.agent, ReportBody::Started(StartedBatch { claims: vec![claim.clone()] }));
        self.starts(&self.database.db).settle(&[&report]).await.expect("it settles");
    }

    pub(crate) async fn ask(&self, agent: &AgentSeed, claim: &Claim, nonce: Nonce) {
        let report = heard(&agent.agent, ReportBody::Ask(Ask { claim: claim.clone(), nonce }));
        self.starts(&self.database.db).settle(&[&report]).await.expect("it settles");
    }

    pub(crate) async fn send_parts(
        &self,
        agent: &AgentSeed,
        claim: &Claim,
        files: &BTreeMap<String, Vec<u8>>,
    ) {
        for report in parts(agent, claim, files) {
            self.settle(report).await;
        }
    }

    /// A heartbeat that is heard, with whatever the agent has in hand.
    pub(crate) async fn beat(&self, db: &Db, beats: &[Beat]) -> Vec<Verdict> {
        let rules = Rules { allow_new_pools: true, lost_after: LOST_AFTER, silence_counts: true };
        heard::store(db, &newest(beats.to_vec()), rules).await.expect("it is stored").0
    }

    /// A task that an agent has in hand.
    pub(crate) async fn assigned(&self, id: &str, kind: &str, agent: &AgentSeed) -> (TaskId, Claim) {
        let task = self.seed().task(&TaskSeed::new(id, "w", kind)).await;
        let claim = self.seed().assign(&task, agent).await;
        (task, claim)
    }

    /// An approved apply that an agent was allowed to start.
    pub(crate) async fn applying(&self, id: &str, agent: &AgentSeed) -> (TaskId, Claim) {
        let task = self.awaiting_approval(id, agent).await;
        self.seed().must(&task, Input::Approve { by: "ann".into(), digest: None }).await;
        let claim = self.seed().assign(&task, agent).await;
        self.ask(agent, &claim, Nonce(Uuid::from_u128(7))).await;
        assert_eq!(self.seed().status(&task).await, "running");
        (task, claim)
    }

    /// A planned task that waits for approval.
    pub(crate) async fn awaiting_approval(&self, id: &str, agent: &AgentSeed) -> TaskId {
        let (task, claim) = self.assigned(id, "plan_and_apply", agent).await;
        let files = BTreeMap::from([("plan".to_owned(), b"change it".to_vec())]);
        self.send_parts(agent, &claim, &files).await;
        self.report(agent, &claim, succeeded(&files)).await;
        assert_eq!(self.seed().status(&task).await, "awaiting_approval");
        task
    }

    /// Whether nobody has the task in hand.
    pub(crate) async fn is_free(&self, task: &TaskId) -> bool {
        let sql = "SELECT agent_id IS NULL AND session IS NULL AND lease_token IS NULL AND pod_name IS NULL FROM tasks \
            WHERE task_id = $1";
        self.seed().value(sql, &[&task.as_str()]).await
    }

    /// One value.
    pub(crate) async fn value<T: for<'r> tokio_postgres::types::FromSql<'r>>(&self, sql: &str) -> T {
        self.seed().value(sql, &[]).await
    }

    /// A count of rows.
    pub(crate) async fn count(&self, from: &str) -> i64 {
        self.value(&format!("SELECT count(*) FROM {from}")).await
    }
}

/// A report as it is read from its bytes.
pub(crate) fn heard(sender: &AgentRef, body: ReportBody) -> Heard {
    let kind = body.kind();
    let bytes = serde_json::to_vec(&Report { epoch: 1, body }).expect("a report is JSON");
    read(&kind.key(sender), &bytes, &[kind]).expect("a report that can be read")
}

pub(crate) fn outcome(agent: &AgentSeed, claim: &Claim, end: OutcomeEnd) -> Heard {
    let outcome = Outcome {
        claim: claim.clone(),
        started_at: Some(Utc::now()),
        ended_at: Utc::now(),
        log_lines: 3,
        end,
    };
    heard(&agent.agent, ReportBody::Outcome(OutcomeBatch { outcomes: vec![outcome] }))
}

pub(crate) fn parts(agent: &AgentSeed, claim: &Claim, files: &BTreeMap<String, Vec<u8>>) -> Vec<Heard> {
    split(files)
        .map(|part| heard(&agent.agent, ReportBody::Artifact(LeftPart { claim: claim.clone(), part })))
        .collect()
}

pub(crate) fn succeeded(files: &BTreeMap<String, Vec<u8>>) -> OutcomeEnd {
    let artifacts = Manifest::of(files).expect("files within the limits");
    OutcomeEnd::Succeeded { changes: true, artifacts, result: None }
}

pub(crate) fn done() -> OutcomeEnd {
    succeeded(&BTreeMap::new())
}

pub(crate) fn failed() -> OutcomeEnd {
    OutcomeEnd::Failed { failure: Failure::new(FailureKind::HandlerFailed, "no luck") }
}

/// A heartbeat of `agent`, as read from its bytes.
pub(crate) fn heartbeat(agent: &AgentRef, session: SessionId, sequence: u64, in_hand: Vec<InHand>) -> Beat {
    let presence = Presence {
        session,
        sequence,
        pod: format!("{}-pod", agent.agent),
        node: Some("node-1".into()),
        version: "test".into(),
        slots: 4,
        credit: 4,
        max_exclusive: 4,
        handlers: BTreeSet::from(
            ["plan", "apply"].map(|name| HandlerName::new(name).expect("a handler name")),
        ),
        draining: false,
        in_hand,
    };
    let body = ReportBody::Heartbeat(presence);
    let bytes = serde_json::to_vec(&Report { epoch: 1, body }).expect("a report is JSON");
    read_beat(&format!("heartbeat.{}", agent.key()), &bytes).expect("a heartbeat that can be read")
}

pub(crate) fn in_hand(claim: &Claim, running: bool) -> InHand {
    InHand { key: claim.key(), session: claim.session, running }
}
