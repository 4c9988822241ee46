//! Reports that wait for what another replica may have in hand: an outcome whose artifact parts have not all come. Pure.
//!
//! Parts travel apart from their outcome and may be handed to another replica. When that one freezes, or loses the broker without
//! either noticing, it keeps them until the broker takes them back.

use std::cmp::Reverse;
use std::time::Duration;

use switchyard_common::contract::ids::AgentRef;

/// How long a report waits. A broker takes back what a frozen replica has in hand when it has heard nothing from it for two heartbeats,
/// which it looks for once in a heartbeat (10 s): after 30 s at most; then the parts come to those that can store them.
pub const HELD_MAX: Duration = Duration::from_secs(45);
/// How long a report that waits holds back the moment up to which this replica says it has settled what it was handed. Whoever has the
/// parts in hand answers for them itself; an agent whose parts never come must not delay for long that others are found lost.
pub const HOLDS_BACK_MAX: Duration = Duration::from_secs(5);

/// How often a report that waits is looked at again after that: each time costs a look at all its stored parts.
pub const LATE_RETRY: Duration = Duration::from_secs(2);

/// When the oldest arrived of those that hold back at `at`, of all that wait. Times are since any fixed moment.
#[must_use]
pub fn oldest_that_holds_back(at: Duration, arrived: impl Iterator<Item = Duration>) -> Option<Duration> {
    arrived.filter(|arrived| at.saturating_sub(*arrived) < HOLDS_BACK_MAX).min()
}

/// Which of those that wait, oldest first, has to end it when too many do: the oldest of the agent that has the most of them, in the pool
/// that has the most, so that nobody takes the places of others: what the broker vouches for is the pool. None when nothing waits.
#[must_use]
pub fn first_to_go(senders: &[&AgentRef]) -> Option<usize> {
    let in_pool = |one: &AgentRef| senders.iter().filter(|other| other.pool == one.pool).count();
    let of_agent = |one: &AgentRef| senders.iter().filter(|other| **other == one).count();
    let rank = |place: &usize| senders.get(*place).map(|one| (in_pool(one), of_agent(one), Reverse(*place)));
    (0..senders.len()).max_by_key(rank)
}

#[cfg(test)]
mod tests {
    use switchyard_common::broker::BrokerConfig;
    use switchyard_common::config::Secret;

    use super::*;

    #[test]
    fn what_a_frozen_replica_has_in_hand_is_waited_for_until_the_broker_has_taken_it_back() {
        let heartbeat = BrokerConfig::new(Secret::new("amqp://localhost"), "any").heartbeat;
        assert!(
            HELD_MAX >= heartbeat * 4,
            "two that are missed, up to one until that is seen, and one to spare"
        );
    }

    #[test]
    fn the_pool_and_then_the_agent_that_has_most_gives_way_and_of_its_reports_the_oldest() {
        let agent = |name: &str| {
            let (pool, agent) = name.split_once('/').expect("a pool and an agent");
            AgentRef { pool: pool.parse().expect("a pool"), agent: agent.parse().expect("an agent") }
        };
        let first = |names: &[&str]| {
            let senders: Vec<AgentRef> = names.iter().map(|name| agent(name)).collect();
            first_to_go(&senders.iter().collect::<Vec<_>>())
        };
        assert_eq!(first(&[]), None);
        assert_eq!(first(&["p/a"]), Some(0));
        assert_eq!(first(&["p/a", "p/b", "p/b"]), Some(1));
        assert_eq!(first(&["q/a", "p/a", "p/b"]), Some(1), "many names do not hide a pool");
        assert_eq!(first(&["q/a", "p/b"]), Some(0), "the oldest of all where none has more");
    }

    #[test]
    fn what_has_waited_for_long_holds_nothing_back() {
        let at = Duration::from_secs(100);
        let just = at - HOLDS_BACK_MAX + Duration::from_millis(1);
        assert_eq!(oldest_that_holds_back(at, [at, just].into_iter()), Some(just));
        assert_eq!(oldest_that_holds_back(at, [at - HOLDS_BACK_MAX, at].into_iter()), Some(at));
        assert_eq!(oldest_that_holds_back(at, [at - HOLDS_BACK_MAX].into_iter()), None);
    }
}
