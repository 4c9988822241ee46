//! The topology of the contract, as a real broker takes it.

use switchyard_common::broker::headers::deaths;
use switchyard_common::broker::topology::QueueKind;
use switchyard_common::broker::{
    AckResult, Outgoing, Properties, Publisher, Session, Subscription, declare, delete_queue, queue_counts,
};
use switchyard_common::contract::ids::{AgentId, AgentRef, PoolId, ReplicaId};
use switchyard_common::contract::routing::{ReportKind, canary_key};
use switchyard_common::contract::topology::{DEFAULT_EXCHANGE, Namespace};

use crate::support::*;

/// A namespace of one test with everything that runs in it, declared.
struct Declared {
    session: Session,
    namespace: Namespace,
    sender: AgentRef,
    replica: ReplicaId,
}

impl Declared {
    async fn new() -> Self {
        let namespace = Namespace::new(format!("t{}", uuid::Uuid::new_v4().simple())).unwrap();
        let sender =
            AgentRef { pool: PoolId::new("default").unwrap(), agent: AgentId::new("worker-0").unwrap() };
        let replica = ReplicaId::new("dispatcher-0").unwrap();
        let session = Session::open(&config(), "test").await.unwrap();
        let declared = Self { session, namespace, sender, replica };
        declare(&declared.session, &declared.topology()).await.unwrap();
        declared
    }

    fn topology(&self) -> switchyard_common::broker::topology::Topology {
        let AgentRef { pool, agent } = &self.sender;
        self.namespace
            .dispatcher_topology()
            .and(self.namespace.agent_queue_topology(pool, agent))
            .and(self.namespace.control_queue_topology(pool, agent))
            .and(self.namespace.presence_queue_topology(&self.replica))
    }

    async fn count(&self, queue: &str) -> u32 {
        queue_counts(&self.session, queue).await.unwrap().unwrap().messages
    }

    async fn delete(self) {
        for queue in self.topology().queues.iter().filter(|queue| queue.kind == QueueKind::Quorum) {
            delete_queue(&self.session, &queue.name).await.unwrap();
        }
        self.session.close().await;
    }
}

async fn send(publisher: &Publisher, exchange: &str, key: &str) -> bool {
    let message = Outgoing::new(exchange, key, Properties::persistent("text/plain"), b"x".to_vec(), true);
    within(publisher.publish(message.unwrap())).await.is_acked()
}

#[tokio::test]
async fn the_contract_is_declared_twice_without_a_difference() {
    let declared = Declared::new().await;
    declare(&declared.session, &declared.topology()).await.unwrap();
    declared.delete().await;
}

#[tokio::test]
async fn each_report_and_each_canary_waits_in_the_queue_that_the_contract_gives() {
    let declared = Declared::new().await;
    let (namespace, publisher) = (&declared.namespace, publisher(&config()).await);
    for kind in ReportKind::ALL {
        assert!(
            send(&publisher, &namespace.reports_exchange(), &kind.key(&declared.sender)).await,
            "{kind:?}"
        );
    }
    assert!(send(&publisher, &namespace.reports_exchange(), &canary_key(&declared.replica)).await);
    let other = canary_key(&ReplicaId::new("dispatcher-1").unwrap());
    assert!(!send(&publisher, &namespace.reports_exchange(), &other).await, "a foreign canary was routed");
    assert_eq!(declared.count(&namespace.outcomes_queue()).await, 2);
    assert_eq!(declared.count(&namespace.starts_queue()).await, 2);
    assert_eq!(declared.count(&namespace.logs_queue()).await, 1);
    assert_eq!(declared.count(&namespace.presence_queue(&declared.replica)).await, 3);
    declared.delete().await;
}

#[tokio::test]
async fn a_nacked_assignment_keeps_its_key_and_reaches_the_dead_letters() {
    let declared = Declared::new().await;
    let namespace = &declared.namespace;
    let AgentRef { pool, agent } = &declared.sender;
    let publisher = publisher(&config()).await;
    let agent_queue = namespace.agent_queue(pool, agent);
    assert!(send(&publisher, DEFAULT_EXCHANGE, &agent_queue).await);
    let unknown = AgentId::new("worker-1").unwrap();
    assert!(
        !send(&publisher, DEFAULT_EXCHANGE, &namespace.agent_queue(pool, &unknown)).await,
        "an assignment for an unknown agent was routed"
    );
    let connection = consumer(&config());
    let mut at_agent = connection.subscribe(Subscription::new(&agent_queue, 1));
    next_ready(&mut at_agent).await;
    assert_eq!(next_delivery(&mut at_agent).await.acker.nack(false).await, AckResult::Sent);
    let mut letters = connection.subscribe(Subscription::new(namespace.dead_letters_queue(), 1));
    next_ready(&mut letters).await;
    let letter = next_delivery(&mut letters).await;
    assert_eq!(letter.message.routing_key, agent_queue);
    assert_eq!(deaths(&letter.message.properties.headers)[0].queue, agent_queue);
    assert_eq!(letter.acker.ack().await, AckResult::Sent);
    declared.delete().await;
}
