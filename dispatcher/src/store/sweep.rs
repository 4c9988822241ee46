//! What the sweeps look for, in bounded batches. Finding takes no lock: whatever is found is decided again under the locks of
//! [`apply_noted`], so that any number of replicas may sweep at the same time.

use std::time::Duration;

use switchyard_common::contract::ids::{AgentRef, LeaseToken, SessionId};
use switchyard_common::contract::report::Claim;
use switchyard_common::task::{Input, LossReason, RevokeReason};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::apply::{Applied, Applier, Named};
use super::db::Db;
use super::error::StoreError;
use super::notes::{self, Note};
use super::reports;
use super::rows::{count, parsed};

/// Tasks or attempts that one sweep takes at a time.
pub const BATCH_MAX_COUNT: i64 = 200;

/// Applies inputs with the notes of what they changed, in one transaction. Gives the restore epoch as well.
pub(crate) async fn apply_noted(
    db: &Db,
    inputs: &[Named],
    note: impl Fn(&Applied) -> Option<Note> + Send + Sync,
) -> Result<(Vec<Applied>, i64), StoreError> {
    let note = &note;
    db.transaction(|transaction| async move {
        let mut applier = Applier::load(db, &transaction, inputs).await?;
        let applied: Vec<Applied> = inputs.iter().map(|named| applier.decide(named)).collect();
        applier.finish().await?;
        let noted: Vec<Note> = applied.iter().filter_map(note).collect();
        notes::record(&transaction, &noted).await?;
        let epoch = reports::epoch(&transaction).await?;
        Ok((applied, epoch))
    })
    .await
}

async fn find(
    db: &Db,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
    input: impl Fn(&Row) -> Result<Input, StoreError>,
) -> Result<Vec<Named>, StoreError> {
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(sql).await?;
    let rows = connection.query(&statement, parameters).await?;
    let named = |row: &Row| {
        Ok(Named {
            task_id: parsed("task_id", row.get::<_, &str>("task_id").parse())?,
            attempt: None,
            input: input(row)?,
        })
    };
    rows.iter().map(named).collect()
}

/// Tasks whose time has come: `not_before`, or the wait before a retry.
pub(crate) async fn due(db: &Db) -> Result<Vec<Named>, StoreError> {
    const SQL: &str = "SELECT task_id FROM tasks WHERE status = 'pending' AND run_after <= now() ORDER BY run_after LIMIT $1";
    find(db, SQL, &[&BATCH_MAX_COUNT], |_| Ok(Input::Due { place: None })).await
}

/// Tasks whose deadline has passed, and whose agent has not been told yet.
pub(crate) async fn deadlines(db: &Db) -> Result<Vec<Named>, StoreError> {
    const SQL: &str = "SELECT t.task_id FROM tasks t \
        LEFT JOIN attempts a ON a.task_id = t.task_id AND a.outcome IS NULL \
        WHERE t.deadline <= now() AND t.finished_at IS NULL AND t.status <> 'uncertain' \
            AND (a.task_id IS NULL OR NOT coalesce(a.revoke_force, false)) ORDER BY t.deadline LIMIT $1";
    find(db, SQL, &[&BATCH_MAX_COUNT], |_| Ok(Input::DeadlinePassed)).await
}

/// Steps that waited too long for an agent.
pub(crate) async fn queue_timeouts(db: &Db) -> Result<Vec<Named>, StoreError> {
    const SQL: &str = "SELECT task_id FROM tasks WHERE status = 'pending' AND queue_until <= now() ORDER BY queue_until LIMIT $1";
    find(db, SQL, &[&BATCH_MAX_COUNT], |_| Ok(Input::QueueTimeout)).await
}

/// Steps that waited too long for an approval.
pub(crate) async fn approval_timeouts(db: &Db) -> Result<Vec<Named>, StoreError> {
    const SQL: &str = "SELECT task_id FROM tasks WHERE status = 'awaiting_approval' AND approve_until <= now() ORDER BY approve_until LIMIT $1";
    find(db, SQL, &[&BATCH_MAX_COUNT], |_| Ok(Input::ApprovalExpired)).await
}

/// Attempts that run past their run timeout and `grace`: their agent should have stopped them.
pub(crate) async fn run_timeouts(db: &Db, grace: Duration) -> Result<Vec<Named>, StoreError> {
    const SQL: &str = "SELECT a.task_id FROM attempts a JOIN tasks t ON t.task_id = a.task_id AND t.status = 'running' \
        WHERE a.ended_at IS NULL AND a.started_at IS NOT NULL AND NOT coalesce(a.revoke_force, false) \
            AND a.started_at < now() - $2 * interval '1 second' \
            AND a.started_at + a.run_timeout_ms * interval '1 millisecond' < now() - $2 * interval '1 second' \
        ORDER BY a.started_at LIMIT $1";
    let reason = RevokeReason::RunTimeout;
    find(db, SQL, &[&BATCH_MAX_COUNT, &grace.as_secs_f64()], |_| Ok(Input::Revoke { reason })).await
}

