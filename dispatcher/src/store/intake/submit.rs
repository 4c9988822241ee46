//! New tasks: many in one statement.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use switchyard_common::contract::answer::Accepted;
use switchyard_common::contract::ids::{PoolId, TaskId, WorkspaceId};
use switchyard_common::failure::FailureKind;
use switchyard_common::task::{Place, Status, Task};
use tokio_postgres::types::ToSql;

use super::Batch;
use super::workspaces::Workspace;
use crate::intake::command::{Admitted, Command, NewTask, Rejection, Verdict};
use crate::intake::new_task::new_task;
use crate::store::StoreError;
use crate::store::locks::places;
use crate::store::rows::parsed;
use crate::store::save;

/// A submission of the batch that nothing speaks against yet.
struct Candidate<'a> {
    index: usize,
    event: &'a Admitted,
    new: &'a NewTask,
}

/// A task that is to be inserted.
pub(super) struct Insert<'a> {
    event: &'a Admitted,
    new: &'a NewTask,
    task: Task,
    paused: bool,
    rank: i64,
}

/// What the store knows that may speak against a submission.
struct Taken {
    /// Task ids in use.
    ids: BTreeSet<String>,
    /// Tasks by idempotency key of their source.
    by_key: HashMap<(String, String), (TaskId, Status)>,
    /// Status of tasks that are named as replayed.
    replayed: HashMap<String, Status>,
}

