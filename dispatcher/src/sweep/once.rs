//! One run of each sweep.

use std::time::Duration;

use switchyard_common::task::{Refusal, Verdict};

use super::notes::note;
use crate::control::Orders;
use crate::pass::Wake;
use crate::settle;
use crate::store::sweep::{self as find, BATCH_MAX_COUNT, apply_noted};
use crate::store::{Applied, Db, Named, StoreError, presence};

/// Runs sweeps. Each method is one run over one batch; it gives the number of tasks that it changed.
#[derive(Clone)]
pub struct Sweeper {
    /// The store.
    pub db: Db,
    /// Asks for passes where room or work has come.
    pub wake: Wake,
    /// Orders to agents.
    pub orders: Orders,
    /// Time on top of a run timeout before the dispatcher has a handler stopped.
    pub run_timeout_grace: Duration,
}

impl Sweeper {
    /// Tasks whose time has come.
    pub async fn due(&self) -> Result<usize, StoreError> {
        self.apply("due", find::due(&self.db).await?).await
    }

    /// Tasks whose deadline has passed.
    pub async fn deadlines(&self) -> Result<usize, StoreError> {
        self.apply("deadlines", find::deadlines(&self.db).await?).await
    }

    /// Steps that waited too long for an agent, or for an approval.
    pub async fn waits(&self) -> Result<usize, StoreError> {
        let queued = self.apply("queue_timeouts", find::queue_timeouts(&self.db).await?).await?;
        Ok(queued + self.apply("approval_timeouts", find::approval_timeouts(&self.db).await?).await?)
    }

    /// Attempts that run too long, or did not start in time.
    pub async fn attempts(&self) -> Result<usize, StoreError> {
        let overrun = find::run_timeouts(&self.db, self.run_timeout_grace).await?;
        let overrun = self.apply("run_timeouts", overrun).await?;
        Ok(overrun + self.apply("start_timeouts", find::start_timeouts(&self.db).await?).await?)
    }

    /// Attempts that their agent does not have any more: sessions that have ended, and heartbeats that do not list them.
    pub async fn agents(&self) -> Result<usize, StoreError> {
        let revoked = presence::end_revoked(&self.db).await?;
        if revoked > 0 {
            tracing::warn!(sessions = revoked, "sessions of pools whose grant is revoked have ended");
        }
        let lost = self.apply("ended_sessions", find::of_ended_sessions(&self.db).await?).await?;
        Ok(lost + self.apply("unlisted", find::unlisted(&self.db).await?).await?)
    }

    /// Waiters that nobody promoted: a safety net, so each find is told (incident 6).
    pub async fn waiters(&self) -> Result<usize, StoreError> {
        let found = find::waiters_without_head(&self.db).await?;
        for named in &found {
            tracing::warn!(task_id = %named.task_id, "a waiter had nobody ahead of it and was not promoted; the sweep promotes it");
        }
        self.apply("waiters", found).await
    }

    /// Pause flags of tasks that differ from their workspace's.
    pub async fn pauses(&self) -> Result<usize, StoreError> {
        let aligned = find::align_pauses(&self.db).await?;
        Ok(usize::try_from(aligned).unwrap_or(usize::MAX))
    }

    /// Applies what was found, again from scratch under locks. A batch that the store refuses falls back to one transaction each.
    async fn apply(&self, sweep: &'static str, found: Vec<Named>) -> Result<usize, StoreError> {
        if found.is_empty() {
            return Ok(0);
        }
        let error = match self.apply_together(sweep, &found).await {
            Err(error) if !error.is_transient() => error,
            done => return done,
        };
        tracing::warn!(sweep, %error, tasks = found.len(), "a sweep's batch failed; each gets a transaction of its own");
        let mut changed = 0;
        for named in &found {
            match self.apply_together(sweep, std::slice::from_ref(named)).await {
                Ok(one) => changed += one,
                Err(error) => {
                    metrics::counter!("switchyard_sweep_failures_total", "sweep" => sweep).increment(1);
                    tracing::error!(sweep, task_id = %named.task_id, %error, "a sweep cannot change this task");
                }
            }
        }
        Ok(changed)
    }

    async fn apply_together(&self, sweep: &'static str, found: &[Named]) -> Result<usize, StoreError> {
        let (applied, epoch) = apply_noted(&self.db, found, note).await?;
        for one in &applied {
            narrate(sweep, one);
        }
        self.orders.carry_out(&applied, epoch);
        settle::wake(&self.wake, &applied);
        Ok(applied.iter().filter(|one| one.after().is_some()).count())
    }
}

/// Whether a run changed as much as it takes at a time: there may be more.
#[must_use]
pub fn is_full(changed: usize) -> bool {
    i64::try_from(changed).is_ok_and(|changed| changed >= BATCH_MAX_COUNT)
}

fn narrate(sweep: &'static str, applied: &Applied) {
    let task_id = &applied.named.task_id;
    match applied.decision.as_ref().map(|decision| &decision.verdict) {
        Some(Verdict::Changed(after)) => {
            metrics::counter!("switchyard_swept_total", "sweep" => sweep).increment(1);
            let (workspace_id, status) = (&after.task.workspace, after.task.status);
            let attempt = after.attempt.as_ref().map(|attempt| attempt.number);
            if sweep == "due" {
                tracing::debug!(sweep, %task_id, %workspace_id, attempt, %status, "task swept");
            } else {
                tracing::info!(sweep, %task_id, %workspace_id, attempt, %status, "task swept");
            }
        }
        // Another replica, or a report, was faster.
        Some(Verdict::Refused(Refusal::NotNow(_) | Refusal::Duplicate)) | Some(Verdict::Unchanged) | None => {
        }
        Some(Verdict::Refused(why)) => tracing::debug!(sweep, %task_id, %why, "nothing to sweep any more"),
    }
}
