//! Pools, workspaces, agents and tasks, put into a test database as intake and presence would have, without a broker.
//!
//! Anything after the first state of a task goes through the store itself: [`Seed::assign`] is the production transition.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use switchyard_common::contract::ids::{
    AgentId, AgentRef, HandlerName, KindName, LeaseToken, PoolId, SessionId, TaskId, WorkspaceId,
};
use switchyard_common::contract::report::Claim;
use switchyard_common::task::{AssignTo, Input, Kind, Kinds, Verdict};
use switchyard_dispatcher::store::{Applied, Db, Named, apply};
use uuid::Uuid;

/// A task to put into the database.
#[derive(Debug, Clone)]
pub struct TaskSeed {
    /// Its id.
    pub id: TaskId,
    /// Its workspace, which must exist.
    pub workspace: WorkspaceId,
    /// Its kind.
    pub kind: Kind,
    /// Not before this time.
    pub not_before: Option<DateTime<Utc>>,
    /// Its deadline.
    pub deadline: Option<DateTime<Utc>>,
    /// Approve by itself.
    pub auto_approve: bool,
}

impl TaskSeed {
    /// A task of a built-in kind, due now.
    ///
    /// # Panics
    /// When an id is malformed or the kind is not built in.
    #[must_use]
    pub fn new(id: &str, workspace: &str, kind: &str) -> Self {
        let kinds = Kinds::with_built_in([]).expect("the built-in kinds are sound");
        let kind = KindName::new(kind).expect("a kind name");
        Self {
            id: TaskId::new(id).expect("a task id"),
            workspace: WorkspaceId::new(workspace).expect("a workspace id"),
            kind: kinds.get(&kind).expect("a built-in kind").clone(),
            not_before: None,
            deadline: None,
            auto_approve: false,
        }
    }
}

/// An agent in the database.
#[derive(Debug, Clone)]
pub struct AgentSeed {
    /// Pool and id.
    pub agent: AgentRef,
    /// Its session.
    pub session: SessionId,
}

/// Puts things into a test database. Every method panics when the database refuses.
#[derive(Clone, Copy)]
pub struct Seed<'a> {
    db: &'a Db,
}

impl<'a> Seed<'a> {
    /// On this database.
    #[must_use]
    pub fn new(db: &'a Db) -> Self {
        Self { db }
    }

