//! Writing changed tasks and attempts: columns of state only (incident 48), one statement per table, fenced (incident 55).

use chrono::{DateTime, TimeDelta, Utc};
use std::collections::{BTreeMap, HashMap};

use switchyard_common::contract::ids::{TaskId, WorkspaceId};
use switchyard_common::task::{Attempt, Place, Step, Task};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::db::Transaction;
use super::error::StoreError;
use super::reports::Facts;

/// A task before and after; the fence compares what was loaded.
pub(crate) struct ChangedTask<'a> {
    pub(crate) before: &'a Task,
    pub(crate) after: &'a Task,
}

/// An attempt of a changed task.
pub(crate) struct ChangedAttempt<'a> {
    pub(crate) task: &'a Task,
    pub(crate) attempt: &'a Attempt,
}

pub(super) const UPDATE_TASKS: &str = "UPDATE tasks t SET
    status = u.status, step = u.step, step_name = u.step_name, handler = u.handler, step_gated = u.step_gated,
    step_repeatable = u.step_repeatable, step_started = u.step_started, holds = u.holds, position = u.position,
    run_after = u.run_after, since = u.since, queue_until = u.queue_until, approve_until = u.approve_until,
    attempts = u.attempts, charge = u.charge, losses = u.losses, agent_id = u.agent_id, pod_name = u.pod_name,
    session = u.session, lease_token = u.lease_token, artifact_attempt = u.artifact_attempt,
    artifact_digest = u.artifact_digest, approved_step = u.approved_step, approved_digest = u.approved_digest,
    approved_by = u.approved_by, approved_at = u.approved_at, cancel_requested_at = u.cancel_requested_at,
    cancel_requested_by = u.cancel_requested_by, cancel_force = u.cancel_force, failure_kind = u.failure_kind,
    failure_message = u.failure_message, finished_at = u.finished_at, version = u.version
FROM unnest($1::text[], $2::bigint[], $3::text[], $4::integer[], $5::uuid[],
    $6::text[], $7::smallint[], $8::text[], $9::text[], $10::bool[], $11::bool[], $12::bool[], $13::bool[], $14::bigint[],
    $15::timestamptz[], $16::timestamptz[], $17::timestamptz[], $18::timestamptz[], $19::integer[], $20::integer[],
    $21::integer[], $22::text[], $23::text[], $24::uuid[], $25::uuid[], $26::integer[], $27::text[], $28::smallint[],
    $29::text[], $30::text[], $31::timestamptz[], $32::timestamptz[], $33::text[], $34::bool[], $35::text[], $36::text[],
    $37::timestamptz[], $38::bigint[])
    AS u(task_id, version_before, status_before, attempts_before, lease_before,
    status, step, step_name, handler, step_gated, step_repeatable, step_started, holds, position,
    run_after, since, queue_until, approve_until, attempts, charge,
    losses, agent_id, pod_name, session, lease_token, artifact_attempt, artifact_digest, approved_step,
    approved_digest, approved_by, approved_at, cancel_requested_at, cancel_requested_by, cancel_force, failure_kind,
    failure_message, finished_at, version)
WHERE t.task_id = u.task_id AND t.version = u.version_before AND t.status = u.status_before
    AND t.attempts = u.attempts_before AND t.lease_token IS NOT DISTINCT FROM u.lease_before";

