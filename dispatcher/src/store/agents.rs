//! What operators ask of agents, and what becomes of those that are gone: drain, retire, terminated. All audited.

use std::time::Duration;

use serde_json::json;
use switchyard_common::contract::ids::{AgentRef, SessionId};
use tokio_postgres::Row;
use uuid::Uuid;

use super::db::Db;
use super::error::StoreError;
use super::operate::audit;
use super::presence::agent_ref;

/// Who retires agents that nobody has heard of for long, in the audit log.
pub const RETIRED_BY_TIME: &str = "retire_after";

/// What an operator asks of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentAct {
    /// Take no more work, and stay.
    Drain,
    /// Take the request to drain back.
    Resume,
    /// It will not come back: empty its queue and delete it.
    Retire,
    /// The process of this session has ended: its container terminated.
    Terminated(SessionId),
}

impl AgentAct {
    const fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Resume => "resume",
            Self::Retire => "retire",
            Self::Terminated(_) => "terminated",
        }
    }
}

/// Carries it out; false when there is no such agent, or none in a state in which that can be asked: one that lives is not retired.
pub async fn act(
    db: &Db,
    agent: &AgentRef,
    act: AgentAct,
    by: &str,
    why: Option<&str>,
) -> Result<bool, StoreError> {
    const DRAIN: &str = "UPDATE agents SET drain_requested_at = now(), drain_requested_by = $3 \
        WHERE pool_id = $1 AND agent_id = $2 AND live";
    const RESUME: &str = "UPDATE agents SET drain_requested_at = NULL, drain_requested_by = NULL \
        WHERE pool_id = $1 AND agent_id = $2 AND $3::text IS NOT NULL";
    const RETIRE: &str = "UPDATE agents SET retire_requested_at = now(), retire_requested_by = $3 \
        WHERE pool_id = $1 AND agent_id = $2 AND NOT live";
    const TERMINATED: &str = "UPDATE agent_sessions SET terminated_at = now(), terminated_by = $3 \
        WHERE pool_id = $1 AND agent_id = $2 AND session = $4";
    db.transaction(|transaction| async move {
        let (pool, id) = (agent.pool.as_str(), agent.agent.as_str());
        let changed = match act {
            AgentAct::Drain => transaction.execute(DRAIN, &[&pool, &id, &by]).await?,
            AgentAct::Resume => transaction.execute(RESUME, &[&pool, &id, &by]).await?,
            AgentAct::Retire => transaction.execute(RETIRE, &[&pool, &id, &by]).await?,
            AgentAct::Terminated(session) => {
                transaction.execute(TERMINATED, &[&pool, &id, &by, &session.0]).await?
            }
        };
        if changed > 0 {
            let session = match act {
                AgentAct::Terminated(session) => Some(session),
                AgentAct::Drain | AgentAct::Resume | AgentAct::Retire => None,
            };
            let detail = json!({ "why": why, "session": session });
            audit(&transaction, by, act.name(), &format!("agent:{agent}"), &detail).await?;
        }
        Ok(changed > 0)
    })
    .await
}

/// Live agents that are to drain and do not say that they do.
pub async fn to_drain(db: &Db) -> Result<Vec<AgentRef>, StoreError> {
    const SQL: &str = "SELECT pool_id, agent_id FROM agents \
        WHERE live AND drain_requested_at IS NOT NULL AND NOT draining ORDER BY pool_id, agent_id";
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(SQL).await?;
    connection.query(&statement, &[]).await?.iter().map(agent_ref).collect()
}

/// An agent that will not come back, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retiring {
    /// The agent.
    pub agent: AgentRef,
    /// Its last session: the fence of everything that is done to it.
    pub session: SessionId,
}

/// Agents that are retired in one run.
const RETIRING_MAX_COUNT: i64 = 20;

/// Agents that are not live and were retired by an operator, or of which nothing was heard for `silent_for`.
pub async fn retiring(db: &Db, silent_for: Duration) -> Result<Vec<Retiring>, StoreError> {
    const SQL: &str = "SELECT pool_id, agent_id, session FROM agents WHERE NOT live AND retired_at IS NULL \
        AND (retire_requested_at IS NOT NULL OR last_seen < now() - $1::double precision * interval '1 second') \
        ORDER BY last_seen LIMIT $2";
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(SQL).await?;
    let rows = connection.query(&statement, &[&silent_for.as_secs_f64(), &RETIRING_MAX_COUNT]).await?;
    let retiring = |row: &Row| {
        Ok(Retiring { agent: agent_ref(row)?, session: SessionId(row.get::<_, Uuid>("session")) })
    };
    rows.iter().map(retiring).collect()
}

/// Whether it is still gone: a new hello gives it another session.
pub async fn is_still_gone(db: &Db, one: &Retiring) -> Result<bool, StoreError> {
    const SQL: &str = "SELECT EXISTS (SELECT 1 FROM agents WHERE pool_id = $1 AND agent_id = $2 AND session = $3 AND NOT live)";
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(SQL).await?;
    let (pool, id) = (one.agent.pool.as_str(), one.agent.agent.as_str());
    Ok(connection.query_one(&statement, &[&pool, &id, &one.session.0]).await?.get(0))
}

/// Its queue is gone: the row says so. False when it came back meanwhile.
pub async fn retired(db: &Db, one: &Retiring, found: usize) -> Result<bool, StoreError> {
    const SQL: &str = "UPDATE agents SET retired_at = now() \
        WHERE pool_id = $1 AND agent_id = $2 AND session = $3 AND NOT live AND retired_at IS NULL \
        RETURNING coalesce(retire_requested_by, $4)";
    db.transaction(|transaction| async move {
        let (pool, id) = (one.agent.pool.as_str(), one.agent.agent.as_str());
        let row = transaction.query_opt(SQL, &[&pool, &id, &one.session.0, &RETIRED_BY_TIME]).await?;
        let Some(row) = row else { return Ok(false) };
        let by: String = row.get(0);
        let detail = json!({ "session": one.session, "assignments_found": found });
        audit(&transaction, &by, "retired", &format!("agent:{}", one.agent), &detail).await?;
        Ok(true)
    })
    .await
}

/// The restore epoch.
pub async fn epoch(db: &Db) -> Result<i64, StoreError> {
    let connection = db.connection().await?;
    Ok(connection.query_one("SELECT epoch FROM fence", &[]).await?.get(0))
}
