//! A namespace with everything on it, and an account per role.

use lapin::options::{ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use switchyard_common::broker::{Session, declare};
use switchyard_common::contract::access::Role;
use switchyard_common::contract::ids::{AgentId, PoolId, ReplicaId, SubscriberId};
use switchyard_common::contract::topology::Namespace;
use switchyard_tests::harness::accounts::{Accounts, local_ctl};
use uuid::Uuid;

/// A queue and an exchange of somebody else in the same virtual host.
pub(crate) const FOREIGN_QUEUE: &str = "somebody-elses";
pub(crate) const FOREIGN_EXCHANGE: &str = "amq.topic";

pub(crate) fn pool(name: &str) -> PoolId {
    PoolId::new(name).unwrap()
}

pub(crate) fn agent() -> AgentId {
    AgentId::new("a-1").unwrap()
}

pub(crate) fn subscriber(name: &str) -> SubscriberId {
    SubscriberId::new(name).unwrap()
}

/// The four roles. There are two pools and two subscribers, so that each can try what is the other's.
pub(crate) fn roles() -> [Role; 4] {
    [Role::Dispatcher, Role::Upstream, Role::Pool(pool("blue")), Role::Subscriber(subscriber("billing"))]
}

/// A broker with everything on it, and the accounts.
pub(crate) struct Stage {
    pub(crate) namespace: Namespace,
    pub(crate) admin: Session,
    pub(crate) accounts: Accounts,
    foreign: String,
    pub(crate) queues: Vec<String>,
    pub(crate) exchanges: Vec<String>,
}

impl Stage {
    pub(crate) async fn new() -> anyhow::Result<Self> {
        let url = std::env::var("SWITCHYARD_AMQP_URL")?;
        let namespace = Namespace::new(format!("acl-{}", Uuid::new_v4().simple()))?;
        let config = switchyard_common::broker::BrokerConfig::new(
            switchyard_common::config::Secret::new(url.as_str()),
            "tests",
        );
        let admin = Session::open(&config, "admin").await?;
        let mut topology = namespace.dispatcher_topology();
        for name in ["blue", "red"] {
            topology = topology.and(namespace.agent_queue_topology(&pool(name), &agent()));
        }
        declare(&admin, &topology).await?;
        let mut queues: Vec<String> = topology.queues.iter().map(|queue| queue.name.clone()).collect();
        let foreign = format!("{FOREIGN_QUEUE}-{}", Uuid::new_v4().simple());
        let channel = admin.channel().await?;
        // Not exclusive here, because then the lock would refuse everybody, whatever their rights.
        let more = [
            namespace.presence_queue(&ReplicaId::new("r-1")?),
            namespace.control_queue(&pool("blue"), &agent()),
            namespace.control_queue(&pool("red"), &agent()),
            namespace.subscriber_queue(&subscriber("billing"), "q"),
            namespace.subscriber_queue(&subscriber("other"), "q"),
            foreign.clone(),
        ];
        for name in more {
            channel
                .queue_declare(name.as_str().into(), QueueDeclareOptions::default(), FieldTable::default())
                .await?;
            queues.push(name);
        }
        let mut exchanges: Vec<String> = topology.exchanges.iter().map(|one| one.name.clone()).collect();
        exchanges.extend([String::new(), FOREIGN_EXCHANGE.to_owned()]);
        let accounts = Accounts::make(local_ctl(), &url, &namespace, &roles()).await?;
        Ok(Self { namespace, admin, accounts, foreign, queues, exchanges })
    }

    pub(crate) async fn remove(self) -> anyhow::Result<()> {
        let channel = self.admin.channel().await?;
        for queue in &self.queues {
            channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await?;
        }
        for exchange in self.exchanges.iter().filter(|name| name.starts_with(self.namespace.as_str())) {
            channel.exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default()).await?;
        }
        Ok(())
    }

    pub(crate) fn local<'a>(&self, name: &'a str) -> &'a str {
        let rest = name.strip_prefix(self.namespace.as_str()).and_then(|rest| rest.strip_prefix('.'));
        match rest {
            Some(rest) => rest,
            None if name == self.foreign => FOREIGN_QUEUE,
            None => name,
        }
    }
}