/// Writes tasks. Every one must match its fence.
pub(crate) async fn tasks(transaction: &Transaction, changed: &[ChangedTask<'_>]) -> Result<(), StoreError> {
    if changed.is_empty() {
        return Ok(());
    }
    let after = || changed.iter().map(|change| change.after);
    let assignee = || after().map(|task| task.assignee.as_ref());
    let approval = || after().map(|task| task.approval.as_ref());
    let cancel = || after().map(|task| task.cancel.as_ref());
    let artifact = || after().map(|task| task.artifact.as_ref());
    let digests: Vec<Option<String>> = artifact().map(|a| a.map(|a| a.digest.to_string())).collect();
    let approved: Vec<Option<String>> = approval().map(|a| a.map(|a| a.digest.to_string())).collect();
    let parameters: Vec<Box<dyn ToSql + Sync + Send>> = vec![
        Box::new(changed.iter().map(|c| c.before.id.to_string()).collect::<Vec<_>>()),
        Box::new(changed.iter().map(|c| c.before.version).collect::<Vec<_>>()),
        Box::new(changed.iter().map(|c| c.before.status.as_str()).collect::<Vec<_>>()),
        Box::new(changed.iter().map(|c| int(c.before.attempts)).collect::<Vec<_>>()),
        Box::new(
            changed
                .iter()
                .map(|c| c.before.assignee.as_ref().map(|a| a.lease.0))
                .collect::<Vec<Option<Uuid>>>(),
        ),
        Box::new(after().map(|t| t.status.as_str()).collect::<Vec<_>>()),
        Box::new(after().map(|t| small(t.step)).collect::<Vec<_>>()),
        Box::new(after().map(|t| t.current_step().name.to_string()).collect::<Vec<_>>()),
        Box::new(after().map(|t| t.current_step().handler.to_string()).collect::<Vec<_>>()),
        Box::new(after().map(|t| t.current_step().approval).collect::<Vec<_>>()),
        Box::new(after().map(|t| t.current_step().repeatable).collect::<Vec<_>>()),
        Box::new(after().map(|t| t.step_started).collect::<Vec<_>>()),
        Box::new(after().map(|t| t.holds).collect::<Vec<_>>()),
        Box::new(after().map(|t| t.position).collect::<Vec<_>>()),
        Box::new(after().map(|t| t.run_after).collect::<Vec<_>>()),
        Box::new(after().map(|t| t.since).collect::<Vec<_>>()),
        Box::new(after().map(queue_until).collect::<Vec<_>>()),
        Box::new(after().map(approve_until).collect::<Vec<_>>()),
        Box::new(after().map(|t| int(t.attempts)).collect::<Vec<_>>()),
        Box::new(after().map(|t| int(t.charge)).collect::<Vec<_>>()),
        Box::new(after().map(|t| int(t.losses)).collect::<Vec<_>>()),
        Box::new(assignee().map(|a| a.map(|a| a.agent.agent.to_string())).collect::<Vec<_>>()),
        Box::new(assignee().map(|a| a.map(|a| a.pod.clone())).collect::<Vec<_>>()),
        Box::new(assignee().map(|a| a.map(|a| a.session.0)).collect::<Vec<_>>()),
        Box::new(assignee().map(|a| a.map(|a| a.lease.0)).collect::<Vec<_>>()),
        Box::new(artifact().map(|a| a.map(|a| int(a.attempt))).collect::<Vec<_>>()),
        Box::new(digests),
        Box::new(approval().map(|a| a.map(|a| small(a.step))).collect::<Vec<_>>()),
        Box::new(approved),
        Box::new(approval().map(|a| a.map(|a| a.by.clone())).collect::<Vec<_>>()),
        Box::new(approval().map(|a| a.map(|a| a.at)).collect::<Vec<_>>()),
        Box::new(cancel().map(|c| c.map(|c| c.at)).collect::<Vec<_>>()),
        Box::new(cancel().map(|c| c.map(|c| c.by.clone())).collect::<Vec<_>>()),
        Box::new(cancel().map(|c| c.map(|c| c.force)).collect::<Vec<_>>()),
        Box::new(after().map(|t| t.failure.as_ref().map(|f| f.0.as_str())).collect::<Vec<_>>()),
        Box::new(after().map(|t| t.failure.as_ref().map(|f| f.1.clone())).collect::<Vec<_>>()),
        Box::new(after().map(|t| t.finished_at).collect::<Vec<_>>()),
        Box::new(after().map(|t| t.version).collect::<Vec<_>>()),
    ];
    let matched = transaction.execute(UPDATE_TASKS, &borrow(&parameters)).await?;
    fence("tasks", matched, changed.len())
}

const INSERT_ATTEMPTS: &str = "INSERT INTO attempts (task_id, attempt, step, step_name, exclusive, repeatable, pool_id, agent_id,
    pod_name, node_name, session, lease_token, publish_no, published_by, published_at, assigned_at, start_by, run_timeout_ms)
SELECT u.task_id, u.attempt, u.step, u.step_name, u.exclusive, u.repeatable, u.pool_id, u.agent_id,
    u.pod_name, g.node, u.session, u.lease_token, 1, $12, u.assigned_at, u.assigned_at, u.start_by, u.run_timeout_ms
FROM unnest($1::text[], $2::integer[], $3::smallint[], $4::text[], $5::bool[], $6::bool[], $7::text[], $8::text[],
    $9::text[], $10::uuid[], $11::uuid[], $13::timestamptz[], $14::timestamptz[], $15::bigint[])
    AS u(task_id, attempt, step, step_name, exclusive, repeatable, pool_id, agent_id,
    pod_name, session, lease_token, assigned_at, start_by, run_timeout_ms)
