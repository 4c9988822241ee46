//! A stand-in for the dispatcher: declares the topology, publishes assignments and orders, and keeps every report for who asks.

mod gate;
pub(crate) mod proxy;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use switchyard_common::broker::{
    BrokerConfig, ConsumeConnection, ConsumerEvent, Message, Outgoing, Properties, PublishOutcome, Publisher,
    Session, Subscription, declare, delete_queue, queue_counts,
};
use switchyard_common::config::Secret;
use switchyard_common::contract::artifact::Manifest;
use switchyard_common::contract::assignment::{AgentMessage, Assignment};
use switchyard_common::contract::control::{Control, Order};
use switchyard_common::contract::ids::{
    AgentId, AgentRef, HandlerName, KindName, LeaseToken, PoolId, ReplicaId, SessionId, StepName, TaskId,
    WorkspaceId,
};
use switchyard_common::contract::report::{Claim, Outcome, Presence, Report, ReportBody};
use switchyard_common::contract::topology::{DEFAULT_EXCHANGE, Namespace};
use switchyard_common::guard::{GuardedTask, spawn_guarded};
use switchyard_common::retry::RetryPolicy;
use switchyard_common::shutdown::Shutdown;
use switchyard_worker_agent::{AgentConfig, AgentError, Finished, Handlers, builtin, run};
use tokio::sync::{Semaphore, mpsc};
use uuid::Uuid;

use gate::Gate;

/// Longest wait for anything that should happen at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The URL of the test broker.
pub(crate) fn url() -> String {
    std::env::var("SWITCHYARD_AMQP_URL").unwrap_or_else(|_| {
        panic!(
            "SWITCHYARD_AMQP_URL is not set: these tests need a real RabbitMQ. Run `make test`, which starts one, \
             or `make up` and then `eval \"$(make env)\"`"
        )
    })
}

/// Fails the test when something takes too long.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it took too long")
}

fn broker(url: &str) -> BrokerConfig {
    let reconnect =
        RetryPolicy { initial: Duration::from_millis(20), max: Duration::from_millis(200), multiplier: 2.0 };
    BrokerConfig { reconnect, ..BrokerConfig::new(Secret::new(url), "agent tests") }
}

/// The dispatcher's side of one agent, in a namespace of its own.
pub(crate) struct Bench {
    /// Lets attempts of the handler `gate` go.
    pub(crate) gate: Arc<Semaphore>,
    pub(crate) namespace: Namespace,
    pub(crate) agent: AgentRef,
    pub(crate) session: Session,
    publisher: Publisher,
    reports: Kept<Report>,
    letters: Kept<Message>,
    _connection: ConsumeConnection,
}

/// An agent that runs in this process.
pub(crate) struct Agent {
    pub(crate) shutdown: Shutdown,
    task: GuardedTask<Result<Finished, AgentError>>,
}

impl Agent {
    /// Asks it to end, and waits until it has.
    pub(crate) async fn stop(self) -> Finished {
        self.shutdown.trigger("the test is over");
        self.ended().await
    }

    pub(crate) async fn ended(self) -> Finished {
        within(self.task).await.finished().expect("the agent panicked").expect("the agent could not run")
    }
}

/// What has come and was not asked for yet.
struct Kept<T> {
    come: mpsc::UnboundedReceiver<T>,
    kept: Vec<T>,
}

