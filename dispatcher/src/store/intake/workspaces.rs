//! Workspaces and pools: registered, looked up, locked.

use std::collections::{BTreeMap, BTreeSet};

use switchyard_common::contract::answer::Accepted;
use switchyard_common::contract::event::WorkspaceRegistered;
use switchyard_common::contract::ids::{PoolId, WorkspaceId};
use switchyard_common::failure::FailureKind;

use super::Batch;
use crate::intake::command::{Admitted, Rejection, Verdict};
use crate::store::rows::parsed;
use crate::store::{StoreError, Transaction};

/// A workspace as a submission sees it.
#[derive(Debug, Clone)]
pub(super) struct Workspace {
    pub(super) pool: PoolId,
    pub(super) paused: bool,
}

/// A workspace as a registration sees it.
struct Standing {
    pool: PoolId,
    has_open_task: bool,
}

impl Batch<'_> {
    /// Registers a workspace, or updates it. Its pool cannot change while it has a task that has not ended (protocol H).
    pub(super) async fn register(
        &mut self,
        event: &Admitted,
        registered: &WorkspaceRegistered,
    ) -> Result<Verdict, StoreError> {
        let id = &registered.workspace_id;
        if let Some(rejection) =
            self.ensure_pools(&BTreeSet::from([registered.pool.clone()])).await?.pop_first()
        {
            return Ok(Verdict::Rejected(rejection.1));
        }
        self.insert_workspaces(&BTreeMap::from([(id.clone(), registered.pool.clone())])).await?;
        let busy = |pool: &PoolId| {
            Verdict::Rejected(Rejection::new(
                FailureKind::RejectedTransition,
                format!("workspace {id} belongs to pool {pool} and has a task that has not ended"),
                "wait until its tasks have ended, or cancel them, before moving it to another pool",
            ))
        };
        let Standing { pool, has_open_task } = self.standing(id).await?;
        let moves = pool != registered.pool;
        if moves && has_open_task {
            return Ok(busy(&pool));
        }
        self.lock_to_register(id, moves).await?;
        // Under the lock: a submission that was on its way has committed now, or will see the new pool.
        let Standing { pool: current, has_open_task } = self.standing(id).await?;
        if current != registered.pool && !moves {
            return Err(StoreError::Contention("the workspace was moved meanwhile".into()));
        }
        if current != registered.pool && has_open_task {
            return Ok(busy(&current));
        }
        if current != registered.pool {
            // Ranks are the virtual time of a pool: those of the old one mean nothing in the new one.
            self.transaction.execute("DELETE FROM lanes WHERE workspace_id = $1", &[&id.as_str()]).await?;
        }
        let labels = parsed("labels", serde_json::to_value(&registered.labels))?;
        self.transaction
            .execute(
                "UPDATE workspaces SET pool_id = $2, labels = coalesce(nullif($3::jsonb, 'null'), labels), updated_at = now() \
                 WHERE workspace_id = $1",
                &[&id.as_str(), &registered.pool.as_str(), &labels],
            )
            .await?;
        Ok(Verdict::Accepted(Accepted {
            event_id: event.key.id.clone(),
            task_id: None,
            status: None,
            artifact_digest: None,
            note: Some(format!("workspace {id} is registered in pool {}", registered.pool)),
        }))
    }

    async fn standing(&self, id: &WorkspaceId) -> Result<Standing, StoreError> {
        const FIND: &str = "SELECT w.pool_id, EXISTS (SELECT 1 FROM tasks t WHERE t.workspace_id = w.workspace_id \
            AND t.finished_at IS NULL) AS has_open_task FROM workspaces w WHERE w.workspace_id = $1";
        let row = self.transaction.query_one(FIND, &[&id.as_str()]).await?;
        let pool = parsed("pool_id", row.get::<_, &str>("pool_id").parse())?;
        Ok(Standing { pool, has_open_task: row.get("has_open_task") })
    }

    /// A move excludes every submission, also of kinds that take no workspace lock: those hold the row by a key share, which only
    /// this lock conflicts with. An update of labels disturbs nobody but exclusive tasks.
    async fn lock_to_register(&self, id: &WorkspaceId, moves: bool) -> Result<(), StoreError> {
        let sql = if moves {
            "SELECT 1 FROM workspaces WHERE workspace_id = $1 FOR UPDATE"
        } else {
            "SELECT 1 FROM workspaces WHERE workspace_id = $1 FOR NO KEY UPDATE"
        };
        self.transaction.query(sql, &[&id.as_str()]).await?;
        Ok(())
    }

    /// Makes pools that are missing, where that is allowed. Gives the rejection of every pool that may not be used.
    pub(super) async fn ensure_pools(
        &self,
        pools: &BTreeSet<PoolId>,
    ) -> Result<BTreeMap<PoolId, Rejection>, StoreError> {
        let ids: Vec<&str> = pools.iter().map(PoolId::as_str).collect();
        if self.rules.allow_new_pools && !ids.is_empty() {
            const INSERT: &str = "INSERT INTO pools (pool_id) SELECT u.id FROM unnest($1::text[]) u(id) \
                WHERE NOT EXISTS (SELECT 1 FROM pools p WHERE p.pool_id = u.id) ORDER BY u.id ON CONFLICT DO NOTHING";
            self.transaction.execute(INSERT, &[&ids]).await?;
        }
        let mut usable = BTreeMap::new();
        for row in self
            .transaction
            .query(
                "SELECT pool_id, revoked_at IS NOT NULL AS revoked FROM pools WHERE pool_id = ANY($1)",
                &[&ids],
            )
            .await?
        {
            usable.insert(row.get::<_, String>("pool_id"), !row.get::<_, bool>("revoked"));
        }
        Ok(pools
            .iter()
            .filter_map(|pool| {
                let rejection = match usable.get(pool.as_str()) {
                    Some(true) => return None,
                    Some(false) => Rejection::new(
                        FailureKind::UnknownWorkspace,
                        format!("the grant of pool {pool} is revoked"),
                        "use another pool, or have the grant restored",
                    ),
                    None => Rejection::new(
                        FailureKind::UnknownWorkspace,
                        format!("pool {pool} does not exist"),
                        "have an operator make it, or allow new pools in the dispatcher's configuration",
                    ),
                };
                Some((pool.clone(), rejection))
            })
            .collect())
    }

    /// Inserts workspaces that are missing, sorted by key (protocol E1).
    pub(super) async fn insert_workspaces(
        &self,
        workspaces: &BTreeMap<WorkspaceId, PoolId>,
    ) -> Result<(), StoreError> {
        const INSERT: &str = "INSERT INTO workspaces (workspace_id, pool_id) \
            SELECT u.id, u.pool FROM unnest($1::text[], $2::text[]) u(id, pool) \
            WHERE NOT EXISTS (SELECT 1 FROM workspaces w WHERE w.workspace_id = u.id) ORDER BY u.id ON CONFLICT DO NOTHING";
        if workspaces.is_empty() {
            return Ok(());
        }
        let ids: Vec<&str> = workspaces.keys().map(WorkspaceId::as_str).collect();
        let pools: Vec<&str> = workspaces.values().map(PoolId::as_str).collect();
        self.transaction.execute(INSERT, &[&ids, &pools]).await?;
        Ok(())
    }
}

