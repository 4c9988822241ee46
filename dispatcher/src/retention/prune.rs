//! One round: a bounded look at everything that may be old.

use super::policy::RetentionPolicy;
use crate::store::prune::{
    Cursor, Old, Walk, delete_audit, delete_events, delete_letters, delete_logs, delete_parts,
    delete_replicas, delete_sessions, delete_tasks, old,
};
use crate::store::{Db, StoreError, trials};

/// Rows that one round looks at in each walk.
const WINDOW_MAX_COUNT: usize = 200;
/// Log lines that one statement deletes.
const LOGS_MAX_COUNT: i64 = 5_000;
/// Parts of artifacts, of up to 512 KiB each, that one statement deletes.
const PARTS_MAX_COUNT: i64 = 100;
/// Rows of the audit log, of replicas, or of trials of events that one statement deletes.
const ROWS_MAX_COUNT: i64 = 1_000;

/// Rows that one round has deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PruneReport {
    /// Finished tasks.
    pub tasks: u64,
    /// Log lines.
    pub logs: u64,
    /// Resolved letters.
    pub letters: u64,
    /// Ids of events.
    pub events: u64,
    /// Ended sessions.
    pub sessions: u64,
    /// Rows of the audit log.
    pub audit: u64,
    /// Rows of replicas.
    pub replicas: u64,
    /// Trials of events.
    pub trials: u64,
    /// A walk has not come to its end yet.
    pub more: bool,
}

/// Prunes round by round. Several replicas may prune at the same time: they skip each other's rows.
pub struct Pruner {
    db: Db,
    policy: RetentionPolicy,
    tasks: Option<Cursor>,
    logs: Option<Cursor>,
    letters: Option<Cursor>,
    events: Option<Cursor>,
    sessions: Option<Cursor>,
}

impl Pruner {
    /// A pruner that begins with the oldest rows.
    #[must_use]
    pub fn new(db: Db, policy: RetentionPolicy) -> Self {
        Self { db, policy, tasks: None, logs: None, letters: None, events: None, sessions: None }
    }

    /// One round. Tasks first: what they hold can go after them.
    pub async fn run_once(&mut self) -> Result<PruneReport, StoreError> {
        let mut report = PruneReport::default();
        self.prune_logs(&mut report).await?;
        self.prune_tasks(&mut report).await?;
        self.prune_letters(&mut report).await?;
        self.prune_events(&mut report).await?;
        self.prune_sessions(&mut report).await?;
        report.audit = delete_audit(&self.db, self.policy.audit, ROWS_MAX_COUNT).await?;
        report.replicas = delete_replicas(&self.db, self.policy.replicas, ROWS_MAX_COUNT).await?;
        report.trials = trials::delete_old(&self.db, self.policy.events, ROWS_MAX_COUNT).await?;
        report.more |= [report.audit, report.trials].map(u64::cast_signed).contains(&ROWS_MAX_COUNT);
        Ok(report)
    }

    async fn window(&mut self, walk: Walk, report: &mut PruneReport) -> Result<Vec<Old>, StoreError> {
        let (age, cursor) = match walk {
            Walk::Tasks => (self.policy.tasks, &mut self.tasks),
            Walk::Letters => (self.policy.letters, &mut self.letters),
            Walk::Events => (self.policy.events, &mut self.events),
            Walk::Sessions => (self.policy.sessions, &mut self.sessions),
        };
        let window = old(&self.db, walk, age, cursor.as_ref(), WINDOW_MAX_COUNT).await?;
        advance(cursor, &window, report);
        Ok(window)
    }

    /// Logs that go before their task does.
    async fn prune_logs(&mut self, report: &mut PruneReport) -> Result<(), StoreError> {
        if self.policy.logs >= self.policy.tasks {
            return Ok(());
        }
        let window =
            old(&self.db, Walk::Tasks, self.policy.logs, self.logs.as_ref(), WINDOW_MAX_COUNT).await?;
        advance(&mut self.logs, &window, report);
        report.logs += self.delete_all_logs(&free(&window)).await?;
        Ok(())
    }

    /// What can be many rows goes in statements of its own, so that no single one is long.
    async fn prune_tasks(&mut self, report: &mut PruneReport) -> Result<(), StoreError> {
        let window = self.window(Walk::Tasks, report).await?;
        let ids = free(&window);
        if ids.is_empty() {
            return Ok(());
        }
        report.logs += self.delete_all_logs(&ids).await?;
        while delete_parts(&self.db, &ids, PARTS_MAX_COUNT).await?.cast_signed() == PARTS_MAX_COUNT {}
        report.tasks = delete_tasks(&self.db, &ids).await?;
        Ok(())
    }

    async fn delete_all_logs(&self, ids: &[&str]) -> Result<u64, StoreError> {
        let mut deleted = 0;
        while !ids.is_empty() {
            let count = delete_logs(&self.db, ids, LOGS_MAX_COUNT).await?;
            deleted += count;
            if count.cast_signed() < LOGS_MAX_COUNT {
                break;
            }
        }
        Ok(deleted)
    }

    async fn prune_letters(&mut self, report: &mut PruneReport) -> Result<(), StoreError> {
        let window = self.window(Walk::Letters, report).await?;
        report.letters = delete_letters(&self.db, &free(&window)).await?;
        Ok(())
    }

    async fn prune_events(&mut self, report: &mut PruneReport) -> Result<(), StoreError> {
        let window = self.window(Walk::Events, report).await?;
        let sources: Vec<&str> =
            window.iter().filter(|row| row.free).map(|row| row.key_rest.as_str()).collect();
        report.events = delete_events(&self.db, &free(&window), &sources).await?;
        Ok(())
    }

    async fn prune_sessions(&mut self, report: &mut PruneReport) -> Result<(), StoreError> {
        let window = self.window(Walk::Sessions, report).await?;
        report.sessions = delete_sessions(&self.db, &free(&window)).await?;
        Ok(())
    }
}

fn free(window: &[Old]) -> Vec<&str> {
    window.iter().filter(|row| row.free).map(|row| row.key.as_str()).collect()
}

/// On to the next window, or back to the oldest rows when this was the last one.
fn advance(cursor: &mut Option<Cursor>, window: &[Old], report: &mut PruneReport) {
    let full = window.len() == WINDOW_MAX_COUNT;
    report.more |= full;
    *cursor = window.last().filter(|_| full).map(Old::cursor);
}