/// Attempts that were not started in time (incident 67).
pub(crate) async fn start_timeouts(db: &Db) -> Result<Vec<Named>, StoreError> {
    const SQL: &str = "SELECT task_id FROM attempts \
        WHERE ended_at IS NULL AND started_at IS NULL AND start_by <= now() AND revoke_requested_at IS NULL \
        ORDER BY start_by LIMIT $1";
    let reason = RevokeReason::StartTimeout;
    find(db, SQL, &[&BATCH_MAX_COUNT], |_| Ok(Input::Revoke { reason })).await
}

/// Attempts that two heartbeats sent after their confirmation did not list (protocol C2).
pub(crate) async fn unlisted(db: &Db) -> Result<Vec<Named>, StoreError> {
    const SQL: &str = "SELECT a.task_id FROM attempts a JOIN tasks t ON t.task_id = a.task_id \
        WHERE a.ended_at IS NULL AND a.unlisted >= 2 AND t.status IN ('assigned', 'running') \
            AND (a.revoke_requested_at IS NULL OR (t.status = 'running' AND NOT a.repeatable)) \
        ORDER BY a.task_id LIMIT $1";
    find(db, SQL, &[&BATCH_MAX_COUNT], |_| Ok(Input::NotListed)).await
}

/// Open attempts whose session is not current: whatever ended it, their agent will not report for them any more (incident 42).
pub(crate) async fn of_ended_sessions(db: &Db) -> Result<Vec<Named>, StoreError> {
    // First what has no current session, which is next to nothing: joined with tasks first, it would read all that ever ended.
    const SQL: &str = "WITH left_over AS MATERIALIZED (SELECT a.task_id, a.session FROM attempts a WHERE a.ended_at IS NULL \
            AND NOT EXISTS (SELECT 1 FROM agent_sessions c WHERE c.session = a.session AND c.ended_at IS NULL)) \
        SELECT l.task_id, l.session, s.end_reason FROM left_over l \
        JOIN tasks t ON t.task_id = l.task_id AND t.status IN ('assigned', 'running') \
        LEFT JOIN agent_sessions s ON s.session = l.session ORDER BY l.task_id LIMIT $1";
    find(db, SQL, &[&BATCH_MAX_COUNT], |row| {
        let reason = loss_reason(row.get("end_reason"));
        Ok(Input::SessionEnded { session: SessionId(row.get("session")), reason })
    })
    .await
}

/// A session without a row was never seen, so another one has the agent.
fn loss_reason(end_reason: Option<&str>) -> LossReason {
    [LossReason::Silent, LossReason::PoolRevoked, LossReason::Fenced]
        .into_iter()
        .find(|reason| Some(reason.as_str()) == end_reason)
        .unwrap_or(LossReason::Superseded)
}

/// The first waiter of every workspace that has waiters but nobody ahead of them: promotion should have found it (incident 6).
pub(crate) async fn waiters_without_head(db: &Db) -> Result<Vec<Named>, StoreError> {
    // Jumps from workspace to workspace in the index of waiters, however many wait in each.
    const SQL: &str = "WITH RECURSIVE w(workspace_id) AS ( \
            (SELECT workspace_id FROM tasks WHERE status = 'blocked' ORDER BY workspace_id LIMIT 1) \
            UNION ALL \
            SELECT (SELECT b.workspace_id FROM tasks b WHERE b.status = 'blocked' AND b.workspace_id > w.workspace_id \
                ORDER BY b.workspace_id LIMIT 1) FROM w WHERE w.workspace_id IS NOT NULL) \
        SELECT f.task_id FROM w CROSS JOIN LATERAL (SELECT b.task_id FROM tasks b \
            WHERE b.workspace_id = w.workspace_id AND b.status = 'blocked' ORDER BY b.position LIMIT 1) f \
        WHERE NOT EXISTS (SELECT 1 FROM tasks h WHERE h.workspace_id = w.workspace_id AND h.exclusive AND h.position IS NOT NULL \
            AND h.status NOT IN ('blocked', 'succeeded', 'failed', 'cancelled')) LIMIT $1";
    find(db, SQL, &[&BATCH_MAX_COUNT], |_| Ok(Input::Promote)).await
}

/// Sets the pause flag of waiting tasks to that of their workspace, where they differ.
pub(crate) async fn align_pauses(db: &Db) -> Result<u64, StoreError> {
    const SQL: &str = "UPDATE tasks t SET workspace_paused = NOT t.workspace_paused FROM ( \
            SELECT x.task_id FROM tasks x WHERE x.task_id IN ( \
                (SELECT p.task_id FROM workspaces w JOIN tasks p ON p.workspace_id = w.workspace_id AND p.finished_at IS NULL \
                    WHERE w.paused_at IS NOT NULL AND NOT p.workspace_paused LIMIT $1) \
                UNION ALL \
                (SELECT p.task_id FROM tasks p JOIN workspaces w ON w.workspace_id = p.workspace_id AND w.paused_at IS NULL \
                    WHERE p.workspace_paused AND p.finished_at IS NULL LIMIT $1)) \
            ORDER BY x.task_id FOR NO KEY UPDATE OF x) c \
        WHERE t.task_id = c.task_id";
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(SQL).await?;
    Ok(connection.execute(&statement, &[&BATCH_MAX_COUNT]).await?)
}

