//! What is acked, what is nacked, what is held, and what is waited out.

use std::time::Duration;

use chrono::Utc;
use switchyard_common::broker::queue_counts;
use switchyard_common::config::Secret;
use switchyard_common::contract::control::Order;
use switchyard_common::contract::ids::Nonce;
use switchyard_common::contract::report::{Ask, Outcome, OutcomeBatch, ReportBody};
use switchyard_common::contract::routing::ReportKind;
use switchyard_common::task::Input;
use switchyard_dispatcher::settle::outcomes::Outcomes;
use switchyard_dispatcher::settle::{Fate, Heard, Settler};
use switchyard_dispatcher::store::StoreError;
use switchyard_tests::harness::database::DATABASE_URL_VARIABLE;
use switchyard_tests::harness::scenario::Scenario;
use switchyard_tests::harness::seed::{Seed, TaskSeed};
use switchyard_tests::harness::wait::{Look, until};
use uuid::Uuid;

use crate::stage::*;

#[tokio::test]
async fn outcomes_are_acked_after_their_commit_and_malformed_ones_are_dead_lettered_without_blocking() {
    let scenario = Scenario::new("settle_outcomes").await.unwrap();
    let seed = Seed::new(&scenario.database.db);
    seed.workspace("w", "default").await;
    let agent = seed.agent("default", "worker-0").await;
    let puppet = Puppet::new(&scenario, agent.clone()).await;
    let mut claims = Vec::new();
    for n in 0..3 {
        let task = seed.task(&TaskSeed::new(&format!("t{n}"), "w", "plan")).await;
        claims.push(seed.assign(&task, &agent).await);
    }
    // One of them is refused by the database: it must not hold the others.
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
        RAISE EXCEPTION 'not this one' USING ERRCODE = '22000'; END $$; \
        CREATE TRIGGER refuse BEFORE UPDATE ON tasks FOR EACH ROW WHEN (NEW.task_id = 't1') EXECUTE FUNCTION refuse()";
    scenario.database.db.connection().await.unwrap().batch_execute(refuse).await.unwrap();
    puppet.send(ReportKind::Outcome, b"not json".to_vec()).await;
    for claim in &claims {
        puppet.outcome(claim, done()).await;
    }
    let replica = Replica::start(&scenario, Duration::from_secs(20)).await;
    status_becomes(seed, "t0", "succeeded").await;
    status_becomes(seed, "t2", "succeeded").await;
    count_becomes(seed, "dead_letters WHERE failure_kind = 'malformed_report'", 1).await;
    count_becomes(seed, "dead_letters WHERE failure_kind = 'poison_row'", 1).await;
    let secret = claims[1].lease.0.to_string();
    assert_eq!(
        seed.value::<i64>(
            "SELECT count(*) FROM dead_letters d WHERE d::text LIKE '%' || $1 || '%'",
            &[&secret]
        )
        .await,
        0,
        "no lease token is kept"
    );
    // Only after both nacks are done does the queue of dead letters have both copies.
    until("both copies are dead-lettered", WAIT, async || {
        let left = messages_left(&scenario, &scenario.namespace.dead_letters_queue()).await;
        Ok(Look::holds(left == 2, || left.to_string()))
    })
    .await
    .unwrap();
    replica.end().await;
    assert_eq!(
        messages_left(&scenario, &scenario.namespace.outcomes_queue()).await,
        0,
        "everything was settled"
    );
}

#[tokio::test]
async fn an_outcome_that_cannot_be_settled_does_not_cost_the_others_of_its_message() {
    let scenario = Scenario::new("settle_apart").await.unwrap();
    let seed = Seed::new(&scenario.database.db);
    seed.workspace("w", "default").await;
    let agent = seed.agent("default", "worker-0").await;
    let puppet = Puppet::new(&scenario, agent.clone()).await;
    let mut outcomes = Vec::new();
    for n in 0..6 {
        let task = seed.task(&TaskSeed::new(&format!("t{n}"), "w", "plan")).await;
        let claim = seed.assign(&task, &agent).await;
        outcomes.push(Outcome { claim, started_at: None, ended_at: Utc::now(), log_lines: 0, end: done() });
    }
    // The database refuses the one, and this program cannot read the other.
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
        RAISE EXCEPTION 'not this one' USING ERRCODE = '22000'; END $$; \
        CREATE TRIGGER refuse BEFORE UPDATE OF status ON tasks FOR EACH ROW WHEN (NEW.task_id = 't1') EXECUTE FUNCTION refuse()";
    scenario.database.db.connection().await.unwrap().batch_execute(refuse).await.unwrap();
    seed.execute("UPDATE tasks SET steps = jsonb_set(steps, '{0,name}', '7') WHERE task_id = 't4'", &[])
        .await;
    let unreadable = outcomes.split_off(3);
    puppet.report(ReportBody::Outcome(OutcomeBatch { outcomes })).await;
    puppet.report(ReportBody::Outcome(OutcomeBatch { outcomes: unreadable })).await;
    let replica = Replica::start(&scenario, Duration::from_secs(20)).await;
    for task in ["t0", "t2", "t3", "t5"] {
        status_becomes(seed, task, "succeeded").await;
    }
    count_becomes(seed, "dead_letters WHERE failure_kind = 'poison_row'", 1).await;
    seed.execute(
        "UPDATE tasks SET steps = jsonb_set(steps, '{0,name}', '\"plan\"') WHERE task_id = 't4'",
        &[],
    )
    .await;
    status_becomes(seed, "t4", "succeeded").await;
    replica.end().await;
}

