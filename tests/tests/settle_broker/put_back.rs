//! Reports that a replica cannot settle because it cannot read what is stored, and more of them than it keeps.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use switchyard_common::contract::report::ReportBody;
use switchyard_common::contract::routing::ReportKind;
use switchyard_common::guard::spawn_guarded;
use switchyard_common::shutdown::Shutdown;
use switchyard_dispatcher::settle::consume::consume;
use switchyard_dispatcher::settle::outcomes::Outcomes;
use switchyard_dispatcher::settle::put_back::wait_before_return;
use switchyard_dispatcher::settle::{Fate, Heard, Settler};
use switchyard_dispatcher::store::StoreError;
use switchyard_tests::harness::scenario::Scenario;
use switchyard_tests::harness::seed::{Seed, TaskSeed};
use switchyard_tests::harness::wait::{Look, until};

use crate::stage::*;

/// When each task's outcome was to be settled alone.
type Tries = Arc<Mutex<BTreeMap<String, Vec<Instant>>>>;

/// Cannot read a task the first two times.
struct ShortSighted(Tries);

impl Settler for ShortSighted {
    const NAME: &'static str = "short_sighted";
    const KINDS: &'static [ReportKind] = Outcomes::KINDS;

    async fn settle(&self, batch: &[&Heard]) -> Result<Vec<Fate>, StoreError> {
        let unreadable = || StoreError::Unreadable("tasks.steps".to_owned());
        let [Heard { body: ReportBody::Outcome(reported), .. }] = batch else { return Err(unreadable()) };
        let mut tries = self.0.lock().unwrap();
        let tries = tries.entry(reported.outcomes[0].claim.task_id.to_string()).or_default();
        tries.push(Instant::now());
        if tries.len() <= 2 { Err(unreadable()) } else { Ok(vec![Fate::Done]) }
    }
}

#[tokio::test]
async fn more_unreadable_rows_than_may_be_held_wait_as_long_as_one_alone_and_are_settled_in_the_end() {
    // A tenth of the prefetch may be held.
    const PREFETCH_COUNT: u16 = 10;
    let scenario = Scenario::new("settle_put_back").await.unwrap();
    let seed = Seed::new(&scenario.database.db);
    seed.workspace("w", "default").await;
    let agent = seed.agent("default", "worker-0").await;
    let puppet = Puppet::new(&scenario, agent.clone()).await;
    for n in 0..3 {
        let task = seed.task(&TaskSeed::new(&format!("t{n}"), "w", "plan")).await;
        puppet.outcome(&seed.assign(&task, &agent).await, done()).await;
    }
    let consumers = consumers(&scenario, "short-sighted");
    let shutdown = Shutdown::new(Duration::from_secs(5));
    let tries = Tries::default();
    let (settler, db) = (ShortSighted(Arc::clone(&tries)), scenario.database.another_replica());
    let (queue, stop, connection) =
        (scenario.namespace.outcomes_queue(), shutdown.clone(), consumers.clone());
    let consuming = spawn_guarded("short-sighted", async move {
        consume(settler, db, &connection, queue, PREFETCH_COUNT, stop).await;
    });
    let third = until("every outcome is settled", WAIT, async || {
        let tries = tries.lock().unwrap().clone();
        let settled = tries.len() == 3 && tries.values().all(|tries| tries.len() > 2);
        Ok(Look::of(settled.then(|| tries.clone()), || format!("{tries:?}")))
    })
    .await
    .unwrap();
    for (task, tries) in third {
        assert_eq!(tries.len(), 3, "{task}");
        assert!(tries[1] - tries[0] >= wait_before_return(0), "{task}: {tries:?}");
        assert!(tries[2] - tries[1] >= wait_before_return(1), "{task}: {tries:?}");
    }
    shutdown.trigger("the test is over");
    assert_eq!(consuming.await.finished(), Some(()));
    assert!(consumers.close(WAIT).await);
    assert_eq!(messages_left(&scenario, &scenario.namespace.outcomes_queue()).await, 0);
}
