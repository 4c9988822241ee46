//! Who may do what at the broker: one account per role, as data. The broker's answer to each is what the permission matrix test holds
//! against it; SECURITY.md says it in words.
//!
//! RabbitMQ knows three rights on a name (configure: declare and delete; write: publish to an exchange, or be bound *to*; read: consume, or
//! be bound *from*), and does not tell a queue's name from an exchange's. Hence the rule that every role but the dispatcher keeps: what it may
//! declare it may not write to, unless it may write to nothing else. Otherwise it could declare an exchange, bind that to one of ours, and
//! publish there with any routing key: topic permissions are checked only on the exchange that a message is published to.

use std::fmt;

use super::ids::{PoolId, SubscriberId};
use super::routing::ReportKind;
use super::topology::Namespace;

/// A pattern that matches no name: not even the empty one, which `^$` does.
pub const NOTHING: &str = "(?!)";
/// A pattern that matches every routing key.
const EVERYTHING: &str = ".*";
/// An agent's id in a pattern. Ids have no dots, so that a pattern cannot run over into the next word (protocol A1).
const ID: &str = "[-a-z0-9]+";
/// What the permissions call the exchange whose name is empty.
const DEFAULT_EXCHANGE_RESOURCE: &str = "amq.default";

/// Whose account it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The dispatcher's replicas: everything in the namespace.
    Dispatcher,
    /// Upstream services: may publish events, and hear the answers by direct reply-to.
    Upstream,
    /// The agents of one pool, which is the boundary of trust.
    Pool(PoolId),
    /// Somebody who reads notifications, into queues of its own.
    Subscriber(SubscriberId),
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dispatcher => f.write_str("dispatcher"),
            Self::Upstream => f.write_str("upstream"),
            Self::Pool(pool) => write!(f, "pool-{pool}"),
            Self::Subscriber(name) => write!(f, "subscriber-{name}"),
        }
    }
}

/// What an account may do. Every pattern is a regular expression that is anchored at both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The account's name: `<namespace>-<role>`.
    pub user: String,
    /// Names that it may declare and delete.
    pub configure: String,
    /// Names that it may publish to, or bind to something.
    pub write: String,
    /// Names that it may consume from, or bind something to.
    pub read: String,
    /// What it may do on topic exchanges, by routing key. An exchange that is not listed has no further limit.
    pub topics: Vec<TopicAccess>,
    /// Most connections at a time; none = no limit.
    pub connections_max: Option<u32>,
    /// Most channels at a time; none = no limit.
    pub channels_max: Option<u32>,
}

/// What an account may do on one topic exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicAccess {
    /// The exchange.
    pub exchange: String,
    /// Routing keys that it may publish with.
    pub write: String,
    /// Routing keys that it may bind with.
    pub read: String,
}

/// Connections of one pool or subscriber: two per agent, and a few hundred agents.
pub const ROLE_CONNECTIONS_MAX_COUNT: u32 = 1_024;
/// Channels of one pool or subscriber: a handful per connection.
pub const ROLE_CHANNELS_MAX_COUNT: u32 = 8_192;

/// Accounts.
impl Namespace {
    /// The name of a role's account.
    #[must_use]
    pub fn account(&self, role: &Role) -> String {
        format!("{self}-{role}")
    }

    /// What a role may do.
    #[must_use]
    pub fn access(&self, role: &Role) -> Access {
        let none = Access {
            user: self.account(role),
            configure: NOTHING.to_owned(),
            write: NOTHING.to_owned(),
            read: NOTHING.to_owned(),
            topics: Vec::new(),
            connections_max: None,
            channels_max: None,
        };
        match role {
            Role::Dispatcher => self.dispatcher_access(none),
            Role::Upstream => self.upstream_access(none),
            Role::Pool(pool) => self.pool_access(pool, none),
            Role::Subscriber(name) => self.subscriber_access(name, none),
        }
    }

    /// Its own namespace, and the default exchange: that is how it reaches agents' queues and answers publishers.
    fn dispatcher_access(&self, none: Access) -> Access {
        let own = format!(r"{}\..+", self.as_str());
        Access {
            configure: whole(&own),
            write: whole(&format!("({own}|{})", escaped(DEFAULT_EXCHANGE_RESOURCE))),
            read: whole(&own),
            ..none
        }
    }

