//! Tasks that never run out while something is measured, and what the database says of them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;

use crate::harness::scenario::Scenario;
use crate::harness::scenario::look::MOVE_WITHIN;
use crate::harness::wait::{Look, until};

/// Fewer open tasks than this are topped up.
const OPEN_MIN_COUNT: i64 = 1_500;
/// Tasks that are published at once.
const STEP_COUNT: usize = 1_500;
/// Time that a task takes: short, so that the next end is never far away.
const TASK_MS: u64 = 50;
/// Longest wait of a measurement, far beyond every bound.
pub const MEASURED_WITHIN: Duration = Duration::from_secs(180);

/// A backlog of short tasks.
#[derive(Debug, Default)]
pub struct Backlog {
    published: usize,
}

impl Backlog {
    /// Makes sure that there is work for the next minute, and that it flows.
    ///
    /// # Errors
    /// When it cannot be published, or nothing ends.
    pub async fn flows(&mut self, scenario: &Scenario) -> anyhow::Result<()> {
        let open = scenario.count("SELECT count(*) FROM tasks WHERE finished_at IS NULL").await?;
        if open < OPEN_MIN_COUNT {
            let next = self.published + STEP_COUNT;
            scenario.publish_numbers(self.published..next, &json!({ "sleep_ms": TASK_MS })).await?;
            self.published = next;
        }
        first_end_after(scenario, Utc::now(), MOVE_WITHIN).await.map(drop)
    }
}

/// The end of the first task that ended after a moment.
///
/// # Errors
/// When none ends in time.
pub async fn first_end_after(
    scenario: &Scenario,
    since: DateTime<Utc>,
    within: Duration,
) -> anyhow::Result<DateTime<Utc>> {
    first(scenario, "SELECT min(finished_at) FROM tasks WHERE finished_at > $1", since, within).await
}

/// The moment that a query gives, once it gives one. Its one parameter is a moment.
///
/// # Errors
/// When it gives none in time. A database that does not answer is asked again until then.
pub async fn first(
    scenario: &Scenario,
    sql: &str,
    since: DateTime<Utc>,
    within: Duration,
) -> anyhow::Result<DateTime<Utc>> {
    until(format!("{sql} (logs in {})", scenario.folder.display()), within, async || {
        let asked = async {
            let row = scenario.database.db.connection().await?.query_one(sql, &[&since]).await?;
            anyhow::Ok(row.get::<_, Option<DateTime<Utc>>>(0))
        };
        Ok(match asked.await {
            Ok(found) => Look::of(found, || "none".to_owned()),
            Err(error) => Look::NotYet(error.to_string()),
        })
    })
    .await
}

/// Seconds from one moment to another; none are negative.
#[must_use]
pub fn seconds(from: DateTime<Utc>, to: DateTime<Utc>) -> f64 {
    (to - from).to_std().unwrap_or_default().as_secs_f64()
}
