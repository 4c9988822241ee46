//! Routing on a real broker and a real database: who may publish an assignment, and when a copy may be sent (protocol B1, B2).
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "all of this is tests; clippy exempts only the test functions themselves"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use switchyard_common::broker::{
    BrokerConfig, ConnectionState, Publisher, Session, declare, delete_queue, queue_counts,
};
use switchyard_common::config::Secret;
use switchyard_common::contract::artifact::Manifest;
use switchyard_common::contract::assignment::AttemptKey;
use switchyard_common::contract::limits::ARTIFACTS_TOTAL_MAX_BYTES;
use switchyard_common::contract::report::OutcomeEnd;
use switchyard_common::guard::{GuardedTask, spawn_guarded};
use switchyard_common::shutdown::Shutdown;
use switchyard_common::task::{Input, Reporter};
use switchyard_dispatcher::pass::Wake;
use switchyard_dispatcher::presence::replicas::beat_once;
use switchyard_dispatcher::route::budget::InputsBudget;
use switchyard_dispatcher::route::decide::SEND_WITHIN;
use switchyard_dispatcher::route::run::Router;
use switchyard_dispatcher::store::Db;
use switchyard_dispatcher::store::route::{Committed, Fresh, Publish, claim_resends, contents};
use switchyard_tests::harness::cut::Cut;
use switchyard_tests::harness::scenario::Scenario;
use switchyard_tests::harness::scenario::world::AMQP_URL_VARIABLE;
use switchyard_tests::harness::seed::{AgentSeed, Seed, TaskSeed};
use switchyard_tests::harness::wait::{Look, until};
use tokio::sync::mpsc;
use tokio::time::Instant;

const WAIT: Duration = Duration::from_secs(60);

/// An agent with a queue that nobody consumes, and tasks that are assigned to it.
struct Stage {
    scenario: Scenario,
    session: Session,
    agent: AgentSeed,
}

impl Stage {
    async fn new(name: &str) -> Self {
        let scenario = Scenario::new(name).await.unwrap();
        let session = scenario.session("stage").await.unwrap();
        let seed = Seed::new(&scenario.database.db);
        seed.workspace("w", "default").await;
        let agent = seed.agent("default", "worker-0").await;
        let (pool, id) = (&agent.agent.pool, &agent.agent.agent);
        let topology =
            scenario.namespace.dispatcher_topology().and(scenario.namespace.agent_queue_topology(pool, id));
        declare(&session, &topology).await.unwrap();
        beat_once(&scenario.database.db).await.unwrap();
        Self { scenario, session, agent }
    }

    fn seed(&self) -> Seed<'_> {
        Seed::new(&self.scenario.database.db)
    }

    async fn assigned(&self, task: &str) -> AttemptKey {
        let task = self.seed().task(&TaskSeed::new(task, "w", "plan")).await;
        let claim = self.seed().assign(&task, &self.agent).await;
        claim.key()
    }

    fn queue(&self) -> String {
        self.scenario.namespace.agent_queue(&self.agent.agent.pool, &self.agent.agent.agent)
    }

    async fn waiting(&self) -> u32 {
        queue_counts(&self.session, &self.queue()).await.unwrap().expect("the agent's queue").messages
    }

    async fn sent(&self, count: u32) {
        until(format!("{count} assignments are sent"), WAIT, async || {
            let waiting = self.waiting().await;
            Ok(Look::holds(waiting == count, || format!("{waiting} messages")))
        })
        .await
        .unwrap();
    }

    async fn publish_no(&self, key: &AttemptKey) -> i32 {
        let sql = "SELECT publish_no FROM attempts WHERE task_id = $1";
        self.seed().value(sql, &[&key.task_id.as_str()]).await
    }

    async fn end(self) {
        delete_queue(&self.session, &self.queue()).await.unwrap();
        self.session.close().await;
    }
}

/// A replica that does nothing but route.
struct Routing {
    handed_over: mpsc::Sender<Vec<Committed>>,
    publisher: Publisher,
    task: GuardedTask<()>,
}

impl Routing {
    async fn start(stage: &Stage, db: &Db, config: &BrokerConfig) -> Self {
        let publisher = Publisher::start(config, "publish").unwrap();
        publisher.state().wait_for(ConnectionState::is_up).await.unwrap();
        let router = Router {
            db: db.clone(),
            namespace: stage.scenario.namespace.clone(),
            publisher: publisher.clone(),
            wake: Wake::default(),
            inputs: InputsBudget::default(),
        };
        let (handed_over, received) = mpsc::channel(8);
        let task = spawn_guarded("route", router.run(received, Shutdown::new(WAIT)));
        Self { handed_over, publisher, task }
    }

    /// Ends when everything that was handed over is settled with the broker.
    async fn end(self) {
        drop(self.handed_over);
        tokio::time::timeout(WAIT, self.task).await.expect("routing ends");
    }
}

