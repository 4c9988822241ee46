//! Rows to tasks and attempts.

use chrono::{DateTime, Utc};
use switchyard_common::contract::ids::{
    AgentId, AgentRef, Digest, KindName, LeaseToken, Nonce, PoolId, SessionId, TaskId, WorkspaceId,
};
use switchyard_common::failure::FailureKind;
use switchyard_common::task::{
    Approval, Assignee, Attempt, AttemptEnd, AttemptOutcome, CancelRequest, LatestArtifact, Revoke,
    RevokeReason, Status, Task,
};
use tokio_postgres::Row;
use uuid::Uuid;

use super::error::StoreError;
use super::route::Said;
use super::steps::StepsCache;

/// What [`task`] reads, from `tasks t`.
pub(crate) const TASK_COLUMNS: &str = "t.task_id, t.workspace_id, t.pool_id, t.kind, t.exclusive, t.steps::text AS steps, t.step, \
    t.status, t.holds, t.position, t.run_after, t.deadline, t.since, t.attempts, t.charge, t.losses, t.step_started, t.agent_id, \
    t.pod_name, t.session, t.lease_token, t.approved_step, t.approved_digest, t.approved_by, t.approved_at, t.auto_approve, \
    t.artifact_attempt, t.artifact_digest, t.cancel_requested_at, t.cancel_requested_by, t.cancel_force, t.failure_kind, \
    t.failure_message, t.finished_at, t.version";

/// What [`attempt`] reads, from `attempts a`.
pub(crate) const ATTEMPT_COLUMNS: &str = "a.task_id, a.attempt, a.step AS attempt_step, a.repeatable, a.pool_id, a.agent_id, \
    a.pod_name, a.session, a.lease_token, a.publish_no, a.confirmed_at, a.assigned_at, a.started_at, a.nonce, \
    a.revoke_requested_at, a.revoke_reason, a.revoke_force, a.outcome, a.ended_at";

/// Reads a stored value that has a checked type; the error names the column.
pub(crate) fn parsed<T, E: std::fmt::Display>(column: &str, result: Result<T, E>) -> Result<T, StoreError> {
    result.map_err(|error| StoreError::Unreadable(format!("{column}: {error}")))
}

fn known<T>(column: &str, text: &str, value: Option<T>) -> Result<T, StoreError> {
    value.ok_or_else(|| StoreError::Unreadable(format!("{column}: {text:?} is not known")))
}

/// A count that the schema keeps at or above zero.
pub(crate) fn count(column: &str, value: i32) -> Result<u32, StoreError> {
    parsed(column, u32::try_from(value))
}

/// Reads a task; the error names it, since somebody must look at its row.
pub(crate) fn task(row: &Row, steps: &StepsCache) -> Result<Task, StoreError> {
    read_task(row, steps).map_err(|error| named(error, &format!("task {}", row.get::<_, &str>("task_id"))))
}

/// Reads an attempt; the error names it, as [`task`] does.
pub(crate) fn named_attempt(row: &Row) -> Result<Attempt, StoreError> {
    let name = || format!("attempt {}#{}", row.get::<_, &str>("task_id"), row.get::<_, i32>("attempt"));
    attempt(row).map_err(|error| named(error, &name()))
}

fn named(error: StoreError, row: &str) -> StoreError {
    if let StoreError::Unreadable(why) = error {
        StoreError::Unreadable(format!("{row}: {why}"))
    } else {
        error
    }
}

fn read_task(row: &Row, steps: &StepsCache) -> Result<Task, StoreError> {
    let pool: PoolId = parsed("pool_id", row.get::<_, &str>("pool_id").parse())?;
    let status: &str = row.get("status");
    let failure_kind: Option<&str> = row.get("failure_kind");
    let failure_message: Option<String> = row.get("failure_message");
    Ok(Task {
        id: parsed("task_id", row.get::<_, &str>("task_id").parse::<TaskId>())?,
        workspace: parsed("workspace_id", row.get::<_, &str>("workspace_id").parse::<WorkspaceId>())?,
        kind: parsed("kind", row.get::<_, &str>("kind").parse::<KindName>())?,
        exclusive: row.get("exclusive"),
        steps: steps.read(row.get("steps"))?,
        step: parsed("step", usize::try_from(row.get::<_, i16>("step")))?,
        status: known("status", status, Status::parse(status))?,
        holds: row.get("holds"),
        position: row.get("position"),
        run_after: row.get("run_after"),
        deadline: row.get("deadline"),
        since: row.get("since"),
        attempts: count("attempts", row.get("attempts"))?,
        charge: count("charge", row.get("charge"))?,
        losses: count("losses", row.get("losses"))?,
        step_started: row.get("step_started"),
        assignee: assignee(row, &pool)?,
        approval: approval(row)?,
        auto_approve: row.get("auto_approve"),
        artifact: artifact(row)?,
        cancel: cancel(row),
        failure: match failure_kind {
            Some(text) => Some((
                known("failure_kind", text, FailureKind::parse(text))?,
                failure_message.unwrap_or_default(),
            )),
            None => None,
        },
        finished_at: row.get("finished_at"),
        version: row.get("version"),
        pool,
    })
}

