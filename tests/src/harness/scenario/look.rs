//! What the database says, and waiting until it says it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, Utc};
use switchyard_common::contract::artifact::Manifest;
use switchyard_common::task::Status;
use switchyard_dispatcher::store::letters::Letter;
use switchyard_dispatcher::store::letters::browse::{self, LetterFilter};
use switchyard_dispatcher::store::timeline::{self, Moment};
use switchyard_dispatcher::store::view::{
    self, AgentSummary, AttemptSummary, LogLine, TaskFilter, TaskSummary,
};

use super::world::Scenario;
use crate::harness::wait::{Look, until};

/// Longest wait for a task to move, or a letter to come: far more than it takes, because a busy machine is no failure.
pub const MOVE_WITHIN: Duration = Duration::from_secs(90);
/// Most log lines of a task that are read.
const LOG_LINES_MAX: i64 = 10_000;

impl Scenario {
    /// A task, if it is there.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn find_task(&self, task_id: &str) -> anyhow::Result<Option<TaskSummary>> {
        let filter = TaskFilter { task_id: Some(task_id.to_owned()), limit: 1, ..TaskFilter::default() };
        Ok(view::tasks(&self.database.db, &filter).await?.pop())
    }

    /// A task that must be there.
    ///
    /// # Errors
    /// When it is not, or the database fails.
    pub async fn task(&self, task_id: &str) -> anyhow::Result<TaskSummary> {
        self.find_task(task_id).await?.with_context(|| format!("there is no task {task_id}"))
    }

    /// Every task, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn tasks(&self) -> anyhow::Result<Vec<TaskSummary>> {
        let filter = TaskFilter { limit: view::LIST_MAX_COUNT, ..TaskFilter::default() };
        let mut tasks = view::tasks(&self.database.db, &filter).await?;
        tasks.reverse();
        Ok(tasks)
    }

    /// Waits until a task is as `wanted` says.
    ///
    /// # Errors
    /// When it does not come to that in time; the message says how it is instead.
    pub async fn until_task(
        &self,
        task_id: &str,
        what: &str,
        within: Duration,
        wanted: impl Fn(&TaskSummary) -> bool,
    ) -> anyhow::Result<TaskSummary> {
        until(format!("task {task_id} {what} (logs in {})", self.folder.display()), within, async || {
            let Some(task) = self.find_task(task_id).await? else {
                return Ok(Look::NotYet("there is no such task".to_owned()));
            };
            if wanted(&task) {
                return Ok(Look::There(task));
            }
            Ok(Look::NotYet(describe(&task)))
        })
        .await
    }

    /// Waits until a task has a status. A task that has ended otherwise ends the wait.
    ///
    /// # Errors
    /// When it does not come to that in time, or can no longer come to it.
    pub async fn until_status(&self, task_id: &str, status: Status) -> anyhow::Result<TaskSummary> {
        let what = format!("to be {status}");
        let settled = |task: &TaskSummary| task.status == status || task.status.is_terminal();
        let task = self.until_task(task_id, &what, MOVE_WITHIN, settled).await?;
        let logs = self.folder.display();
        ensure!(
            task.status == status,
            "task {task_id} should be {status} but is {} (logs in {logs})",
            describe(&task)
        );
        Ok(task)
    }

    /// The attempts of a task, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn attempts(&self, task_id: &str) -> anyhow::Result<Vec<AttemptSummary>> {
        Ok(view::attempts(&self.database.db, task_id).await?)
    }

    /// The life of a task.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn timeline(&self, task_id: &str) -> anyhow::Result<Vec<Moment>> {
        Ok(timeline::timeline(&self.database.db, task_id).await?)
    }

    /// The stored log lines of a task.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn logs(&self, task_id: &str) -> anyhow::Result<Vec<LogLine>> {
        Ok(view::logs(&self.database.db, task_id, LOG_LINES_MAX).await?)
    }

    /// Every agent.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn agents(&self) -> anyhow::Result<Vec<AgentSummary>> {
        Ok(view::agents(&self.database.db, None).await?)
    }

    /// The letters that a filter picks, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn letters(&self, filter: &LetterFilter) -> anyhow::Result<Vec<Letter>> {
        Ok(browse::list(&self.database.db, filter).await?)
    }

    /// Every letter of a task, resolved or not, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn letters_of(&self, task_id: &str) -> anyhow::Result<Vec<Letter>> {
        let task_id = Some(task_id.to_owned());
        self.letters(&LetterFilter { resolved: None, task_id, ..LetterFilter::default() }).await
    }

    /// Waits until one letter that `wanted` picks is complete and its log line is written.
    ///
    /// # Errors
    /// When it does not come in time, or there are several.
    pub async fn until_letter(&self, what: &str, wanted: impl Fn(&Letter) -> bool) -> anyhow::Result<Letter> {
        let any =
            LetterFilter { resolved: None, count_max: browse::LIST_MAX_COUNT, ..LetterFilter::default() };
        let found = until(
            format!("a dead letter: {what} (logs in {})", self.folder.display()),
            MOVE_WITHIN,
            async || {
                let letters = self.letters(&any).await?;
                let found: Vec<Letter> = letters.iter().filter(|letter| wanted(letter)).cloned().collect();
                let complete = !found.is_empty() && found.iter().all(|letter| letter.logged_at.is_some());
                Ok(Look::of(complete.then_some(found), || list(&letters)))
            },
        )
        .await?;
        match <[Letter; 1]>::try_from(found) {
            Ok([letter]) => Ok(letter),
            Err(several) => {
                bail!("there should be one dead letter ({what}) but there are {}", list(&several))
            }
        }
    }

    /// Waits for the one letter of a task.
    ///
    /// # Errors
    /// As [`until_letter`](Self::until_letter).
    pub async fn until_letter_of(&self, task_id: &str) -> anyhow::Result<Letter> {
        self.until_letter(&format!("of task {task_id}"), |letter| letter.task_id.as_deref() == Some(task_id))
            .await
    }

    /// The artifacts that an attempt left, by name, checked against their manifest.
    ///
    /// # Errors
    /// When there are none, they do not match, or the database fails.
    pub async fn artifacts(&self, task_id: &str, attempt: i32) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
        let connection = self.database.db.connection().await?;
        let sql = "SELECT manifest FROM artifacts WHERE task_id = $1 AND attempt = $2";
        let row = connection.query_opt(sql, &[&task_id, &attempt]).await?;
        let row = row.with_context(|| format!("attempt {attempt} of {task_id} has left no artifacts"))?;
        let manifest: Manifest = serde_json::from_value(row.get("manifest"))?;
        let sql = "SELECT name, part, bytes FROM artifact_parts WHERE task_id = $1 AND attempt = $2 ORDER BY name, part";
        let mut parts = BTreeMap::new();
        for row in connection.query(sql, &[&task_id, &attempt]).await? {
            let part = u32::try_from(row.get::<_, i32>("part"))?;
            parts.insert((row.get("name"), part), row.get("bytes"));
        }
        Ok(manifest.assemble(&parts)?)
    }

    /// The database's clock, which every stored time is by.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn now(&self) -> anyhow::Result<DateTime<Utc>> {
        Ok(self.database.db.connection().await?.query_one("SELECT now()", &[]).await?.get(0))
    }

    /// One number, for invariants that tests state in SQL.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn count(&self, sql: &str) -> anyhow::Result<i64> {
        Ok(self.database.db.connection().await?.query_one(sql, &[]).await?.get(0))
    }
}

/// How a task is, in one line.
pub(super) fn describe(task: &TaskSummary) -> String {
    let mut text = format!("{} at step {}, attempt {}", task.status, task.step, task.attempts);
    if !task.status.is_terminal() {
        text.push_str(&format!(", waits for {}", task.waiting_for));
    }
    if let Some(message) = &task.failure_message {
        text.push_str(&format!("; last failure: {message}"));
    }
    text
}

fn list(letters: &[Letter]) -> String {
    let one = |letter: &Letter| {
        format!(
            "\n  #{} {} {}: {}{}",
            letter.letter_id,
            letter.letter_key,
            letter.failure_kind.as_deref().unwrap_or("(no failure yet)"),
            letter.failure_message.as_deref().unwrap_or_default(),
            if letter.logged_at.is_some() { "" } else { " (not logged yet)" },
        )
    };
    format!("{} letters{}", letters.len(), letters.iter().map(one).collect::<String>())
}
