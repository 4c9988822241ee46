//! What is known of tasks that did not get where a test waited for them: a failure on a machine that is gone must explain itself.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use switchyard_common::task::Status;

use super::look::describe;
use super::world::Scenario;

/// Most tasks that are told of.
const TASKS_MAX_COUNT: usize = 3;
/// Most log lines of one task and file that are told: the newest.
const LINES_MAX_COUNT: usize = 25;

impl Scenario {
    /// Tells of the tasks that have not succeeded: how each is, its life, and what every process logged about it.
    pub(super) async fn tell_of_unfinished(&self) -> String {
        self.unfinished()
            .await
            .unwrap_or_else(|error| format!("what is unfinished cannot be read: {error:#}"))
    }

    async fn unfinished(&self) -> anyhow::Result<String> {
        let mut tasks = self.tasks().await?;
        tasks.retain(|task| task.status != Status::Succeeded);
        let mut text = format!("{} tasks have not succeeded", tasks.len());
        for task in tasks.iter().take(TASKS_MAX_COUNT) {
            write!(text, "\n{} of {}: {}", task.task_id, task.workspace_id, describe(task))?;
            for moment in self.timeline(&task.task_id).await? {
                write!(
                    text,
                    "\n  {} {} {} {}",
                    moment.at,
                    moment.what,
                    moment.attempt.map(|attempt| format!("#{attempt}")).unwrap_or_default(),
                    moment.detail
                )?;
            }
            text.push_str(&lines_about(&self.folder, &task.task_id)?);
        }
        Ok(text)
    }
}

/// The newest lines that name the task, of every log in the folder.
fn lines_about(folder: &Path, task_id: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let log = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(task_id)).collect();
        let newest = lines.get(lines.len().saturating_sub(LINES_MAX_COUNT)..).unwrap_or_default();
        if !newest.is_empty() {
            write!(text, "\n  {}:\n    {}", path.display(), newest.join("\n    "))?;
        }
    }
    Ok(text)
}