/// What the assignment of a task says beyond its state, from a row of `tasks_to_assign`; none where that is large.
pub(super) fn said(row: &Row) -> Result<(TaskId, Option<Said>), StoreError> {
    let task_id = parsed("task_id", row.get::<_, &str>("task_id").parse())?;
    let said = |payload| Said { payload, traceparent: row.get("traceparent"), epoch: row.get("epoch") };
    Ok((task_id, row.get::<_, Option<serde_json::Value>>("payload").map(said)))
}

fn assignee(row: &Row, pool: &PoolId) -> Result<Option<Assignee>, StoreError> {
    let (Some(agent), Some(pod), Some(session), Some(lease)) = (
        row.get::<_, Option<&str>>("agent_id"),
        row.get::<_, Option<String>>("pod_name"),
        row.get::<_, Option<Uuid>>("session"),
        row.get::<_, Option<Uuid>>("lease_token"),
    ) else {
        return Ok(None);
    };
    Ok(Some(Assignee {
        agent: AgentRef { pool: pool.clone(), agent: parsed("agent_id", agent.parse::<AgentId>())? },
        pod,
        session: SessionId(session),
        lease: LeaseToken(lease),
    }))
}

fn approval(row: &Row) -> Result<Option<Approval>, StoreError> {
    let (Some(step), Some(digest), Some(by), Some(at)) = (
        row.get::<_, Option<i16>>("approved_step"),
        row.get::<_, Option<&str>>("approved_digest"),
        row.get::<_, Option<String>>("approved_by"),
        row.get::<_, Option<DateTime<Utc>>>("approved_at"),
    ) else {
        return Ok(None);
    };
    Ok(Some(Approval {
        step: parsed("approved_step", usize::try_from(step))?,
        digest: parsed("approved_digest", digest.parse::<Digest>())?,
        by,
        at,
    }))
}

fn artifact(row: &Row) -> Result<Option<LatestArtifact>, StoreError> {
    let (Some(attempt), Some(digest)) =
        (row.get::<_, Option<i32>>("artifact_attempt"), row.get::<_, Option<&str>>("artifact_digest"))
    else {
        return Ok(None);
    };
    Ok(Some(LatestArtifact {
        attempt: count("artifact_attempt", attempt)?,
        digest: parsed("artifact_digest", digest.parse::<Digest>())?,
    }))
}

fn cancel(row: &Row) -> Option<CancelRequest> {
    Some(CancelRequest {
        at: row.get::<_, Option<DateTime<Utc>>>("cancel_requested_at")?,
        by: row.get::<_, Option<String>>("cancel_requested_by")?,
        force: row.get::<_, Option<bool>>("cancel_force")?,
    })
}

pub(crate) fn attempt(row: &Row) -> Result<Attempt, StoreError> {
    let pool: PoolId = parsed("pool_id", row.get::<_, &str>("pool_id").parse())?;
    let agent: AgentId = parsed("agent_id", row.get::<_, &str>("agent_id").parse())?;
    Ok(Attempt {
        number: count("attempt", row.get("attempt"))?,
        step: parsed("attempts.step", usize::try_from(row.get::<_, i16>("attempt_step")))?,
        repeatable: row.get("repeatable"),
        assignee: Assignee {
            agent: AgentRef { pool, agent },
            pod: row.get("pod_name"),
            session: SessionId(row.get("session")),
            lease: LeaseToken(row.get("lease_token")),
        },
        publish_no: count("publish_no", row.get("publish_no"))?,
        confirmed: row.get::<_, Option<DateTime<Utc>>>("confirmed_at").is_some(),
        assigned_at: row.get("assigned_at"),
        started_at: row.get("started_at"),
        nonce: row.get::<_, Option<Uuid>>("nonce").map(Nonce),
        revoke: revoke(row)?,
        end: end(row)?,
    })
}

fn revoke(row: &Row) -> Result<Option<Revoke>, StoreError> {
    let (Some(at), Some(reason), Some(force)) = (
        row.get::<_, Option<DateTime<Utc>>>("revoke_requested_at"),
        row.get::<_, Option<&str>>("revoke_reason"),
        row.get::<_, Option<bool>>("revoke_force"),
    ) else {
        return Ok(None);
    };
    Ok(Some(Revoke { reason: known("revoke_reason", reason, RevokeReason::parse(reason))?, at, force }))
}

fn end(row: &Row) -> Result<Option<AttemptEnd>, StoreError> {
    let (Some(outcome), Some(at)) =
        (row.get::<_, Option<&str>>("outcome"), row.get::<_, Option<DateTime<Utc>>>("ended_at"))
    else {
        return Ok(None);
    };
    Ok(Some(AttemptEnd { outcome: known("outcome", outcome, AttemptOutcome::parse(outcome))?, at }))
}
