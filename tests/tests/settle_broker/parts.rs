//! Outcomes whose artifact parts come later than they do, or never, or are in the hands of a replica that does nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use switchyard_common::broker::{ConsumerEvent, Subscription};
use switchyard_common::contract::artifact::{Manifest, split};
use switchyard_common::contract::report::{Claim, LeftPart, OutcomeEnd, ReportBody};
use switchyard_common::contract::routing::ReportKind;
use switchyard_dispatcher::settle::outcomes::Outcomes;
use switchyard_dispatcher::settle::{Fate, Heard, Settler};
use switchyard_dispatcher::store::StoreError;
use switchyard_tests::harness::scenario::Scenario;
use switchyard_tests::harness::seed::{Seed, TaskSeed};

use crate::stage::*;

/// What a step leaves.
fn files() -> BTreeMap<String, Vec<u8>> {
    BTreeMap::from([("plan".to_owned(), b"change it".to_vec())])
}

fn left() -> OutcomeEnd {
    OutcomeEnd::Succeeded { changes: true, artifacts: Manifest::of(&files()).unwrap(), result: None }
}

async fn send_parts(puppet: &Puppet, claim: &Claim) {
    for part in split(&files()) {
        puppet.report(ReportBody::Artifact(LeftPart { claim: claim.clone(), part })).await;
    }
}

#[tokio::test]
async fn an_outcome_that_comes_before_its_parts_is_held_until_they_come_and_holds_nothing_up() {
    let scenario = Scenario::new("settle_parts").await.unwrap();
    let seed = Seed::new(&scenario.database.db);
    seed.workspace("w", "default").await;
    let agent = seed.agent("default", "worker-0").await;
    let puppet = Puppet::new(&scenario, agent.clone()).await;
    let replica = Replica::start(&scenario, Duration::from_secs(20)).await;
    let task = seed.task(&TaskSeed::new("late", "w", "plan")).await;
    let claim = seed.assign(&task, &agent).await;
    puppet.outcome(&claim, left()).await;
    // What comes behind what is held is not held.
    let task = seed.task(&TaskSeed::new("behind", "w", "plan")).await;
    puppet.outcome(&seed.assign(&task, &agent).await, done()).await;
    status_becomes(seed, "behind", "succeeded").await;
    assert_eq!(seed.value::<i64>("SELECT count(*) FROM attempts WHERE ended_at IS NULL", &[]).await, 1);
    send_parts(&puppet, &claim).await;
    status_becomes(seed, "late", "succeeded").await;
    replica.end().await;
    assert_eq!(messages_left(&scenario, &scenario.namespace.outcomes_queue()).await, 0);
}

#[tokio::test]
async fn parts_in_the_hands_of_a_frozen_replica_are_waited_for_until_the_broker_takes_them_back() {
    /// Shorter than it takes the broker to notice, longer than what is held may hold anything back.
    const FROZEN_FOR: Duration = Duration::from_secs(8);
    let scenario = Scenario::new("settle_parts_frozen").await.unwrap();
    let seed = Seed::new(&scenario.database.db);
    seed.workspace("w", "default").await;
    let agent = seed.agent("default", "worker-0").await;
    let puppet = Puppet::new(&scenario, agent.clone()).await;
    let task = seed.task(&TaskSeed::new("t", "w", "plan")).await;
    let claim = seed.assign(&task, &agent).await;
    let frozen = consumers(&scenario, "frozen");
    let mut hands = frozen.subscribe(Subscription::new(scenario.namespace.outcomes_queue(), 1));
    assert!(matches!(hands.next().await, Some(ConsumerEvent::Ready { .. })));
    send_parts(&puppet, &claim).await;
    let Some(ConsumerEvent::Delivery(in_hand)) = hands.next().await else { panic!("no part came") };
    let replica = Replica::start(&scenario, Duration::from_secs(20)).await;
    puppet.outcome(&claim, left()).await;
    tokio::time::sleep(FROZEN_FOR).await;
    assert_eq!(seed.status(&task).await, "assigned");
    assert_eq!(seed.value::<i64>("SELECT count(*) FROM dead_letters", &[]).await, 0);
    assert!(!in_hand.acker.is_stale(), "the broker has taken it back early");
    assert!(frozen.close(WAIT).await);
    status_becomes(seed, "t", "succeeded").await;
    replica.end().await;
    assert_eq!(messages_left(&scenario, &scenario.namespace.outcomes_queue()).await, 0);
}

/// Waits for parts for a second.
struct Impatient(Outcomes);

impl Settler for Impatient {
    const NAME: &'static str = "impatient";
    const KINDS: &'static [ReportKind] = Outcomes::KINDS;
    const HELD_MAX: Duration = Duration::from_secs(1);

    async fn settle(&self, batch: &[&Heard]) -> Result<Vec<Fate>, StoreError> {
        self.0.settle(batch).await
    }
}

#[tokio::test]
async fn an_outcome_whose_parts_never_come_is_refused_in_the_end() {
    let scenario = Scenario::new("settle_parts_never").await.unwrap();
    let seed = Seed::new(&scenario.database.db);
    seed.workspace("w", "default").await;
    let agent = seed.agent("default", "worker-0").await;
    let puppet = Puppet::new(&scenario, agent.clone()).await;
    let task = seed.task(&TaskSeed::new("never", "w", "plan")).await;
    puppet.outcome(&seed.assign(&task, &agent).await, left()).await;
    let consumer = Consumer::start(&scenario, Impatient);
    count_becomes(seed, "dead_letters WHERE failure_kind = 'artifacts_refused' AND task_id = 'never'", 1)
        .await;
    status_becomes(seed, "never", "pending").await;
    consumer.end().await;
    assert_eq!(messages_left(&scenario, &scenario.namespace.outcomes_queue()).await, 0);
}
