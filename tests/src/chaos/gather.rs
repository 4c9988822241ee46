//! Reads what is stored into plain evidence.

use std::collections::BTreeSet;

use anyhow::Context as _;
use chrono::Utc;
use serde_json::Value;
use switchyard_common::task::Status;
use switchyard_dispatcher::store::view::{self, TaskFilter};
use tokio_postgres::Row;

use super::evidence::{AttemptRow, Evidence, LetterRow, SilentRow, TaskRow};
use super::ledger;
use super::load::SOURCE;
use super::world::{Actor, World};

const NS_PER_MS: u64 = 1_000_000;

/// Columns of a dead letter that say where its failure happened. A letter that lacks one explains less than it should.
const CONTEXT: [&str; 12] = [
    "workspace_id",
    "pool_id",
    "kind",
    "step_name",
    "agent_id",
    "pod_name",
    "session",
    "failure_kind",
    "failure_message",
    "payload",
    "timeline",
    "logged_at",
];

impl World {
    /// Everything that is stored, and the ledger.
    ///
    /// # Errors
    /// When the database or the ledger cannot be read.
    pub async fn gather(&self) -> anyhow::Result<Evidence> {
        Ok(Evidence {
            runs: ledger::read(&self.ledger)?,
            tasks: self.task_rows().await?,
            attempts: self.attempt_rows().await?,
            letters: self.letter_rows().await?,
            events: self.stored_events().await?,
            silent: self.silent_rows().await?,
            lives: self.agents.iter().flat_map(Actor::lives).collect(),
            ..Evidence::default()
        })
    }

    async fn task_rows(&self) -> anyhow::Result<Vec<TaskRow>> {
        let filter = TaskFilter { limit: view::LIST_MAX_COUNT, ..TaskFilter::default() };
        let tasks = view::tasks(&self.scenario.database.db, &filter).await?;
        let row = |task: view::TaskSummary| TaskRow {
            task: task.task_id,
            status: task.status.as_str().to_owned(),
            terminal: Status::is_terminal(task.status),
            step: task.step,
            failure_kind: task.failure_kind.map(str::to_owned),
            waiting_for: task.waiting_for,
            cancel_requested: task.cancel_requested_by.is_some(),
        };
        Ok(tasks.into_iter().map(row).collect())
    }

    async fn attempt_rows(&self) -> anyhow::Result<Vec<AttemptRow>> {
        let sql = "SELECT a.task_id, a.attempt, a.step_name, a.session::text, a.repeatable, a.outcome, a.revoke_requested_at IS NOT NULL AS revoked, \
                coalesce(a.assigned_at > t.cancel_requested_at, false) AND a.revoke_requested_at IS NULL AS after_cancel \
            FROM attempts a JOIN tasks t ON t.task_id = a.task_id ORDER BY t.seq, a.attempt";
        let rows = self.scenario.database.db.connection().await?.query(sql, &[]).await?;
        rows.iter()
            .map(|row| {
                Ok(AttemptRow {
                    task: row.get("task_id"),
                    attempt: u64::try_from(row.get::<_, i32>("attempt"))?,
                    step: row.get("step_name"),
                    session: row.get("session"),
                    repeatable: row.get("repeatable"),
                    outcome: row.get("outcome"),
                    revoked: row.get("revoked"),
                    after_cancel: row.get("after_cancel"),
                })
            })
            .collect()
    }

    async fn silent_rows(&self) -> anyhow::Result<Vec<SilentRow>> {
        let sql = "SELECT session::text, agent_id, (extract(epoch FROM seen_at) * 1000)::bigint AS seen_ms, \
                (extract(epoch FROM ended_at) * 1000)::bigint AS at_ms \
            FROM agent_sessions WHERE end_reason = 'silent' ORDER BY ended_at";
        let rows = self.scenario.database.db.connection().await?.query(sql, &[]).await?;
        // The database has the clock of this machine.
        let (now_ms, now_ns) = (Utc::now().timestamp_millis(), ledger::boot_now_ns()?);
        let booted_at = |at_ms: i64| {
            let ago_ms = u64::try_from(now_ms - at_ms).unwrap_or(0);
            now_ns.saturating_sub(ago_ms * NS_PER_MS)
        };
        let row = |row: &Row| {
            let at_ms = row.get("at_ms");
            SilentRow {
                session: row.get("session"),
                agent: row.get("agent_id"),
                seen_ms: row.get("seen_ms"),
                at_ms,
                at_ns: booted_at(at_ms),
            }
        };
        Ok(rows.iter().map(row).collect())
    }

    async fn letter_rows(&self) -> anyhow::Result<Vec<LetterRow>> {
        let letters = self.table("dead_letters").await?;
        Ok(letters.iter().map(letter).collect())
    }

    async fn stored_events(&self) -> anyhow::Result<BTreeSet<String>> {
        let sql = format!("SELECT event_id FROM events WHERE source = '{SOURCE}'");
        Ok(self.texts(&sql).await?.into_iter().collect())
    }

    /// One column of text.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn texts(&self, sql: &str) -> anyhow::Result<Vec<String>> {
        let rows = self.scenario.database.db.connection().await?.query(sql, &[]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// A whole table, a JSON object per row.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn table(&self, name: &str) -> anyhow::Result<Vec<Value>> {
        let sql = format!("SELECT to_jsonb(x) FROM {name} x");
        let rows = self.scenario.database.db.connection().await?.query(&sql, &[]).await?;
        rows.iter().map(|row| row.try_get(0).context("a row")).collect()
    }
}

fn letter(row: &Value) -> LetterRow {
    let text = |name: &str| row[name].as_str().map(str::to_owned);
    let mut missing: Vec<String> =
        CONTEXT.iter().filter(|name| row[**name].is_null()).map(|name| (*name).to_owned()).collect();
    if row["broker_at"].is_null() && row["remark"].is_null() {
        missing.push("the broker's half, or a remark that it did not come".to_owned());
    }
    LetterRow {
        key: text("letter_key").unwrap_or_default(),
        task: text("task_id"),
        event_id: text("event_id").filter(|_| row["origin"] == "event"),
        failure_kind: text("failure_kind"),
        missing,
    }
}
