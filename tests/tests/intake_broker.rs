//! Events that come back again and again, with a real broker, a real database and dispatchers that are really killed (protocol D4).

use std::process::ExitStatus;

use anyhow::Context as _;
use lapin::Channel;
use lapin::options::{BasicGetOptions, BasicNackOptions};
use serde_json::json;
use switchyard_common::broker::{Session, declare};
use switchyard_common::task::Status;
use switchyard_dispatcher::intake::deliveries::{POISON_FROM_DELIVERIES, POISON_FROM_TRIALS};
use switchyard_dispatcher::route::decide::REPLICA_STALE_AFTER;
use switchyard_tests::harness::scenario::look::MOVE_WITHIN;
use switchyard_tests::harness::scenario::{Process, Scenario};
use switchyard_tests::harness::wait::{Look, until};

/// Trials that did not end, of all events.
const TRIALS: &str = "SELECT count(*) FROM event_trials";
/// Of these, those whose dispatcher gives no sign of life any more.
const LEFT_BEHIND: &str = "SELECT count(*) FROM event_trials t WHERE NOT EXISTS (SELECT 1 FROM replicas r \
    WHERE r.replica_id = t.replica_id AND r.heartbeat_at > now() - $1 * interval '1 second')";

#[tokio::test]
async fn an_event_that_came_back_often_is_handled_all_the_same() -> anyhow::Result<()> {
    let stage = Stage::new("intake_came_back").await?;
    stage.publish_and_send_back(5, POISON_FROM_DELIVERIES + 2).await?;
    let _dispatcher = stage.scenario.dispatcher("dispatcher-1").start().await?;
    stage.until_stored(5).await?;
    stage.until_no_trial_is_left().await?;
    stage.scenario.no_letters().await
}

#[tokio::test]
async fn that_an_event_is_handled_alone_is_on_record_while_it_is() -> anyhow::Result<()> {
    let stage = Stage::new("intake_trial").await?;
    stage.publish_and_send_back(1, POISON_FROM_DELIVERIES).await?;
    stage.dies_in_the_middle(1).await?;
    let _dispatcher = stage.scenario.dispatcher("dispatcher-2").start().await?;
    stage.until_stored(1).await?;
    stage.until_no_trial_is_left().await?;
    stage.scenario.no_letters().await
}

#[tokio::test]
async fn an_event_that_dispatchers_died_of_is_poison_and_nothing_else_is() -> anyhow::Result<()> {
    let stage = Stage::new("intake_poison").await?;
    stage.publish_and_send_back(1, POISON_FROM_DELIVERIES).await?;
    for death in 1..=POISON_FROM_TRIALS {
        stage.dies_in_the_middle(death.into()).await?;
    }
    stage.scenario.publish_numbers(1..6, &json!({})).await?;
    let _dispatcher = stage.scenario.dispatcher("dispatcher-last").start().await?;
    let letter = stage.scenario.until_letter("of the event", |_| true).await?;
    assert_eq!(letter.failure_kind.as_deref(), Some("poison"), "{letter:?}");
    let message = letter.failure_message.unwrap_or_default();
    assert!(message.contains(&format!("{POISON_FROM_TRIALS} times a dispatcher")), "{message}");
    stage.until_stored(5).await
}

#[tokio::test]
async fn a_dispatcher_that_is_stopped_in_order_leaves_no_trial_behind() -> anyhow::Result<()> {
    let stage = Stage::new("intake_stopped").await?;
    stage.publish_and_send_back(1, POISON_FROM_DELIVERIES).await?;
    stage.ends_in_the_middle(1, async |dispatcher| dispatcher.stop().await).await?;
    stage.until_no_trial_is_left().await
}