    /// Runs one statement.
    pub async fn execute(&self, sql: &str, parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)]) -> u64 {
        let connection = self.db.connection().await.expect("a connection");
        connection.execute(sql, parameters).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    /// Reads one value.
    pub async fn value<T: for<'r> tokio_postgres::types::FromSql<'r>>(
        &self,
        sql: &str,
        parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> T {
        let connection = self.db.connection().await.expect("a connection");
        let row =
            connection.query_one(sql, parameters).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        row.get(0)
    }

    /// A pool.
    pub async fn pool(&self, pool: &str) -> PoolId {
        self.execute("INSERT INTO pools (pool_id) VALUES ($1) ON CONFLICT DO NOTHING", &[&pool]).await;
        PoolId::new(pool).expect("a pool id")
    }

    /// A workspace of a pool, which is made when missing.
    pub async fn workspace(&self, workspace: &str, pool: &str) -> WorkspaceId {
        self.pool(pool).await;
        self.execute("INSERT INTO workspaces (workspace_id, pool_id) VALUES ($1, $2)", &[&workspace, &pool])
            .await;
        WorkspaceId::new(workspace).expect("a workspace id")
    }

    /// A live agent with 4 slots and 4 credit that offers `plan` and `apply`.
    pub async fn agent(&self, pool: &str, agent: &str) -> AgentSeed {
        let pool_id = self.pool(pool).await;
        let session = SessionId(Uuid::new_v4());
        let handlers: Vec<String> = BTreeSet::from(["apply", "plan"])
            .into_iter()
            .map(|name| HandlerName::new(name).expect("a handler name").to_string())
            .collect();
        self.execute(
            "INSERT INTO agents (pool_id, agent_id, session, sequence, pod, version, slots, credit, max_exclusive, handlers)
             VALUES ($1, $2, $3, 1, $4, 'test', 4, 4, 4, $5)",
            &[&pool, &agent, &session.0, &format!("{agent}-pod"), &handlers],
        )
        .await;
        self.execute(
            "INSERT INTO agent_sessions (session, pool_id, agent_id) VALUES ($1, $2, $3)",
            &[&session.0, &pool, &agent],
        )
        .await;
        let agent = AgentRef { pool: pool_id, agent: AgentId::new(agent).expect("an agent id") };
        AgentSeed { agent, session }
    }

    /// A task in its first state: pending, or blocked behind an earlier exclusive task of its workspace.
    pub async fn task(&self, task: &TaskSeed) -> TaskId {
        let steps = serde_json::to_value(&*task.kind.steps).expect("steps are JSON");
        let first = &task.kind.steps[0];
        let waits_in_line = task.kind.exclusive && task.not_before.is_none();
        let sql = "WITH w AS (
                UPDATE workspaces SET next_position = next_position + CASE WHEN $5 THEN 1 ELSE 0 END
                WHERE workspace_id = $2 RETURNING pool_id, next_position - 1 AS position)
            INSERT INTO tasks (task_id, workspace_id, pool_id, kind, exclusive, steps, step_count, payload, priority, status,
                step_name, handler, step_gated, step_repeatable, position, run_after, deadline, auto_approve, since, created_at,
                queue_until, source, event_id)
            SELECT $1, $2, w.pool_id, $3, $4, $6, $7, '{}', 1,
                CASE WHEN $5 AND EXISTS (SELECT 1 FROM tasks t WHERE t.workspace_id = $2 AND t.exclusive
                    AND t.position IS NOT NULL AND t.finished_at IS NULL) THEN 'blocked' ELSE 'pending' END,
                $8, $9, false, $10, CASE WHEN $5 THEN w.position END, $11, $12, $13, now(), now(),
                now() + $14::bigint * interval '1 ms', 'test', $1
            FROM w";
        let steps_count = i16::try_from(task.kind.steps.len()).expect("few steps");
        let queue_timeout =
            first.policy.queue_timeout_ms.map(|ms| i64::try_from(ms).expect("a short timeout"));
        let made = self
            .execute(
                sql,
                &[
                    &task.id.as_str(),
                    &task.workspace.as_str(),
                    &task.kind.name.as_str(),
                    &task.kind.exclusive,
                    &waits_in_line,
                    &steps,
                    &steps_count,
                    &first.name.as_str(),
                    &first.handler.as_str(),
                    &first.repeatable,
                    &task.not_before,
                    &task.deadline,
                    &task.auto_approve,
                    &queue_timeout,
                ],
            )
            .await;
        assert_eq!(made, 1, "the workspace {} must exist", task.workspace);
        self.execute(
            "INSERT INTO events (source, event_id, event_type, body_hash, task_id, answer)
             VALUES ('test', $1, 'switchyard.task.submitted.v1', '\\x00', $1, '{}')",
            &[&task.id.as_str()],
        )
        .await;
        task.id.clone()
    }

    /// Assigns a task through the production transition and gives what its agent would show to speak for it.
    pub async fn assign(&self, task: &TaskId, to: &AgentSeed) -> Claim {
        let lease = LeaseToken(Uuid::new_v4());
        let assign = AssignTo {
            agent: to.agent.clone(),
            pod: format!("{}-pod", to.agent.agent),
            session: to.session,
            lease,
        };
        let applied =
            self.apply(Named { task_id: task.clone(), attempt: None, input: Input::Assign(assign) }).await;
        let after =
            applied.after().unwrap_or_else(|| panic!("{task} was not assigned: {:?}", applied.decision));
        Claim { task_id: task.clone(), attempt: after.task.attempts, session: to.session, lease }
    }

    /// Applies one input through the store.
    pub async fn apply(&self, named: Named) -> Applied {
        let applied = apply(self.db, &[named]).await.expect("the store applies the input");
        applied.into_iter().next().expect("one result per input")
    }

    /// Applies one input that must change its task.
    pub async fn must(&self, task: &TaskId, input: Input) -> Applied {
        let applied = self.apply(Named { task_id: task.clone(), attempt: None, input }).await;
        let changed = applied.decision.as_ref().is_some_and(|d| matches!(d.verdict, Verdict::Changed(_)));
        assert!(changed, "{task} did not change: {:?}", applied.decision);
        applied
    }

    /// The stored status of a task.
    pub async fn status(&self, task: &TaskId) -> String {
        self.value("SELECT status FROM tasks WHERE task_id = $1", &[&task.as_str()]).await
    }

    /// The notes of a task, oldest first.
    pub async fn notes(&self, task: &TaskId) -> Vec<String> {
        let connection = self.db.connection().await.expect("a connection");
        let sql = "SELECT what FROM task_notes WHERE task_id = $1 ORDER BY note_id";
        let rows = connection.query(sql, &[&task.as_str()]).await.expect("notes");
        rows.iter().map(|row| row.get(0)).collect()
    }
}