    /// Direct reply-to needs no right at all.
    fn upstream_access(&self, none: Access) -> Access {
        let topics = vec![TopicAccess {
            exchange: self.events_exchange(),
            // An event of an unknown type is rejected with a reason, which is kinder than a closed channel.
            write: EVERYTHING.to_owned(),
            read: NOTHING.to_owned(),
        }];
        Access { write: whole(&escaped(&self.events_exchange())), topics, ..none }
    }

    fn pool_access(&self, pool: &PoolId, none: Access) -> Access {
        let own = format!(r"{}\.(agent|control)\.{pool}\.{ID}", self.as_str());
        let (reports, letters) = (self.reports_exchange(), self.dead_letters_exchange());
        let kinds = ReportKind::ALL.map(ReportKind::as_str).join("|");
        let topics = vec![
            TopicAccess {
                exchange: reports.clone(),
                write: whole(&format!(r"({kinds})\.{pool}\.{ID}")),
                read: NOTHING.to_owned(),
            },
            // The broker asks for write where a queue that dead-letters there is declared; nothing may be published.
            TopicAccess { exchange: letters.clone(), write: NOTHING.to_owned(), read: NOTHING.to_owned() },
        ];
        Access {
            configure: whole(&own),
            write: whole(&format!("({}|{})", escaped(&reports), escaped(&letters))),
            read: whole(&own),
            topics,
            connections_max: Some(ROLE_CONNECTIONS_MAX_COUNT),
            channels_max: Some(ROLE_CHANNELS_MAX_COUNT),
            ..none
        }
    }

    fn subscriber_access(&self, name: &SubscriberId, none: Access) -> Access {
        let own = format!(r"{}\.subscriber\.{name}\.{ID}", self.as_str());
        let notifications = self.notifications_exchange();
        let topics = vec![TopicAccess {
            exchange: notifications.clone(),
            write: NOTHING.to_owned(),
            read: EVERYTHING.to_owned(),
        }];
        Access {
            configure: whole(&own),
            write: whole(&own),
            read: whole(&format!("({own}|{})", escaped(&notifications))),
            topics,
            connections_max: Some(ROLE_CONNECTIONS_MAX_COUNT),
            channels_max: Some(ROLE_CHANNELS_MAX_COUNT),
            ..none
        }
    }

    /// A queue of a subscriber, which it declares and binds to the notifications itself.
    #[must_use]
    pub fn subscriber_queue(&self, name: &SubscriberId, queue: &str) -> String {
        format!("{}.subscriber.{name}.{queue}", self.as_str())
    }
}

/// Anchored at both ends. `\z`, because `$` also matches before a line feed at the end.
fn whole(pattern: &str) -> String {
    format!(r"\A{pattern}\z")
}

/// Names have no special character but the dot.
fn escaped(name: &str) -> String {
    name.replace('.', r"\.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace() -> Namespace {
        Namespace::default()
    }

    #[test]
    fn the_rights_are_those_that_the_trust_model_names() {
        let pool = namespace().access(&Role::Pool(PoolId::new("blue").unwrap()));
        assert_eq!(pool.user, "switchyard-pool-blue");
        assert_eq!(pool.configure, r"\Aswitchyard\.(agent|control)\.blue\.[-a-z0-9]+\z");
        assert_eq!(pool.read, pool.configure);
        assert_eq!(pool.write, r"\A(switchyard\.reports|switchyard\.dead-letters)\z");
        assert_eq!(
            pool.topics[0].write,
            r"\A(hello|heartbeat|ask|started|outcome|artifact|log)\.blue\.[-a-z0-9]+\z"
        );
        assert_eq!(pool.topics[1].write, NOTHING);
        let upstream = namespace().access(&Role::Upstream);
        assert_eq!((upstream.configure.as_str(), upstream.read.as_str()), (NOTHING, NOTHING));
        assert_eq!(upstream.write, r"\Aswitchyard\.events\z");
    }

    #[test]
    fn every_topic_exchange_that_a_limited_role_may_write_to_is_limited_by_key() {
        let roles = [
            Role::Upstream,
            Role::Pool(PoolId::new("blue").unwrap()),
            Role::Subscriber(SubscriberId::new("billing").unwrap()),
        ];
        let topology = namespace().dispatcher_topology();
        for access in roles.map(|role| namespace().access(&role)) {
            for exchange in &topology.exchanges {
                let named = access.write.contains(&escaped(&exchange.name))
                    || access.read.contains(&escaped(&exchange.name));
                let limited = access.topics.iter().any(|topic| topic.exchange == exchange.name);
                assert_eq!(named, limited, "{} on {}", access.user, exchange.name);
            }
        }
    }
}
