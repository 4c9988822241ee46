//! Fills a stage's database with tasks that are there already: copies of one that Switchyard itself has made, so that every column and
//! constraint is as in real life.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use tokio_postgres::Client;

/// What is in the tables before a measurement, in tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fill {
    /// Pending, for a handler that no agent has: they stay, whatever else runs.
    pub waiting: u32,
    /// Blocked behind an earlier exclusive task, of [`BLOCKED_WORKSPACES`] workspaces that are paused.
    pub blocked: u32,
    /// Succeeded, with their attempts and events.
    pub finished: u32,
}

/// Workspaces that blocked tasks are spread over.
const BLOCKED_WORKSPACES: u32 = 100;
/// A handler that no agent has.
const NOBODYS_HANDLER: &str = "'nobodys'";

/// Ids of copies begin with this letter; those that Switchyard draws begin with a digit.
pub const ID_PREFIX: &str = "fill-";

type Columns = BTreeMap<&'static str, String>;

/// Fills the database. At least one task of a non-exclusive kind must have succeeded, and every program must have ended: what they have
/// left behind is deleted.
///
/// # Errors
/// When the schema refuses a copy.
pub async fn fill(database: &Client, fill: Fill) -> anyhow::Result<()> {
    finished(database, fill.finished).await?;
    waiting(database, fill.waiting).await?;
    blocked(database, fill.blocked).await?;
    let own = format!(
        "DELETE FROM tasks WHERE task_id NOT LIKE '{ID_PREFIX}%'; DELETE FROM events WHERE event_id NOT LIKE '{ID_PREFIX}%'; \
         DELETE FROM notifications; DELETE FROM agents; DELETE FROM agent_sessions; DELETE FROM replicas"
    );
    database.batch_execute(&own).await?;
    // Not where nothing was filled in: the database would take tables for empty that it knows nothing of in a new installation.
    if fill != Fill::default() {
        database.batch_execute("VACUUM ANALYZE").await?;
    }
    Ok(())
}

async fn finished(database: &Client, count: u32) -> anyhow::Result<()> {
    let id = format!("'{ID_PREFIX}finished-' || n");
    copy(database, "events", Columns::from([("event_id", id.clone())]), count).await?;
    copy(database, "tasks", task(&id), count).await?;
    let attempt = Columns::from([
        ("task_id", id),
        ("lease_token", "gen_random_uuid()".to_owned()),
        ("ended_at", "coalesce(ended_at, now())".to_owned()),
    ]);
    copy(database, "attempts", attempt, count).await
}

async fn waiting(database: &Client, count: u32) -> anyhow::Result<()> {
    let mut columns = open(&format!("'{ID_PREFIX}waiting-' || n"), "'pending'");
    columns.insert("handler", NOBODYS_HANDLER.to_owned());
    copy(database, "tasks", columns, count).await
}

async fn blocked(database: &Client, count: u32) -> anyhow::Result<()> {
    if count == 0 {
        return Ok(());
    }
    let workspace = format!("'{ID_PREFIX}' || (n % {BLOCKED_WORKSPACES})");
    let paused = Columns::from([
        ("workspace_id", workspace.clone()),
        ("next_position", "1000000000".to_owned()),
        ("paused_at", "now()".to_owned()),
        ("paused_by", "'bench'".to_owned()),
        ("paused_why", "'they wait while others are measured'".to_owned()),
    ]);
    copy(database, "workspaces", paused, BLOCKED_WORKSPACES).await?;
    let of = |kind: &str, status: &str| {
        let mut columns = open(&format!("'{ID_PREFIX}{kind}-' || n"), status);
        columns.insert("workspace_id", workspace.clone());
        columns.insert("exclusive", "true".to_owned());
        columns.insert("workspace_paused", "true".to_owned());
        columns
    };
    // The first of each workspace could run, were it not paused; all others are behind it.
    let mut heads = of("head", "'pending'");
    heads.insert("position", "1".to_owned());
    copy(database, "tasks", heads, BLOCKED_WORKSPACES).await?;
    let mut behind = of("blocked", "'blocked'");
    behind.insert("position", "n + 1".to_owned());
    copy(database, "tasks", behind, count).await
}

/// A copy of a task under its own id, from its own event.
fn task(id: &str) -> Columns {
    Columns::from([
        ("task_id", id.to_owned()),
        ("event_id", id.to_owned()),
        ("created_at", "now()".to_owned()),
    ])
}

/// A copy that has not begun.
fn open(id: &str, status: &str) -> Columns {
    let mut columns = task(id);
    columns.insert("status", status.to_owned());
    columns.insert("since", "now()".to_owned());
    columns.insert("version", "1".to_owned());
    for unset in ["finished_at", "queue_until", "artifact_attempt", "artifact_digest"] {
        columns.insert(unset, "NULL".to_owned());
    }
    for none in ["attempts", "charge", "losses", "step"] {
        columns.insert(none, "0".to_owned());
    }
    columns
}

/// Copies one row `count` times, with some columns replaced.
async fn copy(database: &Client, table: &str, replaced: Columns, count: u32) -> anyhow::Result<()> {
    if count == 0 {
        return Ok(());
    }
    const COLUMNS: &str = "SELECT attname::text FROM pg_attribute \
        WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped AND attidentity <> 'a' ORDER BY attnum";
    let columns = database.query(COLUMNS, &[&table]).await?;
    let columns: Vec<String> = columns.iter().map(|row| row.get(0)).collect();
    let value = |column: &String| replaced.get(column.as_str()).cloned().unwrap_or_else(|| column.clone());
    let values: Vec<String> = columns.iter().map(value).collect();
    if let Some(unknown) = replaced.keys().find(|key| !columns.iter().any(|column| column == *key)) {
        anyhow::bail!("{table} has no column {unknown}");
    }
    let like = if table == "tasks" { "WHERE status = 'succeeded'" } else { "" };
    let copies = format!(
        "INSERT INTO {table} ({}) SELECT {} FROM (SELECT * FROM {table} {like} LIMIT 1) one, generate_series(1, {count}) n",
        columns.join(", "),
        values.join(", ")
    );
    let copied = database.execute(&copies, &[]).await.with_context(|| format!("filling {table}"))?;
    ensure!(copied == u64::from(count), "{copied} of {count} rows were copied into {table}");
    Ok(())
}