fn broker(url: &str) -> BrokerConfig {
    BrokerConfig::new(Secret::new(url), "route-tests")
}

fn broker_url() -> String {
    std::env::var(AMQP_URL_VARIABLE).expect("the broker is named")
}

#[tokio::test]
async fn a_replica_that_was_taken_over_sends_nothing() {
    let stage = Stage::new("route_taken_over").await;
    let (mine, other) = (stage.scenario.database.db.clone(), stage.scenario.database.another_replica());
    let (taken, kept) = (stage.assigned("taken").await, stage.assigned("kept").await);
    let claimed = claim_resends(&other, &[Publish::first(taken.clone())]).await.unwrap();
    assert_eq!(claimed, [Publish { key: taken.clone(), publish_no: 2 }]);
    let routing = Routing::start(&stage, &mine, &broker(&broker_url())).await;
    routing.handed_over.send(vec![taken.clone().into(), kept.into()]).await.unwrap();
    stage.sent(1).await;
    routing.end().await;
    assert_eq!(stage.waiting().await, 1, "only what is still its own");
    let second = Publish { key: taken, publish_no: 2 };
    assert_eq!(contents(&mine, std::slice::from_ref(&second)).await.unwrap(), []);
    assert_eq!(contents(&other, std::slice::from_ref(&second)).await.unwrap().len(), 1);
    stage.end().await;
}

/// An assignment as a pass would have handed it over so long ago.
async fn handed_over(stage: &Stage, key: &AttemptKey, ago: Duration) -> Committed {
    let read = contents(&stage.scenario.database.db, &[Publish::first(key.clone())]).await.unwrap().remove(0);
    let since = Instant::now().checked_sub(ago).expect("this machine runs for longer");
    Committed { key: key.clone(), fresh: Some(Box::new(Fresh { assignment: read.assignment, since })) }
}

#[tokio::test]
async fn what_was_handed_over_with_its_message_is_sent_without_asking_the_database() {
    let stage = Stage::new("route_fresh").await;
    let db = stage.scenario.database.db.clone();
    let key = stage.assigned("t").await;
    let committed = handed_over(&stage, &key, Duration::ZERO).await;
    let routing = Routing::start(&stage, &db, &broker(&broker_url())).await;
    // Who reads it now finds no step, and leaves it out.
    stage.seed().execute("UPDATE tasks SET steps = '[]'", &[]).await;
    routing.handed_over.send(vec![committed]).await.unwrap();
    stage.sent(1).await;
    routing.end().await;
    assert_eq!(stage.publish_no(&key).await, 1);
    stage.end().await;
}

#[tokio::test]
async fn what_was_handed_over_too_long_ago_is_claimed_anew_before_it_is_sent() {
    let stage = Stage::new("route_fresh_late").await;
    let (db, other) = (stage.scenario.database.db.clone(), stage.scenario.database.another_replica());
    let (taken, kept) = (stage.assigned("taken").await, stage.assigned("kept").await);
    let committed =
        vec![handed_over(&stage, &taken, SEND_WITHIN).await, handed_over(&stage, &kept, SEND_WITHIN).await];
    claim_resends(&other, &[Publish::first(taken.clone())]).await.unwrap();
    let routing = Routing::start(&stage, &db, &broker(&broker_url())).await;
    routing.handed_over.send(committed).await.unwrap();
    stage.sent(1).await;
    routing.end().await;
    assert_eq!(stage.waiting().await, 1, "only what is still its own");
    assert_eq!((stage.publish_no(&taken).await, stage.publish_no(&kept).await), (2, 2));
    stage.end().await;
}

#[tokio::test]
async fn a_publish_that_waited_too_long_is_claimed_anew_before_it_is_sent() {
    let stage = Stage::new("route_too_late").await;
    let db = stage.scenario.database.db.clone();
    let key = stage.assigned("t").await;
    stage.seed().execute("UPDATE attempts SET published_at = now() - interval '1 min'", &[]).await;
    let routing = Routing::start(&stage, &db, &broker(&broker_url())).await;
    routing.handed_over.send(vec![key.clone().into()]).await.unwrap();
    stage.sent(1).await;
    routing.end().await;
    assert!(stage.publish_no(&key).await > 1, "the number grows before anything is sent");
    stage.end().await;
}

