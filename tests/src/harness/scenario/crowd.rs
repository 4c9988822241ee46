//! Many tasks at once, and what must be true of them when whatever went wrong is over.

use std::ops::Range;
use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use switchyard_common::broker::{BrokerConfig, Outgoing, Properties, Publisher};
use switchyard_common::config::Secret;
use switchyard_common::contract::cloudevent::STRUCTURED_CONTENT_TYPE;
use switchyard_common::contract::event::EventType;

use super::look::MOVE_WITHIN;
use super::process::Process;
use super::upstream::{event, submission};
use super::world::Scenario;
use crate::harness::wait::{Look, until};

/// Longest time for the last events to be confirmed when a test ends its publisher.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// Workspaces that the tasks of a crowd are spread over.
const WORKSPACES_COUNT: usize = 10;

impl Scenario {
    /// Publishes submissions of plans `t-0`, `t-1` and so on, confirmed, without waiting for answers: whoever would answer may be killed.
    ///
    /// # Errors
    /// When one is not confirmed.
    pub async fn publish_many(&self, count: usize, payload: &Value) -> anyhow::Result<()> {
        self.publish_numbers(0..count, payload).await
    }

    /// As [`publish_many`](Self::publish_many), of these numbers.
    ///
    /// # Errors
    /// When one is not confirmed.
    pub async fn publish_numbers(&self, numbers: Range<usize>, payload: &Value) -> anyhow::Result<()> {
        self.publish_all(numbers.map(|number| plan(number, payload))).await
    }

    /// As [`publish_many`](Self::publish_many) with approved applies `a-0`, `a-1` and so on, each in a workspace of its own.
    ///
    /// # Errors
    /// When one is not confirmed.
    pub async fn publish_applies(&self, count: usize, payload: &Value) -> anyhow::Result<()> {
        let apply = |number| {
            let (task, workspace) = (format!("a-{number}"), format!("applied-{number}"));
            let mut data = submission(&task, &workspace, "plan_and_apply", payload.clone());
            data["auto_approve"] = json!(true);
            data
        };
        self.publish_all((0..count).map(apply)).await
    }

    /// A publisher of events that waits for no answers.
    ///
    /// # Errors
    /// When the broker's URL is wrong.
    pub fn publisher(&self) -> anyhow::Result<Publisher> {
        let config = BrokerConfig::new(Secret::new(self.amqp_url.clone()), "upstream");
        Ok(Publisher::start(&config, "publish")?)
    }

    /// The message that submits plan `t-<number>`.
    ///
    /// # Errors
    /// When it exceeds a limit.
    pub fn plan(&self, number: usize, payload: &Value) -> anyhow::Result<Outgoing> {
        self.submitting(plan(number, payload))
    }

    fn submitting(&self, data: Value) -> anyhow::Result<Outgoing> {
        let event = event(EventType::TaskSubmitted, data);
        let properties = Properties::persistent(STRUCTURED_CONTENT_TYPE);
        let body = serde_json::to_vec(&event)?;
        Ok(Outgoing::new(&self.namespace.events_exchange(), &event.event_type, properties, body, true)?)
    }

    async fn publish_all(&self, submissions: impl Iterator<Item = Value>) -> anyhow::Result<()> {
        let publisher = self.publisher()?;
        let messages: Vec<Outgoing> =
            submissions.map(|data| self.submitting(data)).collect::<anyhow::Result<_>>()?;
        let outcomes = publisher.publish_pipelined(messages).await;
        ensure!(outcomes.iter().all(|outcome| outcome.is_acked()), "not every event was confirmed");
        publisher.close(CLOSE_WITHIN).await;
        Ok(())
    }

    /// Waits until so many tasks have succeeded.
    ///
    /// # Errors
    /// When they have not within [`MOVE_WITHIN`].
    pub async fn until_succeeded(&self, count: i64) -> anyhow::Result<()> {
        self.until_succeeded_within(count, MOVE_WITHIN).await
    }