impl<T> Kept<T> {
    /// The first one for which `pick` gives something, waiting for it.
    async fn find<P>(&mut self, pick: impl Fn(&T) -> Option<P>) -> P {
        if let Some((at, picked)) = self.kept.iter().enumerate().find_map(|(at, one)| Some((at, pick(one)?)))
        {
            self.kept.remove(at);
            return picked;
        }
        loop {
            let next = within(self.come.recv()).await.expect("the bench lives");
            if let Some(picked) = pick(&next) {
                return picked;
            }
            self.kept.push(next);
        }
    }
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let id = Uuid::new_v4().simple().to_string();
        let namespace = Namespace::new(format!("t-{}", &id[..12])).unwrap();
        let agent =
            AgentRef { pool: PoolId::new("default").unwrap(), agent: AgentId::new("worker-0").unwrap() };
        let replica = ReplicaId::new("bench").unwrap();
        let session = Session::open(&broker(&url()), "test").await.unwrap();
        declare(&session, &namespace.dispatcher_topology()).await.unwrap();
        let presence = Arc::new(namespace.presence_queue_topology(&replica));
        let setup_presence = Arc::clone(&presence);
        let connection = ConsumeConnection::start(
            &broker(&url()),
            "test-consume",
            Arc::new(move |session| {
                let presence = Arc::clone(&setup_presence);
                Box::pin(async move { declare(&session, &presence).await })
            }),
        )
        .unwrap();
        let (reports, come) = mpsc::unbounded_channel();
        for queue in [
            namespace.outcomes_queue(),
            namespace.starts_queue(),
            namespace.logs_queue(),
            namespace.presence_queue(&replica),
        ] {
            let reports = reports.clone();
            collect(&connection, queue, move |message| {
                let _ =
                    reports.send(serde_json::from_slice(&message.body).expect("a report of the contract"));
            })
            .await;
        }
        let (letters, dead) = mpsc::unbounded_channel();
        collect(&connection, namespace.dead_letters_queue(), move |message| {
            let _ = letters.send(message);
        })
        .await;
        Self {
            gate: Arc::new(Semaphore::new(0)),
            publisher: Publisher::start(&broker(&url()), "test-publish").unwrap(),
            namespace,
            agent,
            session,
            reports: Kept { come, kept: Vec::new() },
            letters: Kept { come: dead, kept: Vec::new() },
            _connection: connection,
        }
    }

    pub(crate) fn config(&self, url: &str) -> AgentConfig {
        AgentConfig {
            namespace: self.namespace.clone(),
            heartbeat: Duration::from_millis(500),
            ..AgentConfig::new(broker(url), self.agent.clone())
        }
    }

    /// Starts an agent with the test handler as `plan`, and `gate`.
    pub(crate) fn start(&self) -> Agent {
        self.start_with(self.config(&url()), Duration::from_secs(20))
    }

    pub(crate) fn start_with(&self, config: AgentConfig, drain: Duration) -> Agent {
        let handlers = Handlers::new().with("plan", builtin::TestHandler).unwrap();
        let handlers = handlers.with("gate", Gate(Arc::clone(&self.gate))).unwrap();
        let shutdown = Shutdown::new(drain);
        let task = spawn_guarded("test-agent", run(config, handlers, shutdown.clone()));
        Agent { shutdown, task }
    }

    /// An attempt of a repeatable step for `session`, with a payload for the test handler.
    pub(crate) fn work(&self, session: SessionId, payload: Value) -> Assignment {
        Assignment {
            epoch: 0,
            task_id: TaskId::new(Uuid::new_v4().to_string()).unwrap(),
            attempt: 1,
            lease: LeaseToken(Uuid::new_v4()),
            session,
            pool: self.agent.pool.clone(),
            agent: self.agent.agent.clone(),
            workspace_id: WorkspaceId::new("w").unwrap(),
            kind: KindName::new("plan").unwrap(),
            step: StepName::new("plan").unwrap(),
            handler: HandlerName::new("plan").unwrap(),
            exclusive: false,
            repeatable: true,
            run_timeout_ms: 60_000,
            parameters: json!({}),
            payload,
            approval: None,
            inputs: Manifest::default(),
            publish_no: 1,
            traceparent: None,
        }
    }

    /// As [`work`](Self::work), but it runs until the gate lets it go.
    pub(crate) fn gated(&self, session: SessionId, payload: Value) -> Assignment {
        Assignment { handler: HandlerName::new("gate").unwrap(), ..self.work(session, payload) }
    }

    pub(crate) async fn assign(&self, work: &Assignment) {
        self.to_agent(&serde_json::to_vec(&AgentMessage::Assignment(Box::new(work.clone()))).unwrap()).await;
    }

    /// As [`assign`](Self::assign), but waits for a queue that is being declared anew.
    pub(crate) async fn assign_when_possible(&self, work: &Assignment) {
        let body = serde_json::to_vec(&AgentMessage::Assignment(Box::new(work.clone()))).unwrap();
        let queue = self.namespace.agent_queue(&self.agent.pool, &self.agent.agent);
        let properties = Properties::persistent("application/json");
        let message = Outgoing::new(DEFAULT_EXCHANGE, &queue, properties, body, true).unwrap();
        let routed = async {
            while self.publisher.publish(message.clone()).await != PublishOutcome::Acked {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        within(routed).await;
    }

    pub(crate) async fn send_part(&self, message: &AgentMessage) {
        self.to_agent(&serde_json::to_vec(message).unwrap()).await;
    }

    /// Publishes bytes to the agent's own queue.
    pub(crate) async fn to_agent(&self, body: &[u8]) {
        self.publish(&self.namespace.agent_queue(&self.agent.pool, &self.agent.agent), body).await;
    }

    pub(crate) async fn order(&self, order: Order) {
        let body = serde_json::to_vec(&Control { epoch: 0, order }).unwrap();
        self.publish(&self.namespace.control_queue(&self.agent.pool, &self.agent.agent), &body).await;
    }

    async fn publish(&self, queue: &str, body: &[u8]) {
        let properties = Properties::persistent("application/json");
        let message = Outgoing::new(DEFAULT_EXCHANGE, queue, properties, body.to_vec(), true).unwrap();
        assert_eq!(self.publisher.publish(message).await, PublishOutcome::Acked);
    }

    /// The first report for which `pick` gives something.
    pub(crate) async fn report<P>(&mut self, pick: impl Fn(&ReportBody) -> Option<P>) -> P {
        self.reports.find(|report| pick(&report.body)).await
    }

    pub(crate) async fn hello(&mut self) -> Presence {
        self.report(|body| if let ReportBody::Hello(presence) = body { Some(presence.clone()) } else { None })
            .await
    }

    /// A heartbeat that fits.
    pub(crate) async fn heartbeat(&mut self, fits: impl Fn(&Presence) -> bool) -> Presence {
        self.report(|body| match body {
            ReportBody::Heartbeat(presence) if fits(presence) => Some(presence.clone()),
            _ => None,
        })
        .await
    }

    /// The outcome of an attempt.
    pub(crate) async fn outcome(&mut self, work: &Assignment) -> Outcome {
        let found = self.report(|body| match body {
            ReportBody::Outcome(batch) => {
                let (own, others): (Vec<_>, Vec<_>) =
                    batch.outcomes.iter().cloned().partition(|one| one.claim == claim(work));
                Some((own.into_iter().next()?, others))
            }
            _ => None,
        });
        let (outcome, others) = found.await;
        let rest = others.into_iter().map(|one| Report {
            epoch: 0,
            body: ReportBody::Outcome(switchyard_common::contract::report::OutcomeBatch {
                outcomes: vec![one],
            }),
        });
        self.reports.kept.extend(rest);
        outcome
    }

    /// A message that was dead-lettered.
    pub(crate) async fn letter(&mut self, fits: impl Fn(&Message) -> bool) -> Message {
        self.letters.find(|letter| fits(letter).then(|| letter.clone())).await
    }

    /// How many messages wait in the agent's queue; those in an agent's hand are not counted.
    pub(crate) async fn waiting(&self) -> u32 {
        let queue = self.namespace.agent_queue(&self.agent.pool, &self.agent.agent);
        queue_counts(&self.session, &queue).await.unwrap().unwrap().messages
    }

    /// From now on only reports count that come from now on.
    pub(crate) fn forget_reports(&mut self) {
        while self.reports.come.try_recv().is_ok() {}
        self.reports.kept.clear();
    }

    /// How many reports have come that nobody asked for, and that `counts`.
    pub(crate) fn count(&mut self, counts: impl Fn(&ReportBody) -> bool) -> usize {
        while let Ok(report) = self.reports.come.try_recv() {
            self.reports.kept.push(report);
        }
        self.reports.kept.iter().filter(|report| counts(&report.body)).count()
    }

    /// Removes what the test has declared.
    pub(crate) async fn tear_down(self) {
        let own = self.namespace.agent_queue(&self.agent.pool, &self.agent.agent);
        for queue in self.namespace.dispatcher_topology().queues.iter().map(|queue| &queue.name).chain([&own])
        {
            delete_queue(&self.session, queue).await.unwrap();
        }
        self.session.close().await;
    }
}

/// Hands every message of a queue to `take`, from now on.
async fn collect(connection: &ConsumeConnection, queue: String, take: impl Fn(Message) + Send + 'static) {
    let mut events = connection.subscribe(Subscription::new(queue, 1_000).no_ack());
    while !matches!(within(events.next()).await, Some(ConsumerEvent::Ready { .. })) {}
    spawn_guarded("collector", async move {
        while let Some(event) = events.next().await {
            if let ConsumerEvent::Delivery(incoming) = event {
                take(incoming.message);
            }
        }
    });
}

pub(crate) fn claim(work: &Assignment) -> Claim {
    Claim { task_id: work.task_id.clone(), attempt: work.attempt, session: work.session, lease: work.lease }
}

/// Whether a dead letter is the assignment of `work`.
pub(crate) fn is_assignment(letter: &Message, work: &Assignment) -> bool {
    match serde_json::from_slice(&letter.body) {
        Ok(AgentMessage::Assignment(assigned)) => assigned.lease == work.lease,
        Ok(AgentMessage::InputPart(_)) | Err(_) => false,
    }
}