/// An apply that is assigned, with a plan of `plan_bytes` according to its manifest; what is stored of it is short.
async fn assigned_apply(stage: &Stage, id: &str, plan_bytes: u64) -> AttemptKey {
    let seed = stage.seed();
    seed.workspace(id, "default").await;
    let task = seed.task(&TaskSeed::new(id, id, "plan_and_apply")).await;
    let claim = seed.assign(&task, &stage.agent).await;
    let mut manifest = Manifest::of(&BTreeMap::from([("plan".to_owned(), b"change it".to_vec())])).unwrap();
    manifest.0[0].size = plan_bytes;
    let reporter = Reporter { agent: stage.agent.agent.clone(), granted: true, epoch_is_current: true };
    let end = OutcomeEnd::Succeeded { changes: true, artifacts: manifest.clone(), result: None };
    seed.must(&task, Input::Outcome { reporter, claim, end }).await;
    let (json, digest) = (serde_json::to_value(&manifest).unwrap(), manifest.digest().to_string());
    let keep = "INSERT INTO artifacts (task_id, attempt, manifest, digest, total_bytes, created_at) VALUES ($1, 1, $2, $3, $4, now())";
    let total = i64::try_from(plan_bytes).unwrap();
    seed.execute(keep, &[&id, &json, &digest, &total]).await;
    seed.execute("INSERT INTO artifact_parts VALUES ($1, 1, 'plan', 0, 'change it'::bytea)", &[&id]).await;
    seed.must(&task, Input::Approve { by: "ann".into(), digest: None }).await;
    seed.assign(&task, &stage.agent).await.key()
}

/// Reading the parts of any artifact takes longer than an assignment may wait to be written.
const SLOW_PARTS: &str = "ALTER TABLE artifact_parts RENAME TO parts; \
    CREATE VIEW artifact_parts AS SELECT p.* FROM parts p, LATERAL (SELECT pg_sleep(1.2 + 0 * p.part)) slow";

#[tokio::test]
async fn inputs_that_take_longer_to_read_than_an_assignment_may_wait_are_sent() {
    let stage = Stage::new("route_slow_inputs").await;
    let db = stage.scenario.database.db.clone();
    let key = assigned_apply(&stage, "t", 9).await;
    db.connection().await.unwrap().batch_execute(SLOW_PARTS).await.unwrap();
    let routing = Routing::start(&stage, &db, &broker(&broker_url())).await;
    routing.handed_over.send(vec![key.clone().into()]).await.unwrap();
    stage.sent(2).await;
    routing.end().await;
    stage.end().await;
}

/// The parts of `second` cannot be read for as long as somebody holds the advisory lock 1.
const HELD_PARTS: &str = "ALTER TABLE artifact_parts RENAME TO parts; \
    CREATE VIEW artifact_parts AS SELECT p.* FROM parts p, LATERAL ( \
        SELECT CASE WHEN p.task_id = 'second' THEN pg_advisory_xact_lock_shared(1) END) held";

#[tokio::test]
async fn large_inputs_of_one_batch_are_read_and_sent_one_after_the_other() {
    let stage = Stage::new("route_large_inputs").await;
    let db = stage.scenario.database.db.clone();
    let more_than_half = ARTIFACTS_TOTAL_MAX_BYTES as u64 / 2 + 1;
    let first = assigned_apply(&stage, "first", more_than_half).await;
    let second = assigned_apply(&stage, "second", more_than_half).await;
    let holder = db.connection().await.unwrap();
    holder.batch_execute(HELD_PARTS).await.unwrap();
    holder.batch_execute("SELECT pg_advisory_lock(1)").await.unwrap();
    // Neither is too old for this batch, however slow the machine is.
    stage.seed().execute("UPDATE attempts SET published_at = now() + interval '1 h'", &[]).await;
    let routing = Routing::start(&stage, &db, &broker(&broker_url())).await;
    routing.handed_over.send(vec![first.into(), second.into()]).await.unwrap();
    stage.sent(2).await;
    holder.batch_execute("SELECT pg_advisory_unlock(1)").await.unwrap();
    stage.sent(4).await;
    routing.end().await;
    stage.end().await;
}

#[tokio::test]
async fn no_copy_is_sent_while_the_connection_of_an_unconfirmed_publish_lives() {
    let stage = Stage::new("route_unconfirmed").await;
    let db = stage.scenario.database.db.clone();
    let key = stage.assigned("t").await;
    let cut = Cut::new(&broker_url()).await.unwrap();
    let config = BrokerConfig {
        publish_timeout: Duration::from_millis(200),
        confirm_timeout: Duration::from_secs(3),
        ..broker(&cut.url)
    };
    let routing = Routing::start(&stage, &db, &config).await;
    cut.hold_answers(true);
    routing.handed_over.send(vec![key.clone().into()]).await.unwrap();
    let state = routing.publisher.state();
    until("the connection is given up", WAIT, async || {
        let first = matches!(*state.borrow(), ConnectionState::Up { generation: 1 });
        // Nothing can be sent on the next connection yet: its answers are held back as well.
        let waiting = stage.waiting().await;
        anyhow::ensure!(waiting <= 1, "a copy was sent while the connection lives");
        Ok(Look::holds(!first && waiting == 1, || format!("{waiting} messages")))
    })
    .await
    .unwrap();
    let before = stage.publish_no(&key).await;
    cut.hold_answers(false);
    stage.sent(2).await;
    routing.end().await;
    assert!(stage.publish_no(&key).await > before);
    stage.end().await;
}