#[tokio::test]
async fn an_event_that_nobody_can_be_given_is_stored_all_the_same() -> anyhow::Result<()> {
    let stage = Stage::new("intake_unassignable").await?;
    let dispatcher = stage.scenario.dispatcher("dispatcher-1").start().await?;
    let _agent = stage.scenario.agent("agent-1").start().await?;
    stage.scenario.publish_many(1, &json!({})).await?;
    stage.scenario.until_succeeded(1).await?;
    // Of two passes that found nothing, the first has let intake know before the second began.
    let nothing = [("decision", "nothing")];
    until("two passes that find nothing", MOVE_WITHIN, async || {
        let passes = dispatcher.log().with_message("pass ends", &nothing)?.len();
        Ok(Look::holds(passes >= 2, || format!("{passes} did")))
    })
    .await?;
    let refuse = "ALTER TABLE attempts ADD CONSTRAINT nobody CHECK (task_id = 't-0')";
    stage.scenario.database.db.connection().await?.batch_execute(refuse).await?;
    stage.scenario.publish_numbers(1..2, &json!({})).await?;
    let alone = "events could not be stored; trying without assigning them at once";
    dispatcher.log().until(alone, MOVE_WITHIN, |line| line.message() == alone).await?;
    stage.until_stored(1).await?;
    stage.scenario.no_letters().await
}

struct Stage {
    scenario: Scenario,
    _session: Session,
    channel: Channel,
}

impl Stage {
    async fn new(name: &str) -> anyhow::Result<Self> {
        let scenario = Scenario::new(name).await?;
        let session = scenario.session("stage").await?;
        declare(&session, &scenario.namespace.dispatcher_topology()).await?;
        let channel = session.channel().await?;
        Ok(Self { scenario, _session: session, channel })
    }

    /// Publishes so many submissions and hands each back to the broker so often, as dying dispatchers would.
    async fn publish_and_send_back(&self, count: usize, times: u64) -> anyhow::Result<()> {
        self.scenario.publish_many(count, &json!({})).await?;
        let queue = self.scenario.namespace.events_queue();
        for _ in 0..times {
            let mut last = 0;
            for _ in 0..count {
                let got = self.channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await?;
                last = got.context("a published event waits")?.delivery_tag;
            }
            self.channel.basic_nack(last, BasicNackOptions { multiple: true, requeue: true }).await?;
        }
        Ok(())
    }

    /// A dispatcher is killed while it stores an event that it handles alone: this is its trial number `trial`.
    async fn dies_in_the_middle(&self, trial: i64) -> anyhow::Result<()> {
        self.ends_in_the_middle(trial, async |dispatcher| dispatcher.kill()).await?;
        let stale_s = REPLICA_STALE_AFTER.as_secs_f64();
        until(format!("trial {trial} to be left behind"), MOVE_WITHIN, async || {
            let connection = self.scenario.database.db.connection().await?;
            let left: i64 = connection.query_one(LEFT_BEHIND, &[&stale_s]).await?.get(0);
            Ok(Look::holds(left == trial, || format!("{left} are")))
        })
        .await
    }

    /// Ends a dispatcher while it stores an event that it handles alone.
    async fn ends_in_the_middle(
        &self,
        trial: i64,
        end: impl AsyncFnOnce(&mut Process) -> anyhow::Result<ExitStatus>,
    ) -> anyhow::Result<()> {
        let mut blocker = self.scenario.database.db.connection().await?;
        let blocking = blocker.transaction().await?;
        // It waits for a dispatcher to start, however long that takes.
        blocking.batch_execute("SET LOCAL idle_in_transaction_session_timeout = 0").await?;
        blocking.batch_execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE").await?;
        let mut dispatcher = self.scenario.dispatcher(&format!("dispatcher-{trial}")).start().await?;
        until(format!("trial {trial} to be on record"), MOVE_WITHIN, async || {
            let trials = self.scenario.count(TRIALS).await?;
            Ok(Look::holds(trials == trial, || format!("{trials} are")))
        })
        .await?;
        end(&mut dispatcher).await?;
        blocking.rollback().await?;
        Ok(())
    }

    async fn until_stored(&self, count: i64) -> anyhow::Result<()> {
        until(format!("{count} tasks to be stored"), MOVE_WITHIN, async || {
            let tasks = self.scenario.tasks().await?;
            let stored = tasks.iter().filter(|task| task.status == Status::Pending).count();
            Ok(Look::holds(i64::try_from(stored)? == count, || format!("{stored} are")))
        })
        .await
    }

    async fn until_no_trial_is_left(&self) -> anyhow::Result<()> {
        until("the trials to be forgotten", MOVE_WITHIN, async || {
            let trials = self.scenario.count(TRIALS).await?;
            Ok(Look::holds(trials == 0, || format!("{trials} are left")))
        })
        .await
    }
}