    /// As [`until_succeeded`](Self::until_succeeded), with another limit.
    ///
    /// # Errors
    /// When they have not in time.
    pub async fn until_succeeded_within(&self, count: i64, within: Duration) -> anyhow::Result<()> {
        let what = format!("{count} tasks to succeed (logs in {})", self.folder.display());
        let waited = until(what, within, async || {
            let done = self.count("SELECT count(*) FROM tasks WHERE status = 'succeeded'").await?;
            Ok(Look::holds(done >= count, || format!("{done} have")))
        })
        .await;
        match waited {
            Ok(()) => Ok(()),
            Err(error) => Err(error.context(self.tell_of_unfinished().await)),
        }
    }

    /// No dead letter was made.
    ///
    /// # Errors
    /// When one was.
    pub async fn no_letters(&self) -> anyhow::Result<()> {
        let letters = self.count("SELECT count(*) FROM dead_letters").await?;
        ensure!(letters == 0, "{letters} dead letters were made by the fault");
        Ok(())
    }

    /// Every task succeeded, no more and no fewer than `count`; nothing that may start once started twice; `dispatcher audit` is clean.
    ///
    /// # Errors
    /// What does not hold.
    pub async fn all_accounted_for(&self, count: i64) -> anyhow::Result<()> {
        let tasks = self.count("SELECT count(*) FROM tasks").await?;
        let succeeded = self.count("SELECT count(*) FROM tasks WHERE status = 'succeeded'").await?;
        ensure!((tasks, succeeded) == (count, count), "{succeeded} of {tasks} tasks succeeded, not {count}");
        let twice = "SELECT count(*) FROM (SELECT task_id FROM attempts WHERE step_name = 'apply' AND started_at IS NOT NULL \
                     GROUP BY task_id HAVING count(*) > 1) AS started";
        ensure!(self.count(twice).await? == 0, "an apply was started twice");
        let unresolved = self.count("SELECT count(*) FROM dead_letters WHERE resolution IS NULL").await?;
        ensure!(unresolved == 0, "{unresolved} dead letters need attention");
        let audit = self.dispatcher("audit").run(&["audit"])?;
        ensure!(audit.status.success(), "audit: {}", String::from_utf8_lossy(&audit.stdout));
        Ok(())
    }
}

fn plan(number: usize, payload: &Value) -> Value {
    let workspace = format!("w-{}", number % WORKSPACES_COUNT);
    submission(&format!("t-{number}"), &workspace, "plan", payload.clone())
}

impl Process {
    /// Waits until a line of its metrics begins so and has a value that holds.
    ///
    /// # Errors
    /// When none has within [`MOVE_WITHIN`].
    pub async fn until_metric(&self, begins: &str, holds: impl Fn(f64) -> bool) -> anyhow::Result<()> {
        until(format!("metric {begins}"), MOVE_WITHIN, async || {
            let body = match self.get("/metrics").await {
                Ok(answer) => answer.body,
                Err(error) => return Ok(Look::NotYet(format!("{error:#}"))),
            };
            let values = body.lines().filter(|line| line.starts_with(begins));
            let found = values.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).any(&holds);
            Ok(Look::holds(found, || {
                body.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n")
            }))
        })
        .await
    }

    /// Waits until `/readyz` says that it is ready, or that it is not.
    ///
    /// # Errors
    /// When it does not within [`MOVE_WITHIN`].
    pub async fn until_readiness(&self, ready: bool) -> anyhow::Result<()> {
        let what = format!("{} to be {}", self.name(), if ready { "ready" } else { "not ready" });
        until(what, MOVE_WITHIN, async || {
            // One answer that does not come in time, on a machine that is busy, says nothing of the next.
            Ok(match self.get("/readyz").await {
                Ok(answer) => Look::holds((answer.status == 200) == ready, || {
                    format!("{} {}", answer.status, answer.body)
                }),
                Err(error) => Look::NotYet(format!("{error:#}")),
            })
        })
        .await
    }
}