LEFT JOIN agents g ON g.pool_id = u.pool_id AND g.agent_id = u.agent_id";

/// Inserts new attempts, stamped with this replica as their publisher (protocol B1: `publish_no` is 1 before the first publish).
pub(crate) async fn new_attempts(
    transaction: &Transaction,
    replica: Uuid,
    new: &[ChangedAttempt<'_>],
) -> Result<(), StoreError> {
    if new.is_empty() {
        return Ok(());
    }
    let policy = |c: &ChangedAttempt<'_>| c.task.current_step().policy;
    let start_by = |c: &ChangedAttempt<'_>| {
        policy(c).start_timeout_ms.and_then(|ms| after_ms(c.attempt.assigned_at, ms))
    };
    let parameters: Vec<Box<dyn ToSql + Sync + Send>> = vec![
        Box::new(new.iter().map(|c| c.task.id.to_string()).collect::<Vec<_>>()),
        Box::new(new.iter().map(|c| int(c.attempt.number)).collect::<Vec<_>>()),
        Box::new(new.iter().map(|c| small(c.attempt.step)).collect::<Vec<_>>()),
        Box::new(new.iter().map(|c| c.task.current_step().name.to_string()).collect::<Vec<_>>()),
        Box::new(new.iter().map(|c| c.task.exclusive).collect::<Vec<_>>()),
        Box::new(new.iter().map(|c| c.attempt.repeatable).collect::<Vec<_>>()),
        Box::new(new.iter().map(|c| c.attempt.assignee.agent.pool.to_string()).collect::<Vec<_>>()),
        Box::new(new.iter().map(|c| c.attempt.assignee.agent.agent.to_string()).collect::<Vec<_>>()),
        Box::new(new.iter().map(|c| c.attempt.assignee.pod.clone()).collect::<Vec<_>>()),
        Box::new(new.iter().map(|c| c.attempt.assignee.session.0).collect::<Vec<_>>()),
        Box::new(new.iter().map(|c| c.attempt.assignee.lease.0).collect::<Vec<_>>()),
        Box::new(replica),
        Box::new(new.iter().map(|c| c.attempt.assigned_at).collect::<Vec<_>>()),
        Box::new(new.iter().map(start_by).collect::<Vec<_>>()),
        Box::new(
            new.iter()
                .map(|c| i64::try_from(run_timeout_ms(c.task.current_step())).unwrap_or(i64::MAX))
                .collect::<Vec<_>>(),
        ),
    ];
    let matched = transaction.execute(INSERT_ATTEMPTS, &borrow(&parameters)).await?;
    fence("attempts", matched, new.len())
}

pub(super) const UPDATE_ATTEMPTS: &str = "UPDATE attempts a SET
    started_at = u.started_at, nonce = u.nonce, revoke_requested_at = u.revoke_at, revoke_reason = u.revoke_reason,
    revoke_force = u.revoke_force, outcome = u.outcome, ended_at = u.ended_at,
    result = coalesce(u.result, a.result), log_lines = coalesce(u.log_lines, a.log_lines),
    handler_started_at = coalesce(u.handler_started_at, a.handler_started_at),
    handler_ended_at = coalesce(u.handler_ended_at, a.handler_ended_at)
FROM unnest($1::text[], $2::integer[], $3::timestamptz[], $4::uuid[], $5::timestamptz[], $6::text[], $7::bool[], $8::text[],
    $9::timestamptz[], $10::jsonb[], $11::bigint[], $12::timestamptz[], $13::timestamptz[])
    AS u(task_id, attempt, started_at, nonce, revoke_at, revoke_reason, revoke_force, outcome, ended_at,
    result, log_lines, handler_started_at, handler_ended_at)
WHERE a.task_id = u.task_id AND a.attempt = u.attempt AND a.outcome IS NULL";

