//! New tasks: many in one statement.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::value::{RawValue, to_raw_value};
use switchyard_common::contract::answer::Accepted;
use switchyard_common::contract::ids::{PoolId, TaskId, WorkspaceId};
use switchyard_common::failure::FailureKind;
use switchyard_common::task::{Attempt, Place, Status, Step, Task};
use tokio_postgres::types::{Json, ToSql};

use super::Batch;
use super::ahead::Ahead;
use super::workspaces::{Workspace, find_workspaces, lock_workspaces};
use crate::intake::command::{Admitted, Command, NewTask, Rejection, Verdict};
use crate::intake::new_task::new_task;
use crate::store::locks::places;
use crate::store::rows::parsed;
use crate::store::save;
use crate::store::{StoreError, Transaction};

/// A submission of the batch that nothing speaks against yet.
pub(super) struct Candidate<'a> {
    pub(super) index: usize,
    pub(super) event: &'a Admitted,
    pub(super) new: &'a NewTask,
}

/// A task that is to be inserted.
pub(super) struct Insert<'a> {
    pub(super) event: &'a Admitted,
    pub(super) new: &'a NewTask,
    pub(super) task: Task,
    /// The attempt that it is inserted with, when it is assigned at once.
    pub(super) attempt: Option<Attempt>,
    /// Its payload as it is written.
    pub(super) payload: Box<RawValue>,
    /// Its workspace is paused.
    pub(super) paused: bool,
    pub(super) rank: i64,
}

/// Submissions that nothing speaks against, and what their workspaces say to the next task.
#[derive(Default)]
pub(super) struct Submitted<'a> {
    pub(super) inserts: Vec<Insert<'a>>,
    places: BTreeMap<WorkspaceId, Place>,
}

/// A workspace's line of one priority.
type Lane = (String, i16);

impl<'a> Submitted<'a> {
    /// Gives each its rank, from the first one of its lane on.
    pub(super) fn ranked(mut self, mut first: HashMap<Lane, i64>) -> Vec<Insert<'a>> {
        for insert in &mut self.inserts {
            if let Some(rank) = first.get_mut(&insert.lane()) {
                insert.rank = *rank;
                *rank += 1;
            }
        }
        self.inserts
    }
}

impl Insert<'_> {
    fn lane(&self) -> Lane {
        (self.task.workspace.to_string(), i16::from(self.new.priority))
    }
}

/// What the store knows that may speak against a submission.
pub(super) struct Taken {
    /// Task ids in use.
    ids: BTreeSet<String>,
    /// Tasks by idempotency key of their source.
    by_key: HashMap<(String, String), (TaskId, Status)>,
    /// Status of tasks that are named as replayed.
    replayed: HashMap<String, Status>,
}

