//! One replica's parts in this process, and an agent that only the test pulls the strings of.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use switchyard_common::broker::{
    BrokerConfig, ConnectionState, ConsumeConnection, ConsumerEvent, ConsumerStream, Outgoing, Properties,
    Publisher, Setup, Subscription, declare, queue_counts,
};
use switchyard_common::config::Secret;
use switchyard_common::contract::control::{Control, Order};
use switchyard_common::contract::ids::SessionId;
use switchyard_common::contract::report::{
    Claim, Outcome, OutcomeBatch, OutcomeEnd, Presence, Report, ReportBody,
};
use switchyard_common::contract::routing::ReportKind;
use switchyard_common::guard::{GuardedTask, spawn_guarded};
use switchyard_common::shutdown::Shutdown;
use switchyard_common::task::Kinds;
use switchyard_dispatcher::config::Config;
use switchyard_dispatcher::context::Context;
use switchyard_dispatcher::control::Orders;
use switchyard_dispatcher::pass::Wake;
use switchyard_dispatcher::presence::replicas::Beats;
use switchyard_dispatcher::readiness::Readiness;
use switchyard_dispatcher::settle::Settler;
use switchyard_dispatcher::settle::consume::consume;
use switchyard_dispatcher::settle::outcomes::Outcomes;
use switchyard_dispatcher::store::Db;
use switchyard_dispatcher::{presence, settle, sweep};
use switchyard_tests::harness::database::DATABASE_URL_VARIABLE;
use switchyard_tests::harness::scenario::Scenario;
use switchyard_tests::harness::scenario::world::AMQP_URL_VARIABLE;
use switchyard_tests::harness::seed::{AgentSeed, Seed};
use switchyard_tests::harness::wait::{Look, until};

pub(crate) const WAIT: Duration = Duration::from_secs(60);

pub(crate) fn variable(name: &str) -> Secret {
    Secret::new(std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set")))
}

pub(crate) fn broker() -> BrokerConfig {
    BrokerConfig::new(variable(AMQP_URL_VARIABLE), "settle-tests")
}

/// The parts of one replica that this file is about, in this process.
pub(crate) struct Replica {
    pub(crate) context: Context,
    shutdown: Shutdown,
    parts: Vec<GuardedTask<()>>,
    beats: Beats,
}

impl Replica {
    /// Starts, and waits until everything is declared.
    pub(crate) async fn start(scenario: &Scenario, lost_after: Duration) -> Self {
        Self::start_on(scenario, scenario.database.another_replica(), lost_after).await
    }

    /// As [`start`](Self::start), with a way of its own to the database.
    pub(crate) async fn start_on(scenario: &Scenario, db: Db, lost_after: Duration) -> Self {
        let mut config = Config::new(variable(AMQP_URL_VARIABLE), variable(DATABASE_URL_VARIABLE));
        config.namespace = scenario.namespace.clone();
        config.agent_lost_after = lost_after;
        let replica = db.replica;
        let own = presence::run::topology(&config.namespace, replica).unwrap();
        let topology = Arc::new(config.namespace.dispatcher_topology().and(own));
        let consumers = ConsumeConnection::start(
            &broker(),
            "consume",
            Arc::new(move |session| {
                let topology = Arc::clone(&topology);
                Box::pin(async move { declare(&session, &topology).await })
            }),
        )
        .unwrap();
        let context = Context {
            db,
            namespace: config.namespace.clone(),
            publisher: Publisher::start(&broker(), "publish").unwrap(),
            assignments: Publisher::start(&broker(), "assignments").unwrap(),
            consumers,
            wake: Wake::default(),
            kinds: Arc::new(Kinds::with_built_in([]).unwrap()),
            config: Arc::new(config),
            readiness: Readiness::default(),
            settled: Default::default(),
            replica,
        };
        let shutdown = Shutdown::new(Duration::from_secs(5));
        let (c, s) = (&context, &shutdown);
        let parts = vec![
            spawn_guarded("outcomes", settle::outcomes::run(c.clone(), s.clone())),
            spawn_guarded("starts", settle::starts::run(c.clone(), s.clone())),
            spawn_guarded("logs", settle::logs::run(c.clone(), s.clone())),
            spawn_guarded("presence", presence::run::run(c.clone(), s.clone())),
            spawn_guarded("sweep", sweep::run::run(c.clone(), s.clone())),
        ];
        let mut state = context.consumers.state();
        state.wait_for(ConnectionState::is_up).await.unwrap();
        let (settled, assignments) = (context.settled.clone(), context.assignments.state());
        let beats = Beats::start(&context.db, settled, assignments, lost_after);
        Self { context, shutdown, parts, beats }
    }

    pub(crate) async fn end(self) {
        self.shutdown.trigger("the test is over");
        let names: Vec<String> = self.parts.iter().map(|part| part.name().to_owned()).collect();
        for (name, part) in names.into_iter().zip(self.parts) {
            let ended =
                tokio::time::timeout(WAIT, part).await.unwrap_or_else(|_| panic!("{name} does not end"));
            assert_eq!(ended.finished(), Some(()), "{name}");
        }
        assert!(self.context.consumers.close(WAIT).await);
        assert!(self.context.publisher.close(WAIT).await);
        self.beats.end().await;
    }
}

/// A consumer of outcomes that is made otherwise than a replica's.
pub(crate) struct Consumer {
    consumers: ConsumeConnection,
    shutdown: Shutdown,
    consuming: GuardedTask<()>,
}

impl Consumer {
    /// Starts what `made` makes of a replica's consumer.
    pub(crate) fn start<S: Settler + 'static>(scenario: &Scenario, made: impl FnOnce(Outcomes) -> S) -> Self {
        let db = scenario.database.another_replica();
        let settler = made(Outcomes {
            db: db.clone(),
            wake: Wake::default(),
            orders: Orders::channel(10).0,
            artifacts_total_max_bytes: 1_000,
            settled: Default::default(),
        });
        let consumers = consumers(scenario, "another-consumer");
        let shutdown = Shutdown::new(Duration::from_secs(5));
        let (queue, stop, connection) =
            (scenario.namespace.outcomes_queue(), shutdown.clone(), consumers.clone());
        let consuming = spawn_guarded("consumer", async move {
            consume(settler, db, &connection, queue, 100, stop).await;
        });
        Self { consumers, shutdown, consuming }
    }

    pub(crate) async fn end(self) {
        self.shutdown.trigger("the test is over");
        assert_eq!(self.consuming.await.finished(), Some(()));
        assert!(self.consumers.close(WAIT).await);
    }
}

