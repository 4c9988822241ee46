//! A new task in the state that its time and its workspace give it. Pure: the caller holds the workspace's lock.

use chrono::{DateTime, Utc};
use switchyard_common::contract::ids::PoolId;
use switchyard_common::task::{Place, Status, Task};

use super::command::NewTask;

/// The task that `new` makes in `pool`. An exclusive one that is due takes `place`, which moves on to the one behind it.
#[must_use]
pub fn new_task(new: &NewTask, pool: &PoolId, place: Option<&mut Place>, now: DateTime<Utc>) -> Task {
    let run_after = new.not_before.filter(|at| *at > now);
    let mut status = Status::Pending;
    let mut position = None;
    if new.kind.exclusive
        && run_after.is_none()
        && let Some(place) = place
    {
        status = if place.is_head { Status::Pending } else { Status::Blocked };
        position = Some(place.position);
        *place = Place { position: place.position + 1, is_head: false };
    }
    Task {
        id: new.task_id.clone(),
        workspace: new.workspace.clone(),
        pool: pool.clone(),
        kind: new.kind.name.clone(),
        exclusive: new.kind.exclusive,
        steps: new.kind.steps.clone(),
        step: 0,
        status,
        holds: false,
        position,
        run_after,
        deadline: new.deadline,
        since: now,
        attempts: 0,
        charge: 0,
        losses: 0,
        step_started: false,
        assignee: None,
        approval: None,
        auto_approve: new.auto_approve,
        artifact: None,
        cancel: None,
        failure: None,
        finished_at: None,
        version: 1,
    }
}