#[tokio::test]
async fn a_database_that_is_away_is_waited_out_and_what_is_in_hand_goes_back_but_is_not_nacked() {
    let scenario = Scenario::new("settle_database_away").await.unwrap();
    let seed = Seed::new(&scenario.database.db);
    seed.workspace("w", "default").await;
    let agent = seed.agent("default", "worker-0").await;
    let puppet = Puppet::new(&scenario, agent.clone()).await;
    let task = seed.task(&TaskSeed::new("t", "w", "plan")).await;
    let claim = seed.assign(&task, &agent).await;
    let replica = Replica::start(&scenario, Duration::from_secs(20)).await;
    let (name, server) = (database_name(&scenario), variable(DATABASE_URL_VARIABLE));
    admin(&server, &format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await;
    admin(
        &server,
        &format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"),
    )
    .await;
    puppet.outcome(&claim, done()).await;
    until("the outcome is in hand", WAIT, async || {
        let left = messages_left(&scenario, &scenario.namespace.outcomes_queue()).await;
        Ok(Look::holds(left == 0, || left.to_string()))
    })
    .await
    .unwrap();
    // It stays away, perhaps for this replica alone.
    until("the outcome is where another replica can get it", WAIT, async || {
        let session =
            replica.context.consumers.session().ok_or("no connection").map_err(anyhow::Error::msg)?;
        let counts = queue_counts(&session, &scenario.namespace.outcomes_queue()).await?;
        let is_given_back = counts.is_some_and(|counts| counts.messages == 1 && counts.consumers == 0);
        Ok(Look::holds(is_given_back, || format!("{counts:?}")))
    })
    .await
    .unwrap();
    admin(&server, &format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).await;
    status_becomes(seed, "t", "succeeded").await;
    replica.end().await;
    assert_eq!(messages_left(&scenario, &scenario.namespace.outcomes_queue()).await, 0);
    assert_eq!(messages_left(&scenario, &scenario.namespace.dead_letters_queue()).await, 0);
    assert_eq!(seed.value::<i64>("SELECT count(*) FROM dead_letters", &[]).await, 0);
}

fn database_name(scenario: &Scenario) -> String {
    scenario.database.url.rsplit('/').next().unwrap().split('?').next().unwrap().to_owned()
}

async fn admin(server: &Secret, sql: &str) {
    let (client, connection) = tokio_postgres::connect(server.expose(), tokio_postgres::NoTls).await.unwrap();
    let work = async {
        client.batch_execute(sql).await.unwrap();
        drop(client);
    };
    let ((), ended) = futures::join!(work, connection);
    ended.unwrap();
}

#[tokio::test]
async fn an_ask_is_answered_on_the_agents_control_queue_and_so_is_a_cancel() {
    let scenario = Scenario::new("settle_orders").await.unwrap();
    let seed = Seed::new(&scenario.database.db);
    seed.workspace("w", "default").await;
    let agent = seed.agent("default", "worker-0").await;
    let mut puppet = Puppet::new(&scenario, agent.clone()).await;
    let replica = Replica::start(&scenario, Duration::from_secs(20)).await;
    let task = seed.task(&TaskSeed { auto_approve: true, ..TaskSeed::new("t", "w", "plan_and_apply") }).await;
    let claim = seed.assign(&task, &agent).await;
    puppet.outcome(&claim, done()).await;
    status_becomes(seed, "t", "pending").await;
    let claim = seed.assign(&task, &agent).await;
    let nonce = Nonce(Uuid::new_v4());
    puppet.report(ReportBody::Ask(Ask { claim: claim.clone(), nonce })).await;
    let order = puppet.order().await;
    assert!(matches!(&order, Order::Go { nonce: granted, .. } if *granted == nonce), "{order:?}");
    let other = Nonce(Uuid::new_v4());
    puppet.report(ReportBody::Ask(Ask { claim: claim.clone(), nonce: other })).await;
    let order = puppet.order().await;
    assert!(matches!(&order, Order::NoGo { nonce: refused, .. } if *refused == other), "{order:?}");
    // Asked for by another process, so that only the sweep can send it; and again, since nobody answers.
    seed.must(&task, Input::Cancel { by: "bob".into(), force: true }).await;
    for _ in 0..3 {
        let order = puppet.order().await;
        assert!(matches!(&order, Order::Cancel { claim: told, force: true } if *told == claim), "{order:?}");
    }
    replica.end().await;
}

/// Panics over one attempt, as a mistake in settling would.
struct Clumsy(Outcomes);

impl Settler for Clumsy {
    const NAME: &'static str = "clumsy";
    const KINDS: &'static [ReportKind] = Outcomes::KINDS;

    async fn settle(&self, batch: &[&Heard]) -> Result<Vec<Fate>, StoreError> {
        for heard in batch {
            if let ReportBody::Outcome(reported) = &heard.body {
                let bad = reported.outcomes.iter().any(|outcome| outcome.claim.task_id.as_str() == "t1");
                assert!(!bad, "a checksum is empty");
            }
        }
        self.0.settle(batch).await
    }
}

/// The letter of a report over which [`Clumsy`] panicked, with everything that explains it.
const LETTER_OF_THE_PANIC: &str = "dead_letters WHERE failure_kind = 'dispatcher_panicked' \
    AND failure_message LIKE '%a checksum is empty%' AND failure->>'location' LIKE '%settle_broker/reports.rs%' \
    AND failure->>'backtrace' <> ''";

#[tokio::test]
async fn incident_01_a_panic_over_one_report_is_recorded_with_its_place_and_spares_the_others() {
    let scenario = Scenario::new("settle_panic").await.unwrap();
    let seed = Seed::new(&scenario.database.db);
    seed.workspace("w", "default").await;
    let agent = seed.agent("default", "worker-0").await;
    let puppet = Puppet::new(&scenario, agent.clone()).await;
    for n in 0..3 {
        let task = seed.task(&TaskSeed::new(&format!("t{n}"), "w", "plan")).await;
        puppet.outcome(&seed.assign(&task, &agent).await, done()).await;
    }
    let clumsy = Consumer::start(&scenario, Clumsy);
    count_becomes(seed, "tasks WHERE status = 'succeeded'", 2).await;
    count_becomes(seed, LETTER_OF_THE_PANIC, 1).await;
    clumsy.end().await;
    assert_eq!(messages_left(&scenario, &scenario.namespace.outcomes_queue()).await, 0);
    assert_eq!(messages_left(&scenario, &scenario.namespace.dead_letters_queue()).await, 1);
}

#[tokio::test]
async fn incident_01_a_panic_over_one_outcome_costs_no_other_of_its_message() {
    let scenario = Scenario::new("settle_panic_apart").await.unwrap();
    let seed = Seed::new(&scenario.database.db);
    seed.workspace("w", "default").await;
    let agent = seed.agent("default", "worker-0").await;
    let puppet = Puppet::new(&scenario, agent.clone()).await;
    let mut outcomes = Vec::new();
    for n in 0..3 {
        let task = seed.task(&TaskSeed::new(&format!("t{n}"), "w", "plan")).await;
        let claim = seed.assign(&task, &agent).await;
        outcomes.push(Outcome { claim, started_at: None, ended_at: Utc::now(), log_lines: 0, end: done() });
    }
    puppet.report(ReportBody::Outcome(OutcomeBatch { outcomes })).await;
    let clumsy = Consumer::start(&scenario, Clumsy);
    count_becomes(seed, LETTER_OF_THE_PANIC, 1).await;
    for task in ["t0", "t2"] {
        status_becomes(seed, task, "succeeded").await;
    }
    clumsy.end().await;
    assert_eq!(messages_left(&scenario, &scenario.namespace.outcomes_queue()).await, 0);
    assert_eq!(messages_left(&scenario, &scenario.namespace.dead_letters_queue()).await, 1);
}

#[tokio::test]
async fn an_outcome_whose_task_this_replica_cannot_read_goes_back_to_the_broker_and_is_settled_later() {
    let scenario = Scenario::new("settle_unreadable").await.unwrap();
    let seed = Seed::new(&scenario.database.db);
    seed.workspace("w", "default").await;
    let agent = seed.agent("default", "worker-0").await;
    let task = seed.task(&TaskSeed::new("t", "w", "plan")).await;
    let claim = seed.assign(&task, &agent).await;
    let keep = "ALTER TABLE tasks ADD COLUMN readable jsonb; UPDATE tasks SET readable = steps, steps = '[{\"name\": 1}]'";
    scenario.database.db.connection().await.unwrap().batch_execute(keep).await.unwrap();
    let puppet = Puppet::new(&scenario, agent.clone()).await;
    let later = seed.task(&TaskSeed::new("u", "w", "plan")).await;
    let later = seed.assign(&later, &agent).await;
    let replica = Replica::start(&scenario, Duration::from_secs(60)).await;
    puppet.outcome(&claim, done()).await;
    puppet.outcome(&later, done()).await;
    // Whatever was to become of the first one has become of it.
    status_becomes(seed, "u", "succeeded").await;
    assert_eq!(seed.status(&task).await, "assigned");
    assert_eq!(seed.value::<i64>("SELECT count(*) FROM dead_letters", &[]).await, 0);
    // What another replica can read.
    seed.execute("UPDATE tasks SET steps = readable WHERE task_id = 't'", &[]).await;
    status_becomes(seed, "t", "succeeded").await;
    replica.end().await;
    assert_eq!(messages_left(&scenario, &scenario.namespace.outcomes_queue()).await, 0);
    assert_eq!(messages_left(&scenario, &scenario.namespace.dead_letters_queue()).await, 0);
}