/// Locks workspaces in order: positions are decided only under this lock (protocol E2).
pub(super) async fn lock_workspaces(
    transaction: &Transaction,
    workspaces: &BTreeSet<WorkspaceId>,
) -> Result<(), StoreError> {
    if workspaces.is_empty() {
        return Ok(());
    }
    const LOCK: &str =
        "SELECT 1 FROM workspaces WHERE workspace_id = ANY($1) ORDER BY workspace_id FOR NO KEY UPDATE";
    let ids: Vec<&str> = workspaces.iter().map(WorkspaceId::as_str).collect();
    transaction.query(LOCK, &[&ids]).await?;
    Ok(())
}

/// Looks workspaces up, and keeps each in its pool until the end of the transaction: a key share, as the foreign key of a new task
/// takes it anyway, lets everybody go on but a move (protocol E2, H).
pub(super) async fn find_workspaces(
    transaction: &Transaction,
    workspaces: &BTreeSet<WorkspaceId>,
) -> Result<BTreeMap<WorkspaceId, Workspace>, StoreError> {
    const FIND: &str = "SELECT workspace_id, pool_id, paused_at IS NOT NULL AS paused FROM workspaces WHERE workspace_id = ANY($1) \
        ORDER BY workspace_id FOR KEY SHARE";
    let ids: Vec<&str> = workspaces.iter().map(WorkspaceId::as_str).collect();
    let mut found = BTreeMap::new();
    for row in transaction.query(FIND, &[&ids]).await? {
        let id: WorkspaceId = parsed("workspace_id", row.get::<_, &str>("workspace_id").parse())?;
        let pool = parsed("pool_id", row.get::<_, &str>("pool_id").parse())?;
        found.insert(id, Workspace { pool, paused: row.get("paused") });
    }
    Ok(found)
}