impl<'a> Batch<'a> {
    /// Judges submissions that follow each other, together, and gives the tasks that are to be inserted.
    pub(super) async fn submit(&mut self, run: &[usize]) -> Result<Submitted<'a>, StoreError> {
        if run.is_empty() {
            return Ok(Submitted::default());
        }
        let events = self.events;
        let candidates: Vec<Candidate<'_>> = run
            .iter()
            .filter_map(|&index| match &events[index].command {
                Command::Submit(new) => Some(Candidate { index, event: &events[index], new }),
                Command::Register(_) | Command::Approve(_) | Command::Discard(_) | Command::Cancel(_) => None,
            })
            .collect();
        let (workspaces, mut taken) = match self.ahead.take() {
            Some(Ahead { workspaces, taken }) => {
                (self.workspaces_of(&candidates, Some(workspaces)).await?, taken)
            }
            None => futures::try_join!(
                self.workspaces_of(&candidates, None),
                taken(self.transaction, &candidates)
            )?,
        };
        let mut places = self.places_of(&candidates, &workspaces).await?;
        let mut inserts = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            match judge(&candidate, &workspaces, &mut taken) {
                Ok(workspace) => {
                    let place = places.get_mut(&candidate.new.workspace);
                    let task = new_task(candidate.new, &workspace.pool, place, self.now);
                    self.verdicts[candidate.index] = Some(accepted(candidate.event, &task));
                    let (event, new, paused) = (candidate.event, candidate.new, workspace.paused);
                    let payload = parsed("tasks.payload", to_raw_value(&new.payload))?;
                    inserts.push(Insert { event, new, task, attempt: None, payload, paused, rank: 0 });
                }
                Err(verdict) => self.verdicts[candidate.index] = Some(verdict),
            }
        }
        Ok(Submitted { inserts, places })
    }

    /// Writes how far the lines of their workspaces go now, and gives the first rank of each lane.
    pub(super) async fn stand(&self, submitted: &Submitted<'_>) -> Result<HashMap<Lane, i64>, StoreError> {
        let ((), ranks) = futures::try_join!(
            save::positions(self.transaction, &submitted.places),
            self.ranks(&submitted.inserts)
        )?;
        Ok(ranks)
    }

    /// Registers unknown workspaces that come with a pool, and looks all of them up; locks those of exclusive tasks. What is found
    /// stays in its pool until the end of the transaction.
    async fn workspaces_of(
        &self,
        candidates: &[Candidate<'_>],
        ahead: Option<BTreeMap<WorkspaceId, Workspace>>,
    ) -> Result<BTreeMap<WorkspaceId, Result<Workspace, Rejection>>, StoreError> {
        let named: BTreeSet<WorkspaceId> = candidates.iter().map(|c| c.new.workspace.clone()).collect();
        let exclusive: BTreeSet<WorkspaceId> =
            candidates.iter().filter(|c| c.new.kind.exclusive).map(|c| c.new.workspace.clone()).collect();
        // The stronger lock first: nobody holds the weaker one of a workspace and then waits for the stronger one of it.
        let find = async || {
            lock_workspaces(self.transaction, &exclusive).await?;
            find_workspaces(self.transaction, &named).await
        };
        let mut found = match ahead {
            Some(found) => found,
            None => find().await?,
        };
        let mut missing: BTreeMap<WorkspaceId, PoolId> = BTreeMap::new();
        for candidate in candidates {
            if let Some(pool) = &candidate.new.pool
                && !found.contains_key(&candidate.new.workspace)
            {
                missing.entry(candidate.new.workspace.clone()).or_insert_with(|| pool.clone());
            }
        }
        let mut refused = BTreeMap::new();
        if !missing.is_empty() {
            let pools: BTreeSet<PoolId> = missing.values().cloned().collect();
            refused = self.ensure_pools(&pools).await?;
            let allowed: BTreeMap<WorkspaceId, PoolId> = missing
                .iter()
                .filter(|(_, pool)| !refused.contains_key(*pool))
                .map(|(id, pool)| (id.clone(), pool.clone()))
                .collect();
            self.insert_workspaces(&allowed).await?;
            found = find().await?;
        }
        let refusal = |id: &WorkspaceId| missing.get(id).and_then(|pool| refused.get(pool)).cloned();
        Ok(named
            .into_iter()
            .map(|id| {
                let workspace = match found.remove(&id) {
                    Some(workspace) => Ok(workspace),
                    None => Err(refusal(&id).unwrap_or_else(|| unknown_workspace(&id))),
                };
                (id, workspace)
            })
            .collect())
    }

    async fn places_of(
        &self,
        candidates: &[Candidate<'_>],
        workspaces: &BTreeMap<WorkspaceId, Result<Workspace, Rejection>>,
    ) -> Result<BTreeMap<WorkspaceId, Place>, StoreError> {
        let due = |new: &NewTask| new.not_before.is_none_or(|at| at <= self.now);
        let known = |id: &WorkspaceId| workspaces.get(id).is_some_and(Result::is_ok);
        let wanted = candidates
            .iter()
            .filter(|c| c.new.kind.exclusive && due(c.new) && known(&c.new.workspace))
            .map(|c| c.new.workspace.clone())
            .collect();
        places(self.transaction, &wanted).await
    }

    /// Gives each task its virtual time: one more than the last of its workspace and priority, and not behind what the pool has
    /// served (protocol E4). A workspace that submits much is thus spread over many rounds; another's first task is in the next.
    async fn ranks(&self, inserts: &[Insert<'_>]) -> Result<HashMap<Lane, i64>, StoreError> {
        const RANK: &str = "INSERT INTO lanes AS l (workspace_id, priority, last_rank, added) \
            SELECT u.workspace_id, u.priority, p.served_rank + u.count, u.count \
            FROM unnest($1::text[], $2::smallint[], $3::bigint[], $4::text[]) u(workspace_id, priority, count, pool_id) \
            JOIN pools p ON p.pool_id = u.pool_id ORDER BY u.workspace_id, u.priority \
            ON CONFLICT (workspace_id, priority) DO UPDATE \
                SET last_rank = greatest(l.last_rank + EXCLUDED.added, EXCLUDED.last_rank), added = EXCLUDED.added \
            RETURNING workspace_id, priority, last_rank";
        let mut lanes: BTreeMap<Lane, (i64, &str)> = BTreeMap::new();
        for insert in inserts {
            lanes.entry(insert.lane()).or_insert((0, insert.task.pool.as_str())).0 += 1;
        }
        if lanes.is_empty() {
            return Ok(HashMap::new());
        }
        let workspaces: Vec<&str> = lanes.keys().map(|(workspace, _)| workspace.as_str()).collect();
        let priorities: Vec<i16> = lanes.keys().map(|(_, priority)| *priority).collect();
        let counts: Vec<i64> = lanes.values().map(|(count, _)| *count).collect();
        let pools: Vec<&str> = lanes.values().map(|(_, pool)| *pool).collect();
        let rows = self.transaction.query(RANK, &[&workspaces, &priorities, &counts, &pools]).await?;
        let first = |row: &tokio_postgres::Row| {
            let lane: Lane = (row.get("workspace_id"), row.get("priority"));
            let count = lanes.get(&lane).map_or(0, |(count, _)| *count);
            (lane, row.get::<_, i64>("last_rank") - count + 1)
        };
        Ok(rows.iter().map(first).collect())
    }

    pub(super) async fn insert(&self, inserts: &[Insert<'_>]) -> Result<(), StoreError> {
        if inserts.is_empty() {
            return Ok(());
        }
        let (steps, steps_at) = step_lists(inserts)?;
        let tasks = || inserts.iter().map(|insert| &insert.task);
        let step = || tasks().map(Task::current_step);
        let assignee = || tasks().map(|t| t.assignee.as_ref());
        let parameters: Vec<Box<dyn ToSql + Sync + Send + '_>> = vec![
            Box::new(tasks().map(|t| t.id.as_str()).collect::<Vec<_>>()),
            Box::new(tasks().map(|t| t.workspace.as_str()).collect::<Vec<_>>()),
            Box::new(tasks().map(|t| t.pool.as_str()).collect::<Vec<_>>()),
            Box::new(tasks().map(|t| t.kind.as_str()).collect::<Vec<_>>()),
            Box::new(tasks().map(|t| t.exclusive).collect::<Vec<_>>()),
            Box::new(steps),
            Box::new(steps_at),
            Box::new(tasks().map(|t| save::small(t.steps.len())).collect::<Vec<_>>()),
            Box::new(inserts.iter().map(|i| Json(&i.payload)).collect::<Vec<_>>()),
            Box::new(inserts.iter().map(|i| i16::from(i.new.priority)).collect::<Vec<_>>()),
            Box::new(tasks().map(|t| t.status.as_str()).collect::<Vec<_>>()),
            Box::new(step().map(|s| s.name.as_str()).collect::<Vec<_>>()),
            Box::new(step().map(|s| s.handler.as_str()).collect::<Vec<_>>()),
            Box::new(step().map(|s| s.repeatable).collect::<Vec<_>>()),
            Box::new(tasks().map(|t| t.position).collect::<Vec<_>>()),
            Box::new(tasks().map(|t| t.run_after).collect::<Vec<_>>()),
            Box::new(tasks().map(|t| t.deadline).collect::<Vec<_>>()),
            Box::new(tasks().map(save::queue_until).collect::<Vec<_>>()),
            Box::new(inserts.iter().map(|i| i.rank).collect::<Vec<_>>()),
            Box::new(inserts.iter().map(|i| i.paused).collect::<Vec<_>>()),
            Box::new(tasks().map(|t| t.auto_approve).collect::<Vec<_>>()),
            Box::new(inserts.iter().map(|i| i.event.key.source.as_str()).collect::<Vec<_>>()),
            Box::new(inserts.iter().map(|i| i.event.key.id.as_str()).collect::<Vec<_>>()),
            Box::new(inserts.iter().map(|i| i.new.idempotency_key.as_deref()).collect::<Vec<_>>()),
            Box::new(
                inserts.iter().map(|i| i.new.replay_of.as_ref().map(TaskId::as_str)).collect::<Vec<_>>(),
            ),
            Box::new(inserts.iter().map(|i| i.event.traceparent.as_deref()).collect::<Vec<_>>()),
            Box::new(tasks().map(|t| t.holds).collect::<Vec<_>>()),
            Box::new(tasks().map(|t| save::int(t.attempts)).collect::<Vec<_>>()),
            Box::new(assignee().map(|a| a.map(|a| a.agent.agent.as_str())).collect::<Vec<_>>()),
            Box::new(assignee().map(|a| a.map(|a| a.pod.as_str())).collect::<Vec<_>>()),
            Box::new(assignee().map(|a| a.map(|a| a.session.0)).collect::<Vec<_>>()),
            Box::new(assignee().map(|a| a.map(|a| a.lease.0)).collect::<Vec<_>>()),
            Box::new(tasks().map(|t| t.version).collect::<Vec<_>>()),
        ];
        let written = self.transaction.execute(INSERT, &save::borrow(&parameters)).await?;
        if written == inserts.len() as u64 {
            return Ok(());
        }
        // A task id or an idempotency key was taken by another replica meanwhile: the repeated batch sees it and says so.
        Err(StoreError::Contention("another replica took an id of this batch".into()))
    }
}

/// What the store knows of the ids and keys of submissions.
pub(super) async fn taken(
    transaction: &Transaction,
    candidates: &[Candidate<'_>],
) -> Result<Taken, StoreError> {
    const FIND: &str = "SELECT t.task_id, t.source, t.idempotency_key, t.status FROM tasks t WHERE t.task_id = ANY($1) \
        UNION ALL SELECT t.task_id, t.source, t.idempotency_key, t.status FROM unnest($2::text[], $3::text[]) u(source, key) \
        JOIN tasks t ON t.source = u.source AND t.idempotency_key = u.key";
    let mut ids: Vec<&str> = candidates.iter().map(|c| c.new.task_id.as_str()).collect();
    ids.extend(candidates.iter().filter_map(|c| c.new.replay_of.as_ref().map(TaskId::as_str)));
    let (sources, keys): (Vec<&str>, Vec<&str>) = candidates
        .iter()
        .filter_map(|c| Some((c.event.key.source.as_str(), c.new.idempotency_key.as_deref()?)))
        .unzip();
    let mut taken = Taken { ids: BTreeSet::new(), by_key: HashMap::new(), replayed: HashMap::new() };
    for row in transaction.query(FIND, &[&ids, &sources, &keys]).await? {
        let id: String = row.get("task_id");
        let status =
            Status::parse(row.get("status")).ok_or_else(|| StoreError::Unreadable("tasks.status".into()))?;
        if let Some(key) = row.get::<_, Option<String>>("idempotency_key") {
            let task_id = parsed("task_id", TaskId::new(&id))?;
            taken.by_key.insert((row.get("source"), key), (task_id, status));
        }
        taken.replayed.insert(id.clone(), status);
        taken.ids.insert(id);
    }
    Ok(taken)
}

const INSERT: &str = "INSERT INTO tasks (task_id, workspace_id, pool_id, kind, exclusive, steps, step_count, payload, priority, status, \
        step_name, handler, step_gated, step_repeatable, position, run_after, deadline, since, queue_until, rank, workspace_paused, \
        auto_approve, created_at, source, event_id, idempotency_key, replay_of, traceparent, holds, attempts, agent_id, pod_name, \
        session, lease_token, version) \
    SELECT u.task_id, u.workspace_id, u.pool_id, u.kind, u.exclusive, ($6::jsonb[])[u.steps_at], u.step_count, u.payload, u.priority, \
        u.status, u.step_name, u.handler, false, u.step_repeatable, u.position, u.run_after, u.deadline, now(), u.queue_until, u.rank, \
        u.workspace_paused, u.auto_approve, now(), u.source, u.event_id, u.idempotency_key, u.replay_of, u.traceparent, u.holds, \
        u.attempts, u.agent_id, u.pod_name, u.session, u.lease_token, u.version \
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bool[], $7::integer[], $8::smallint[], $9::jsonb[], \
        $10::smallint[], $11::text[], $12::text[], $13::text[], $14::bool[], $15::bigint[], $16::timestamptz[], $17::timestamptz[], \
        $18::timestamptz[], $19::bigint[], $20::bool[], $21::bool[], $22::text[], $23::text[], $24::text[], $25::text[], $26::text[], \
        $27::bool[], $28::integer[], $29::text[], $30::text[], $31::uuid[], $32::uuid[], $33::bigint[]) \
        WITH ORDINALITY AS u(task_id, workspace_id, pool_id, kind, exclusive, steps_at, step_count, payload, priority, status, \
        step_name, handler, step_repeatable, position, run_after, deadline, queue_until, rank, workspace_paused, auto_approve, \
        source, event_id, idempotency_key, replay_of, traceparent, holds, attempts, agent_id, pod_name, session, lease_token, \
        version, ordinal) \
    ORDER BY u.ordinal ON CONFLICT DO NOTHING";

/// The different step lists of a batch, and which one each task has, counted from 1. A kind has one: it is written and read once.
fn step_lists(inserts: &[Insert<'_>]) -> Result<(Vec<serde_json::Value>, Vec<i32>), StoreError> {
    let mut lists: Vec<&Arc<[Step]>> = Vec::new();
    let mut at = Vec::with_capacity(inserts.len());
    for insert in inserts {
        let steps = &insert.task.steps;
        let place = lists.iter().position(|known| Arc::ptr_eq(known, steps)).unwrap_or_else(|| {
            lists.push(steps);
            lists.len() - 1
        });
        at.push(i32::try_from(place + 1).unwrap_or(i32::MAX));
    }
    let lists = lists.into_iter().map(serde_json::to_value).collect::<Result<_, _>>();
    Ok((parsed("tasks.steps", lists)?, at))
}

/// Whether anything speaks against a submission.
fn judge<'w>(
    candidate: &Candidate<'_>,
    workspaces: &'w BTreeMap<WorkspaceId, Result<Workspace, Rejection>>,
    taken: &mut Taken,
) -> Result<&'w Workspace, Verdict> {
    let (event, new) = (candidate.event, candidate.new);
    if let Some(key) = &new.idempotency_key
        && let Some((task_id, status)) = taken.by_key.get(&(event.key.source.clone(), key.clone()))
    {
        return Err(Verdict::Accepted(Accepted {
            event_id: event.key.id.clone(),
            task_id: Some(task_id.clone()),
            status: Some(*status),
            artifact_digest: None,
            note: Some("a task with this idempotency key was submitted before".into()),
        }));
    }
    let reject =
        |code, message: String, what: &str| Err(Verdict::Rejected(Rejection::new(code, message, what)));
    let workspace = match workspaces.get(&new.workspace) {
        Some(Ok(workspace)) => workspace,
        Some(Err(rejection)) => return Err(Verdict::Hold(rejection.clone())),
        None => return Err(Verdict::Hold(unknown_workspace(&new.workspace))),
    };
    if let Some(pool) = new.pool.as_ref().filter(|pool| **pool != workspace.pool) {
        let message =
            format!("workspace {} belongs to pool {}, not to {pool}", new.workspace, workspace.pool);
        return reject(
            FailureKind::InvalidValue,
            message,
            "leave `pool` out, or register the workspace in that pool first",
        );
    }
    if let Some(replayed) = &new.replay_of {
        match taken.replayed.get(replayed.as_str()) {
            Some(status) if status.is_terminal() => {}
            Some(status) => {
                let message = format!("task {replayed} is {status} and cannot be replayed");
                return reject(FailureKind::RejectedTransition, message, "wait until it has ended");
            }
            None => {
                let message = format!("task {replayed}, named by replay_of, does not exist");
                return reject(FailureKind::UnknownTask, message, "name a task that exists");
            }
        }
    }
    if !taken.ids.insert(new.task_id.to_string()) {
        let message = format!("task id {} is in use", new.task_id);
        return reject(
            FailureKind::IdConflict,
            message,
            "submit under another task_id, or leave it out to have one drawn",
        );
    }
    if let Some(key) = &new.idempotency_key {
        let status = Status::Pending;
        taken.by_key.insert((event.key.source.clone(), key.clone()), (new.task_id.clone(), status));
    }
    Ok(workspace)
}

fn accepted(event: &Admitted, task: &Task) -> Verdict {
    Verdict::Accepted(Accepted {
        event_id: event.key.id.clone(),
        task_id: Some(task.id.clone()),
        status: Some(task.status),
        artifact_digest: None,
        note: None,
    })
}

fn unknown_workspace(id: &WorkspaceId) -> Rejection {
    Rejection::new(
        FailureKind::UnknownWorkspace,
        format!("workspace {id} is not registered"),
        "register it with switchyard.workspace.registered.v1, or name its pool in the submission",
    )
}
