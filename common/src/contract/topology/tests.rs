use std::collections::BTreeSet;

use super::*;
use crate::contract::ids::AgentRef;
use crate::contract::limits::DELIVERY_LIMIT_COUNT;

fn pool() -> PoolId {
    PoolId::new("default").unwrap()
}

fn agent() -> AgentId {
    AgentId::new("worker-0").unwrap()
}

fn replica() -> ReplicaId {
    ReplicaId::new("dispatcher-0").unwrap()
}

/// Everything that a running system declares.
fn everything(namespace: &Namespace) -> Topology {
    namespace
        .dispatcher_topology()
        .and(namespace.agent_queue_topology(&pool(), &agent()))
        .and(namespace.control_queue_topology(&pool(), &agent()))
        .and(namespace.presence_queue_topology(&replica()))
}

/// Whether a topic pattern matches a key, as the broker does it.
fn matches(pattern: &[&str], key: &[&str]) -> bool {
    match (pattern.first(), key.first()) {
        (None, None) => true,
        (Some(&"#"), _) => matches(&pattern[1..], key) || (!key.is_empty() && matches(pattern, &key[1..])),
        (Some(word), Some(found)) => (*word == "*" || word == found) && matches(&pattern[1..], &key[1..]),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// The queues that a message with this key reaches.
fn reached(topology: &Topology, exchange: &str, key: &str) -> BTreeSet<String> {
    let kind = topology.exchanges.iter().find(|known| known.name == exchange).unwrap().kind;
    let hit = |binding: &&BindingDecl| {
        binding.exchange == exchange
            && match kind {
                ExchangeKind::Direct => binding.routing_key == key,
                ExchangeKind::Topic => {
                    let pattern: Vec<_> = binding.routing_key.split('.').collect();
                    matches(&pattern, &key.split('.').collect::<Vec<_>>())
                }
            }
    };
    topology.bindings.iter().filter(hit).map(|binding| binding.queue.clone()).collect()
}

#[test]
fn the_names_are_those_of_the_design() {
    let namespace = Namespace::default();
    let topology = everything(&namespace);
    let exchanges: Vec<_> = topology.exchanges.iter().map(|e| (e.name.as_str(), e.kind.as_str())).collect();
    assert_eq!(
        exchanges,
        [
            ("switchyard.events", "topic"),
            ("switchyard.reports", "topic"),
            ("switchyard.dead-letters", "topic"),
            ("switchyard.notifications", "topic"),
        ]
    );
    let queues: Vec<_> = topology.queues.iter().map(|q| (q.name.as_str(), q.kind.as_str())).collect();
    assert_eq!(
        queues,
        [
            ("switchyard.events", "quorum"),
            ("switchyard.outcomes", "quorum"),
            ("switchyard.starts", "quorum"),
            ("switchyard.logs", "quorum"),
            ("switchyard.dead-letters", "quorum"),
            ("switchyard.agent.default.worker-0", "quorum"),
            ("switchyard.control.default.worker-0", "classic"),
            ("switchyard.presence.dispatcher-0", "classic"),
        ]
    );
}

#[test]
fn two_namespaces_share_no_name() {
    let names = |prefix: &str| -> BTreeSet<String> {
        let topology = everything(&Namespace::new(prefix).unwrap());
        let exchanges = topology.exchanges.into_iter().map(|exchange| exchange.name);
        exchanges.chain(topology.queues.into_iter().map(|queue| queue.name)).collect()
    };
    assert!(names("one").is_disjoint(&names("two")));
    assert!(names("one").iter().all(|name| name.starts_with("one.")));
}

#[test]
fn a_prefix_with_a_dot_a_pattern_or_a_blank_is_refused() {
    for bad in ["", "a.b", "a#", "*", "A", "a b", "-a"] {
        assert!(Namespace::new(bad).is_err(), "{bad:?} was accepted");
    }
    assert_eq!(Namespace::new("switchyard").unwrap(), Namespace::default());
}

#[test]
fn every_quorum_queue_carries_an_explicit_delivery_limit() {
    for queue in everything(&Namespace::default()).queues {
        match queue.kind {
            QueueKind::Quorum => {
                let limit = queue.integer_argument(DELIVERY_LIMIT);
                assert_eq!(limit, Some(DELIVERY_LIMIT_COUNT), "{}", queue.name);
                assert!(queue.durable && !queue.exclusive && !queue.auto_delete, "{}", queue.name);
            }
            QueueKind::Classic => assert!(queue.exclusive && !queue.durable, "{}", queue.name),
        }
        assert_eq!(queue.text_argument(QUEUE_TYPE), Some(queue.kind.as_str()), "{}", queue.name);
    }
}

#[test]
fn every_quorum_queue_but_the_dead_letters_dead_letters_at_least_once() {
    let namespace = Namespace::default();
    for queue in everything(&namespace).queues {
        let wanted = queue.kind == QueueKind::Quorum && queue.name != namespace.dead_letters_queue();
        let given = |argument| queue.text_argument(argument).map(str::to_owned);
        let target = wanted.then(|| namespace.dead_letters_exchange());
        assert_eq!(given(DEAD_LETTER_EXCHANGE), target, "{}", queue.name);
        assert_eq!(given(DEAD_LETTER_STRATEGY).as_deref(), wanted.then_some("at-least-once"));
        assert_eq!(given(OVERFLOW).as_deref(), wanted.then_some("reject-publish"));
    }
}

#[test]
fn a_dead_letter_keeps_its_routing_key_and_reaches_the_dead_letters_alone() {
    let namespace = Namespace::default();
    let topology = everything(&namespace);
    for key in ["switchyard.task.submitted.v1", "default.worker-0", "outcome.default.worker-0", "x", ""] {
        let queues = reached(&topology, &namespace.dead_letters_exchange(), key);
        assert_eq!(queues, BTreeSet::from([namespace.dead_letters_queue()]), "{key}");
    }
    let rewrites = |queue: &QueueDecl| queue.arguments.contains_key("x-dead-letter-routing-key");
    assert!(!topology.queues.iter().any(rewrites));
}

#[test]
fn the_dead_letter_queue_can_never_dead_letter_into_itself() {
    let topology = everything(&Namespace::default());
    for start in &topology.queues {
        // Follows every queue that a message of `start` may reach by dead-lettering, whatever its key.
        let mut seen = BTreeSet::new();
        let mut open = vec![start];
        while let Some(queue) = open.pop() {
            let Some(exchange) = queue.text_argument(DEAD_LETTER_EXCHANGE) else { continue };
            for binding in topology.bindings.iter().filter(|binding| binding.exchange == exchange) {
                assert_ne!(binding.queue, start.name, "{} can dead-letter into itself", start.name);
                if seen.insert(&binding.queue) {
                    open.extend(topology.queues.iter().filter(|queue| queue.name == binding.queue));
                }
            }
        }
    }
}

#[test]
fn no_queue_expires_because_expiry_drops_messages() {
    for queue in everything(&Namespace::default()).queues {
        for forbidden in ["x-expires", "x-message-ttl"] {
            assert!(!queue.arguments.contains_key(forbidden), "{} has {forbidden}", queue.name);
        }
    }
}

#[test]
fn each_report_reaches_exactly_its_queue() {
    let namespace = Namespace::default();
    let topology = everything(&namespace);
    let sender = AgentRef { pool: pool(), agent: agent() };
    for kind in ReportKind::ALL {
        let wanted = match kind {
            ReportKind::Hello | ReportKind::Heartbeat => namespace.presence_queue(&replica()),
            ReportKind::Ask | ReportKind::Started => namespace.starts_queue(),
            ReportKind::Outcome | ReportKind::Artifact => namespace.outcomes_queue(),
            ReportKind::Log => namespace.logs_queue(),
        };
        let queues = reached(&topology, &namespace.reports_exchange(), &kind.key(&sender));
        assert_eq!(queues, BTreeSet::from([wanted]), "{kind:?}");
    }
}

#[test]
fn a_canary_comes_back_to_the_replica_that_sent_it_alone() {
    let namespace = Namespace::default();
    let other = ReplicaId::new("dispatcher-1").unwrap();
    let topology = everything(&namespace).and(namespace.presence_queue_topology(&other));
    let queues = reached(&topology, &namespace.reports_exchange(), &canary_key(&other));
    assert_eq!(queues, BTreeSet::from([namespace.presence_queue(&other)]));
}

#[test]
fn what_an_agent_declares_is_bound_to_nothing_so_that_it_needs_no_right_to_bind() {
    let namespace = Namespace::default();
    let own = namespace
        .agent_queue_topology(&pool(), &agent())
        .and(namespace.control_queue_topology(&pool(), &agent()));
    assert_eq!((own.exchanges, own.bindings), (Vec::new(), Vec::new()));
    assert_eq!(own.queues.len(), 2);
}

#[test]
fn an_event_of_any_type_reaches_the_events_queue() {
    let namespace = Namespace::default();
    let topology = everything(&namespace);
    for key in ["switchyard.task.submitted.v1", "nonsense", ""] {
        let queues = reached(&topology, &namespace.events_exchange(), key);
        assert_eq!(queues, BTreeSet::from([namespace.events_queue()]), "{key:?}");
    }
}

#[test]
fn queues_that_could_fill_a_disk_or_a_memory_are_bounded() {
    let namespace = Namespace::default();
    let queues = everything(&namespace).queues;
    let find = |name: String| queues.iter().find(|queue| queue.name == name).unwrap();
    let presence = find(namespace.presence_queue(&replica()));
    assert_eq!(presence.integer_argument(MAX_LENGTH), Some(PRESENCE_QUEUE_MAX_COUNT));
    let logs = find(namespace.logs_queue());
    assert_eq!(logs.integer_argument(MAX_LENGTH_BYTES), Some(LOG_QUEUE_MAX_BYTES));
}