/// A connection to consume on, with everything of a dispatcher declared.
pub(crate) fn consumers(scenario: &Scenario, role: &'static str) -> ConsumeConnection {
    let topology = Arc::new(scenario.namespace.dispatcher_topology());
    let setup: Setup = Arc::new(move |session| {
        let topology = Arc::clone(&topology);
        Box::pin(async move { declare(&session, &topology).await })
    });
    ConsumeConnection::start(&broker(), role, setup).unwrap()
}

/// An agent that only a test pulls the strings of.
pub(crate) struct Puppet {
    seed: AgentSeed,
    pub(crate) publisher: Publisher,
    pub(crate) exchange: String,
    _connection: ConsumeConnection,
    control: ConsumerStream,
}

impl Puppet {
    pub(crate) async fn new(scenario: &Scenario, seed: AgentSeed) -> Self {
        let topology = Arc::new(
            scenario
                .namespace
                .control_queue_topology(&seed.agent.pool, &seed.agent.agent)
                .and(scenario.namespace.dispatcher_topology()),
        );
        let connection = ConsumeConnection::start(
            &broker(),
            "puppet",
            Arc::new(move |session| {
                let topology = Arc::clone(&topology);
                Box::pin(async move { declare(&session, &topology).await })
            }),
        )
        .unwrap();
        let queue = scenario.namespace.control_queue(&seed.agent.pool, &seed.agent.agent);
        let mut control = connection.subscribe(Subscription::new(queue, 100).no_ack());
        assert!(matches!(control.next().await, Some(ConsumerEvent::Ready { .. })));
        Self {
            seed,
            publisher: Publisher::start(&broker(), "puppet").unwrap(),
            exchange: scenario.namespace.reports_exchange(),
            _connection: connection,
            control,
        }
    }

    pub(crate) async fn send(&self, kind: ReportKind, body: Vec<u8>) {
        let message = Outgoing::new(
            &self.exchange,
            &kind.key(&self.seed.agent),
            Properties::persistent("application/json"),
            body,
            true,
        )
        .unwrap();
        assert!(self.publisher.publish(message).await.is_acked());
    }

    pub(crate) async fn report(&self, body: ReportBody) {
        let kind = body.kind();
        self.send(kind, serde_json::to_vec(&Report { epoch: 1, body }).unwrap()).await;
    }

    pub(crate) async fn outcome(&self, claim: &Claim, end: OutcomeEnd) {
        let outcome =
            Outcome { claim: claim.clone(), started_at: None, ended_at: Utc::now(), log_lines: 0, end };
        self.report(ReportBody::Outcome(OutcomeBatch { outcomes: vec![outcome] })).await;
    }

    pub(crate) async fn heartbeat(&self, session: SessionId, sequence: u64) {
        let presence = Presence {
            session,
            sequence,
            pod: "pod".into(),
            node: None,
            version: "test".into(),
            slots: 4,
            credit: 4,
            max_exclusive: 4,
            handlers: Default::default(),
            draining: false,
            in_hand: Vec::new(),
        };
        self.report(ReportBody::Heartbeat(presence)).await;
    }

    pub(crate) async fn order(&mut self) -> Order {
        loop {
            let event =
                tokio::time::timeout(WAIT, self.control.next()).await.expect("an order comes in time");
            if let ConsumerEvent::Delivery(incoming) = event.expect("the control queue stays") {
                return serde_json::from_slice::<Control>(&incoming.message.body).unwrap().order;
            }
        }
    }
}

pub(crate) fn done() -> OutcomeEnd {
    OutcomeEnd::Succeeded { changes: true, artifacts: Default::default(), result: None }
}

pub(crate) async fn status_becomes(seed: Seed<'_>, task: &str, status: &str) {
    let task = switchyard_common::contract::ids::TaskId::new(task).unwrap();
    until(format!("{task} is {status}"), WAIT, async || {
        let found = seed.status(&task).await;
        Ok(Look::holds(found == status, || found.clone()))
    })
    .await
    .unwrap();
}

pub(crate) async fn count_becomes(seed: Seed<'_>, from: &str, wanted: i64) {
    let sql = format!("SELECT count(*) FROM {from}");
    until(format!("{wanted} {from}"), WAIT, async || {
        let found: i64 = seed.value(&sql, &[]).await;
        Ok(Look::holds(found == wanted, || found.to_string()))
    })
    .await
    .unwrap();
}

/// Waits until nothing is left in a queue, neither ready nor unacked: its consumers were ended before.
pub(crate) async fn messages_left(scenario: &Scenario, queue: &str) -> u32 {
    let session = scenario.session("count").await.unwrap();
    queue_counts(&session, queue).await.unwrap().map_or(0, |counts| counts.messages)
}