/// Writes attempts that were open when loaded, each with what its agent reported beside its end.
pub(crate) async fn attempts(
    transaction: &Transaction,
    changed: &[ChangedAttempt<'_>],
    facts: &HashMap<(TaskId, u32), Facts>,
) -> Result<(), StoreError> {
    if changed.is_empty() {
        return Ok(());
    }
    let revoke = || changed.iter().map(|c| c.attempt.revoke);
    let end = || changed.iter().map(|c| c.attempt.end);
    let facts = || changed.iter().map(|c| facts.get(&(c.task.id.clone(), c.attempt.number)));
    let parameters: Vec<Box<dyn ToSql + Sync + Send>> = vec![
        Box::new(changed.iter().map(|c| c.task.id.to_string()).collect::<Vec<_>>()),
        Box::new(changed.iter().map(|c| int(c.attempt.number)).collect::<Vec<_>>()),
        Box::new(changed.iter().map(|c| c.attempt.started_at).collect::<Vec<_>>()),
        Box::new(changed.iter().map(|c| c.attempt.nonce.map(|n| n.0)).collect::<Vec<_>>()),
        Box::new(revoke().map(|r| r.map(|r| r.at)).collect::<Vec<_>>()),
        Box::new(revoke().map(|r| r.map(|r| r.reason.as_str())).collect::<Vec<_>>()),
        Box::new(revoke().map(|r| r.map(|r| r.force)).collect::<Vec<_>>()),
        Box::new(end().map(|e| e.map(|e| e.outcome.as_str())).collect::<Vec<_>>()),
        Box::new(end().map(|e| e.map(|e| e.at)).collect::<Vec<_>>()),
        Box::new(facts().map(|f| f.and_then(|f| f.result.clone())).collect::<Vec<_>>()),
        Box::new(facts().map(|f| f.map(|f| f.log_lines_column())).collect::<Vec<_>>()),
        Box::new(facts().map(|f| f.and_then(|f| f.handler_started_at)).collect::<Vec<_>>()),
        Box::new(facts().map(|f| f.and_then(|f| f.handler_ended_at)).collect::<Vec<_>>()),
    ];
    let matched = transaction.execute(UPDATE_ATTEMPTS, &borrow(&parameters)).await?;
    fence("attempts", matched, changed.len())
}

/// Raises the positions of workspaces that were taken.
pub(crate) async fn positions(
    transaction: &Transaction,
    places: &BTreeMap<WorkspaceId, Place>,
) -> Result<(), StoreError> {
    if places.is_empty() {
        return Ok(());
    }
    const SQL: &str = "UPDATE workspaces w SET next_position = u.next_position \
        FROM unnest($1::text[], $2::bigint[]) u(workspace_id, next_position) WHERE w.workspace_id = u.workspace_id";
    let ids: Vec<&str> = places.keys().map(WorkspaceId::as_str).collect();
    let next: Vec<i64> = places.values().map(|place| place.position).collect();
    let matched = transaction.execute(SQL, &[&ids, &next]).await?;
    fence("workspaces", matched, places.len())
}

pub(crate) fn queue_until(task: &Task) -> Option<DateTime<Utc>> {
    // The wait for an agent starts when the task may run, not while it waits for its own time.
    let from = task.run_after.map_or(task.since, |at| at.max(task.since));
    after_ms(from, task.current_step().policy.queue_timeout_ms?)
}

pub(crate) fn approve_until(task: &Task) -> Option<DateTime<Utc>> {
    after_ms(task.since, task.current_step().policy.approval_timeout_ms?)
}

fn after_ms(from: DateTime<Utc>, wait_ms: u64) -> Option<DateTime<Utc>> {
    from.checked_add_signed(TimeDelta::try_milliseconds(i64::try_from(wait_ms).ok()?)?)
}

fn fence(table: &'static str, matched: u64, expected: usize) -> Result<(), StoreError> {
    let expected = expected as u64;
    if matched == expected {
        return Ok(());
    }
    metrics::counter!("switchyard_fence_misses_total", "table" => table).increment(1);
    tracing::error!(
        table,
        matched,
        expected,
        "a fenced write matched fewer rows than were locked; the batch is repeated"
    );
    Err(StoreError::FenceMiss { table, matched, expected })
}

/// Longest run of a step, in milliseconds: at least one.
pub(crate) fn run_timeout_ms(step: &Step) -> u64 {
    step.policy.run_timeout_ms.max(1)
}

/// Counts stay far below the limits of their columns; the CHECKs refuse what would not.
pub(crate) fn int(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

pub(crate) fn small(value: usize) -> i16 {
    i16::try_from(value).unwrap_or(i16::MAX)
}

pub(crate) fn borrow<'a>(parameters: &'a [Box<dyn ToSql + Sync + Send + '_>]) -> Vec<&'a (dyn ToSql + Sync)> {
    parameters.iter().map(|parameter| &**parameter as &(dyn ToSql + Sync)).collect()
}