/// A request to stop an attempt that is to be sent now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopRequest {
    /// The agent.
    pub to: AgentRef,
    /// The attempt, with its secret.
    pub claim: Claim,
    /// Why.
    pub reason: RevokeReason,
    /// Even a non-repeatable step that runs.
    pub force: bool,
    /// How often it was sent, this time included.
    pub sends: u32,
    /// The restore epoch.
    pub epoch: i64,
}

/// Wait before a stop request is sent for the second time, in seconds; doubles each time.
const STOP_REPEAT_INITIAL_SECONDS: f64 = 0.25;
/// Longest wait between two sends of a stop request, in seconds.
const STOP_REPEAT_MAX_SECONDS: f64 = 30.0;

/// Claims the stop requests that are due for another send, each for one replica (protocol B4).
pub(crate) async fn claim_stops(db: &Db) -> Result<Vec<StopRequest>, StoreError> {
    const SQL: &str = "UPDATE attempts a SET revoke_sent_at = now(), revoke_sends = a.revoke_sends + 1 FROM ( \
            SELECT x.task_id, x.attempt FROM attempts x JOIN tasks t ON t.task_id = x.task_id AND t.status IN ('assigned', 'running') \
            WHERE x.ended_at IS NULL AND x.revoke_requested_at IS NOT NULL \
                AND (x.revoke_sent_at IS NULL OR x.revoke_sent_at < now() - \
                    least($2 * power(2, least(x.revoke_sends - 1, 20)), $3) * interval '1 second') \
            ORDER BY x.revoke_sent_at NULLS FIRST LIMIT $1 FOR NO KEY UPDATE OF x SKIP LOCKED) c \
        WHERE a.task_id = c.task_id AND a.attempt = c.attempt \
        RETURNING a.task_id, a.attempt, a.session, a.lease_token, a.pool_id, a.agent_id, a.revoke_reason, a.revoke_force, \
            a.revoke_sends, (SELECT epoch FROM fence) AS epoch";
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(SQL).await?;
    let rows = connection
        .query(&statement, &[&BATCH_MAX_COUNT, &STOP_REPEAT_INITIAL_SECONDS, &STOP_REPEAT_MAX_SECONDS])
        .await?;
    Ok(rows.iter().filter_map(readable_stop_request).collect())
}

/// One that cannot be read, such as for a reason that a newer replica has stored, must not keep the others from being sent. It stays due,
/// for a replica that can read it.
fn readable_stop_request(row: &Row) -> Option<StopRequest> {
    stop_request(row)
        .inspect_err(|error| {
            let (task_id, attempt): (&str, i32) = (row.get("task_id"), row.get("attempt"));
            tracing::error!(task_id, attempt, %error, "a request to stop cannot be read; it is tried again later");
            metrics::counter!("switchyard_unreadable_rows_total", "part" => "stops").increment(1);
        })
        .ok()
}

fn stop_request(row: &Row) -> Result<StopRequest, StoreError> {
    let reason: &str = row.get("revoke_reason");
    Ok(StopRequest {
        to: AgentRef {
            pool: parsed("pool_id", row.get::<_, &str>("pool_id").parse())?,
            agent: parsed("agent_id", row.get::<_, &str>("agent_id").parse())?,
        },
        claim: Claim {
            task_id: parsed("task_id", row.get::<_, &str>("task_id").parse())?,
            attempt: count("attempt", row.get("attempt"))?,
            session: SessionId(row.get("session")),
            lease: LeaseToken(row.get("lease_token")),
        },
        reason: RevokeReason::parse(reason)
            .ok_or_else(|| StoreError::Unreadable(format!("revoke_reason: {reason:?} is not known")))?,
        force: row.get("revoke_force"),
        sends: count("revoke_sends", row.get("revoke_sends"))?,
        epoch: row.get("epoch"),
    })
}

/// What is noted of a stop request that its agent does not answer (incident 37).
pub const UNANSWERED_NOTE: &str = "stop not answered";

/// Notes, in one statement, the stop requests that went unanswered for long.
pub(crate) async fn note_unanswered(db: &Db, stops: &[&StopRequest]) -> Result<(), StoreError> {
    let notes: Vec<Note> = stops
        .iter()
        .map(|stop| Note {
            task_id: stop.claim.task_id.clone(),
            attempt: Some(stop.claim.attempt),
            what: UNANSWERED_NOTE,
            detail: serde_json::json!({
                "agent": stop.to.to_string(), "reason": stop.reason.as_str(), "sends": stop.sends,
            }),
        })
        .collect();
    let notes = notes.as_slice();
    db.transaction(|transaction| async move { notes::record(&transaction, notes).await }).await
}
