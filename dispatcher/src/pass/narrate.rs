//! The log lines of a pass, each with workspace and task: what operators follow at night. Stable names; a test holds the sequence.

use switchyard_common::contract::ids::PoolId;

use super::once::{Outcome, PassEnd};
use crate::schedule::SkipReason;
use crate::store::StoreError;
use crate::store::route::Committed;

pub(super) fn begins(pool: &PoolId) {
    tracing::info!(%pool, "pass begins");
}

/// Of intake, which plans what it stores: between the two lines of a pass there may be both of these.
pub(super) fn begins_at_once(pool: &PoolId) {
    tracing::info!(%pool, by = "intake", "pass begins");
}

pub(super) fn ends(pool: &PoolId, outcome: &Outcome) {
    if outcome.end == PassEnd::Busy {
        tracing::info!(%pool, decision = "busy", reason = "somebody else schedules this pool", "pass ends");
        return;
    }
    for (placement, Committed { key, .. }) in &outcome.assigned {
        if placement.exclusive {
            exclusive(pool, placement, key);
        } else {
            tracing::debug!(%pool, workspace_id = %placement.workspace, task_id = %key.task_id, attempt = key.attempt,
                agent = %placement.agent, "assignment committed");
        }
    }
    for unplaced in &outcome.plan.unplaced {
        if !unplaced.skipped.is_empty() {
            tracing::info!(%pool, workspace_id = %unplaced.workspace, task_id = %unplaced.task_id, "task found");
            skipped(pool, &unplaced.task_id, &unplaced.workspace, &unplaced.skipped);
            tracing::info!(%pool, workspace_id = %unplaced.workspace, task_id = %unplaced.task_id,
                decision = "waits", reason = "no agent can take it now", "no agent selected");
        }
    }
    for refused in &outcome.refused {
        tracing::warn!(%pool, task_id = %refused.named.task_id, decision = ?refused.decision.as_ref().map(|d| &d.verdict),
            "planned assignment refused");
    }
    if outcome.assigned.is_empty() && outcome.plan.unplaced.is_empty() {
        let reason = if outcome.agents == 0 {
            "the pool has no agents"
        } else {
            "nothing can run that an agent has room for"
        };
        tracing::info!(%pool, decision = "nothing", reason, "pass ends");
    } else {
        tracing::info!(%pool, decision = "assigned", assigned = outcome.assigned.len(), waiting = outcome.plan.unplaced.len(),
            refused = outcome.refused.len(), "pass ends");
    }
}

fn exclusive(
    pool: &PoolId,
    placement: &crate::schedule::Placement,
    key: &switchyard_common::contract::assignment::AttemptKey,
) {
    let (task_id, workspace_id) = (&key.task_id, &placement.workspace);
    tracing::info!(%pool, %workspace_id, %task_id, "task found");
    tracing::info!(%pool, %workspace_id, %task_id, held_by = %task_id, "workspace held");
    skipped(pool, task_id, workspace_id, &placement.skipped);
    tracing::info!(%pool, %workspace_id, %task_id, agent = %placement.agent, pod = placement.pod, "agent selected");
    tracing::info!(%pool, %workspace_id, %task_id, attempt = key.attempt, agent = %placement.agent, "assignment committed");
}

fn skipped(
    pool: &PoolId,
    task_id: &switchyard_common::contract::ids::TaskId,
    workspace_id: &switchyard_common::contract::ids::WorkspaceId,
    skipped: &[(switchyard_common::contract::ids::AgentId, SkipReason)],
) {
    for (agent, reason) in skipped {
        tracing::info!(%pool, %workspace_id, %task_id, %agent, reason = reason.sentence(), "candidate agent skipped");
    }
}

pub(super) fn fails(pool: &PoolId, error: &StoreError) {
    metrics::counter!("switchyard_passes_failed_total").increment(1);
    let reason = "the store could not be read or written";
    // A database that is away is waited for; anything else needs somebody.
    if error.is_transient() {
        tracing::warn!(%pool, %error, decision = "failed", reason, "pass ends");
    } else {
        tracing::error!(%pool, %error, decision = "failed", reason, "pass ends");
    }
}