impl<'a> Batch<'a> {
    /// Judges submissions that follow each other, together, and gives the tasks that are to be inserted.
    pub(super) async fn submit(&mut self, run: &[usize]) -> Result<Vec<Insert<'a>>, StoreError> {
        if run.is_empty() {
            return Ok(Vec::new());
        }
        let events = self.events;
        let candidates: Vec<Candidate<'_>> = run
            .iter()
            .filter_map(|&index| match &events[index].command {
                Command::Submit(new) => Some(Candidate { index, event: &events[index], new }),
                Command::Register(_) | Command::Approve(_) | Command::Discard(_) | Command::Cancel(_) => None,
            })
            .collect();
        let (workspaces, mut taken) =
            futures::try_join!(self.workspaces_of(&candidates), self.taken(&candidates))?;
        let mut places = self.places_of(&candidates, &workspaces).await?;
        let mut inserts = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            match judge(&candidate, &workspaces, &mut taken) {
                Ok(workspace) => {
                    let place = places.get_mut(&candidate.new.workspace);
                    let task = new_task(candidate.new, &workspace.pool, place, self.now);
                    self.pools.insert(task.pool.clone());
                    self.verdicts[candidate.index] = Some(accepted(candidate.event, &task));
                    let (event, new, paused) = (candidate.event, candidate.new, workspace.paused);
                    inserts.push(Insert { event, new, task, paused, rank: 0 });
                }
                Err(verdict) => self.verdicts[candidate.index] = Some(verdict),
            }
        }
        futures::try_join!(save::positions(self.transaction, &places), self.rank(&mut inserts))?;
        Ok(inserts)
    }

    /// Registers unknown workspaces that come with a pool, and looks all of them up; locks those of exclusive tasks. What is found
    /// stays in its pool until the end of the transaction.
    async fn workspaces_of(
        &self,
        candidates: &[Candidate<'_>],
    ) -> Result<BTreeMap<WorkspaceId, Result<Workspace, Rejection>>, StoreError> {
        let named: BTreeSet<WorkspaceId> = candidates.iter().map(|c| c.new.workspace.clone()).collect();
        let exclusive: BTreeSet<WorkspaceId> =
            candidates.iter().filter(|c| c.new.kind.exclusive).map(|c| c.new.workspace.clone()).collect();
        // The stronger lock first: nobody holds the weaker one of a workspace and then waits for the stronger one of it.
        self.lock_workspaces(&exclusive).await?;
        let mut found = self.find_workspaces(&named).await?;
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
            self.lock_workspaces(&exclusive).await?;
            found = self.find_workspaces(&named).await?;
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

    async fn taken(&self, candidates: &[Candidate<'_>]) -> Result<Taken, StoreError> {
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
        for row in self.transaction.query(FIND, &[&ids, &sources, &keys]).await? {
            let id: String = row.get("task_id");
            let status = Status::parse(row.get("status"))
                .ok_or_else(|| StoreError::Unreadable("tasks.status".into()))?;
            if let Some(key) = row.get::<_, Option<String>>("idempotency_key") {
                let task_id = parsed("task_id", TaskId::new(&id))?;
                taken.by_key.insert((row.get("source"), key), (task_id, status));
            }
            taken.replayed.insert(id.clone(), status);
            taken.ids.insert(id);
        }
        Ok(taken)
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
    async fn rank(&self, inserts: &mut [Insert<'_>]) -> Result<(), StoreError> {
        const RANK: &str = "INSERT INTO lanes AS l (workspace_id, priority, last_rank, added) \
            SELECT u.workspace_id, u.priority, p.served_rank + u.count, u.count \
            FROM unnest($1::text[], $2::smallint[], $3::bigint[], $4::text[]) u(workspace_id, priority, count, pool_id) \
            JOIN pools p ON p.pool_id = u.pool_id ORDER BY u.workspace_id, u.priority \
            ON CONFLICT (workspace_id, priority) DO UPDATE \
                SET last_rank = greatest(l.last_rank + EXCLUDED.added, EXCLUDED.last_rank), added = EXCLUDED.added \
            RETURNING workspace_id, priority, last_rank";
        let mut lanes: BTreeMap<(String, i16), (i64, String)> = BTreeMap::new();
        for insert in inserts.iter() {
            let lane = (insert.task.workspace.to_string(), i16::from(insert.new.priority));
            lanes.entry(lane).or_insert_with(|| (0, insert.task.pool.to_string())).0 += 1;
        }
        if lanes.is_empty() {
            return Ok(());
        }
        let workspaces: Vec<&str> = lanes.keys().map(|(workspace, _)| workspace.as_str()).collect();
        let priorities: Vec<i16> = lanes.keys().map(|(_, priority)| *priority).collect();
        let counts: Vec<i64> = lanes.values().map(|(count, _)| *count).collect();
        let pools: Vec<&str> = lanes.values().map(|(_, pool)| pool.as_str()).collect();
        let rows = self.transaction.query(RANK, &[&workspaces, &priorities, &counts, &pools]).await?;
        let mut next: HashMap<(String, i16), i64> = HashMap::new();
        for row in rows {
            let lane = (row.get::<_, String>("workspace_id"), row.get::<_, i16>("priority"));
            let count = lanes.get(&lane).map_or(0, |(count, _)| *count);
            next.insert(lane, row.get::<_, i64>("last_rank") - count + 1);
        }
        for insert in inserts.iter_mut() {
            let lane = (insert.task.workspace.to_string(), i16::from(insert.new.priority));
            if let Some(rank) = next.get_mut(&lane) {
                insert.rank = *rank;
                *rank += 1;
            }
        }
        Ok(())
    }

    pub(super) async fn insert(&self, inserts: &[Insert<'_>]) -> Result<(), StoreError> {
        if inserts.is_empty() {
            return Ok(());
        }
        let steps: Vec<serde_json::Value> = parsed(
            "tasks.steps",
            inserts.iter().map(|i| serde_json::to_value(&i.task.steps)).collect::<Result<_, _>>(),
        )?;
        let tasks = || inserts.iter().map(|insert| &insert.task);
        let step = || tasks().map(Task::current_step);
        let parameters: Vec<Box<dyn ToSql + Sync + Send>> = vec![
            Box::new(tasks().map(|t| t.id.to_string()).collect::<Vec<_>>()),
            Box::new(tasks().map(|t| t.workspace.to_string()).collect::<Vec<_>>()),
            Box::new(tasks().map(|t| t.pool.to_string()).collect::<Vec<_>>()),
            Box::new(tasks().map(|t| t.kind.to_string()).collect::<Vec<_>>()),
            Box::new(tasks().map(|t| t.exclusive).collect::<Vec<_>>()),
            Box::new(steps),
            Box::new(tasks().map(|t| save::small(t.steps.len())).collect::<Vec<_>>()),
            Box::new(inserts.iter().map(|i| i.new.payload.clone()).collect::<Vec<_>>()),
            Box::new(inserts.iter().map(|i| i16::from(i.new.priority)).collect::<Vec<_>>()),
            Box::new(tasks().map(|t| t.status.as_str()).collect::<Vec<_>>()),
            Box::new(step().map(|s| s.name.to_string()).collect::<Vec<_>>()),
            Box::new(step().map(|s| s.handler.to_string()).collect::<Vec<_>>()),
            Box::new(step().map(|s| s.repeatable).collect::<Vec<_>>()),
            Box::new(tasks().map(|t| t.position).collect::<Vec<_>>()),
            Box::new(tasks().map(|t| t.run_after).collect::<Vec<_>>()),
            Box::new(tasks().map(|t| t.deadline).collect::<Vec<_>>()),
            Box::new(tasks().map(save::queue_until).collect::<Vec<_>>()),
            Box::new(inserts.iter().map(|i| i.rank).collect::<Vec<_>>()),
            Box::new(inserts.iter().map(|i| i.paused).collect::<Vec<_>>()),
            Box::new(tasks().map(|t| t.auto_approve).collect::<Vec<_>>()),
            Box::new(inserts.iter().map(|i| i.event.key.source.clone()).collect::<Vec<_>>()),
            Box::new(inserts.iter().map(|i| i.event.key.id.clone()).collect::<Vec<_>>()),
            Box::new(inserts.iter().map(|i| i.new.idempotency_key.clone()).collect::<Vec<_>>()),
            Box::new(
                inserts.iter().map(|i| i.new.replay_of.as_ref().map(ToString::to_string)).collect::<Vec<_>>(),
            ),
            Box::new(inserts.iter().map(|i| i.event.traceparent.clone()).collect::<Vec<_>>()),
        ];
        let written = self.transaction.execute(INSERT, &save::borrow(&parameters)).await?;
        if written == inserts.len() as u64 {
            return Ok(());
        }
        // A task id or an idempotency key was taken by another replica meanwhile: the repeated batch sees it and says so.
        Err(StoreError::Contention("another replica took an id of this batch".into()))
    }
}

const INSERT: &str = "INSERT INTO tasks (task_id, workspace_id, pool_id, kind, exclusive, steps, step_count, payload, priority, status, \
        step_name, handler, step_gated, step_repeatable, position, run_after, deadline, since, queue_until, rank, workspace_paused, \
        auto_approve, created_at, source, event_id, idempotency_key, replay_of, traceparent) \
    SELECT u.task_id, u.workspace_id, u.pool_id, u.kind, u.exclusive, u.steps, u.step_count, u.payload, u.priority, u.status, \
        u.step_name, u.handler, false, u.step_repeatable, u.position, u.run_after, u.deadline, now(), u.queue_until, u.rank, \
        u.workspace_paused, u.auto_approve, now(), u.source, u.event_id, u.idempotency_key, u.replay_of, u.traceparent \
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bool[], $6::jsonb[], $7::smallint[], $8::jsonb[], \
        $9::smallint[], $10::text[], $11::text[], $12::text[], $13::bool[], $14::bigint[], $15::timestamptz[], $16::timestamptz[], \
        $17::timestamptz[], $18::bigint[], $19::bool[], $20::bool[], $21::text[], $22::text[], $23::text[], $24::text[], $25::text[]) \
        WITH ORDINALITY AS u(task_id, workspace_id, pool_id, kind, exclusive, steps, step_count, payload, priority, status, \
        step_name, handler, step_repeatable, position, run_after, deadline, queue_until, rank, workspace_paused, auto_approve, \
        source, event_id, idempotency_key, replay_of, traceparent, ordinal) \
    ORDER BY u.ordinal ON CONFLICT DO NOTHING";

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
