//! What reports are judged by, and what is kept of them beside the state of their task.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde_json::Value;
use switchyard_common::contract::assignment::AttemptKey;
use switchyard_common::contract::ids::{AgentRef, PoolId};
use switchyard_common::contract::report::Claim;
use switchyard_common::task::Reporter;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::db::Transaction;
use super::error::StoreError;
use super::save::int;

/// The live grants and the epoch, read in the transaction that they judge (incident 63, protocol G).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The restore epoch.
    pub(crate) epoch: i64,
    granted: BTreeSet<PoolId>,
}

impl Standing {
    /// Reads it for `pools`. A pool that does not exist has no grant.
    pub(crate) async fn load<'a>(
        transaction: &Transaction,
        pools: impl Iterator<Item = &'a PoolId>,
    ) -> Result<Self, StoreError> {
        const SQL: &str = "SELECT f.epoch, p.pool_id FROM fence f \
            LEFT JOIN pools p ON p.pool_id = ANY($1) AND p.revoked_at IS NULL";
        let asked: BTreeSet<&PoolId> = pools.collect();
        let ids: Vec<&str> = asked.iter().map(|pool| pool.as_str()).collect();
        let rows = transaction.query(SQL, &[&ids]).await?;
        let epoch = rows
            .first()
            .map(|row| row.get("epoch"))
            .ok_or_else(|| StoreError::Unreadable("fence: its one row is missing".into()))?;
        let live: BTreeSet<&str> =
            rows.iter().filter_map(|row| row.get::<_, Option<&str>>("pool_id")).collect();
        let granted = asked.into_iter().filter(|pool| live.contains(pool.as_str())).cloned().collect();
        Ok(Self { epoch, granted })
    }

    /// Who speaks, and whether it may.
    pub(crate) fn reporter(&self, sender: &AgentRef, epoch: i64) -> Reporter {
        Reporter {
            agent: sender.clone(),
            granted: self.granted.contains(&sender.pool),
            epoch_is_current: epoch == self.epoch,
        }
    }
}

/// The restore epoch.
pub(crate) async fn epoch(transaction: &Transaction) -> Result<i64, StoreError> {
    Ok(Standing::load(transaction, std::iter::empty()).await?.epoch)
}

/// Claims as columns, for statements that check them against their attempts.
pub(crate) struct ClaimColumns {
    places: Vec<i64>,
    tasks: Vec<String>,
    attempts: Vec<i32>,
    leases: Vec<Uuid>,
    sessions: Vec<Uuid>,
    pools: Vec<String>,
    agents: Vec<String>,
}

/// The FROM item that goes with [`ClaimColumns::parameters`]: attempts `a` whose agent, session and lease are those of claim `u`.
pub(crate) const PROVEN_CLAIMS: &str = "unnest($1::bigint[], $2::text[], $3::integer[], $4::uuid[], $5::uuid[], $6::text[], $7::text[]) \
    u(place, task_id, attempt, lease, session, pool_id, agent_id) \
    JOIN attempts a ON a.task_id = u.task_id AND a.attempt = u.attempt AND a.lease_token = u.lease AND a.session = u.session \
        AND a.pool_id = u.pool_id AND a.agent_id = u.agent_id";

impl ClaimColumns {
    /// The columns of `claims`; each is known by its place.
    pub(crate) fn of<'a>(claims: impl Iterator<Item = (usize, &'a AgentRef, &'a Claim)>) -> Self {
        let mut columns = Self {
            places: Vec::new(),
            tasks: Vec::new(),
            attempts: Vec::new(),
            leases: Vec::new(),
            sessions: Vec::new(),
            pools: Vec::new(),
            agents: Vec::new(),
        };
        for (place, sender, claim) in claims {
            columns.places.push(i64::try_from(place).unwrap_or(i64::MAX));
            columns.tasks.push(claim.task_id.to_string());
            columns.attempts.push(int(claim.attempt));
            columns.leases.push(claim.lease.0);
            columns.sessions.push(claim.session.0);
            columns.pools.push(sender.pool.to_string());
            columns.agents.push(sender.agent.to_string());
        }
        columns
    }

    pub(crate) fn parameters(&self) -> [&(dyn ToSql + Sync); 7] {
        [&self.places, &self.tasks, &self.attempts, &self.leases, &self.sessions, &self.pools, &self.agents]
    }
}

/// What an agent reports of an attempt beside its end: shown to people, never decided by.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Facts {
    pub(crate) key: AttemptKey,
    pub(crate) result: Option<Value>,
    pub(crate) log_lines: u64,
    pub(crate) handler_started_at: Option<DateTime<Utc>>,
    pub(crate) handler_ended_at: Option<DateTime<Utc>>,
}

impl Facts {
    pub(crate) fn log_lines_column(&self) -> i64 {
        i64::try_from(self.log_lines).unwrap_or(i64::MAX)
    }
}

/// Writes facts of attempts that this transaction has locked and does not end: those that were ended before.
pub(crate) async fn write_facts(transaction: &Transaction, facts: &[Facts]) -> Result<(), StoreError> {
    if facts.is_empty() {
        return Ok(());
    }
    const SQL: &str = "UPDATE attempts a SET result = u.result, log_lines = u.log_lines, \
            handler_started_at = u.started_at, handler_ended_at = u.ended_at \
        FROM unnest($1::text[], $2::integer[], $3::jsonb[], $4::bigint[], $5::timestamptz[], $6::timestamptz[]) \
            u(task_id, attempt, result, log_lines, started_at, ended_at) \
        WHERE a.task_id = u.task_id AND a.attempt = u.attempt";
    let ids: Vec<&str> = facts.iter().map(|fact| fact.key.task_id.as_str()).collect();
    let attempts: Vec<i32> = facts.iter().map(|fact| int(fact.key.attempt)).collect();
    let results: Vec<Option<&Value>> = facts.iter().map(|fact| fact.result.as_ref()).collect();
    let lines: Vec<i64> = facts.iter().map(Facts::log_lines_column).collect();
    let started: Vec<Option<DateTime<Utc>>> = facts.iter().map(|fact| fact.handler_started_at).collect();
    let ended: Vec<Option<DateTime<Utc>>> = facts.iter().map(|fact| fact.handler_ended_at).collect();
    transaction.execute(SQL, &[&ids, &attempts, &results, &lines, &started, &ended]).await?;
    Ok(())
}
