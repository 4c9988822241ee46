//! Agents, their sessions, and what they have in hand.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use switchyard_common::contract::ids::{AgentRef, PoolId, SessionId};
use switchyard_common::contract::report::InHand;
use tokio_postgres::Row;
use uuid::Uuid;

use super::db::{Db, Transaction};
use super::error::StoreError;
use super::reports;
use super::rows::parsed;
use super::save::int;
use crate::presence::beat::Beat;
use crate::presence::sessions::{Changes, Current, Grant, Known, Seen, Verdict, judge};

/// Stores signs of life, the newest of each session, in one transaction; says what became of each, and the restore epoch.
pub async fn record(
    db: &Db,
    beats: &[Beat],
    allow_new_pools: bool,
) -> Result<(Vec<Verdict>, i64), StoreError> {
    db.transaction(|transaction| async move {
        if allow_new_pools {
            make_pools(&transaction, beats).await?;
        }
        let mut known = known(&transaction, beats).await?;
        let (mut verdicts, changes) = judge(&mut known, beats);
        end_superseded(&transaction, &changes).await?;
        let begun = begin(&transaction, &changes).await?;
        for (beat, verdict) in beats.iter().zip(&mut verdicts) {
            let raced =
                matches!(verdict, Verdict::NewSession { .. }) && !begun.contains(&beat.presence.session);
            // Another replica was faster with this very session, or with another one of the agent: its next sign decides.
            if raced {
                *verdict = Verdict::Stale;
            }
        }
        let heard: Vec<&Beat> = current_of(beats, &verdicts, &known);
        write_agents(&transaction, &heard).await?;
        // An uncertain attempt belongs to a session that has ended, so the signs that are refused are looked at as well.
        note_uncertain(&transaction, beats).await?;
        let epoch = reports::epoch(&transaction).await?;
        Ok((verdicts, epoch))
    })
    .await
}

/// The accepted signs of sessions that are still current at the end of the batch.
fn current_of<'a>(beats: &'a [Beat], verdicts: &[Verdict], known: &Known) -> Vec<&'a Beat> {
    let mut newest: BTreeMap<&AgentRef, &Beat> = BTreeMap::new();
    for (beat, verdict) in beats.iter().zip(verdicts) {
        let current = known.agents.get(&beat.agent).is_some_and(|now| now.session == beat.presence.session);
        if verdict.is_accepted() && current {
            newest.insert(&beat.agent, beat);
        }
    }
    newest.into_values().collect()
}

async fn make_pools(transaction: &Transaction, beats: &[Beat]) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO pools (pool_id) SELECT u.pool_id FROM unnest($1::text[]) u(pool_id) \
        WHERE NOT EXISTS (SELECT 1 FROM pools p WHERE p.pool_id = u.pool_id) ORDER BY u.pool_id ON CONFLICT DO NOTHING";
    let pools: BTreeSet<&str> = beats.iter().map(|beat| beat.agent.pool.as_str()).collect();
    let pools: Vec<&str> = pools.into_iter().collect();
    let made = transaction.execute(SQL, &[&pools]).await?;
    if made > 0 {
        tracing::info!(pools = made, "pools came into being by the first hello of their agents");
    }
    Ok(())
}

/// Locks the agents, in order, and reads what is known.
async fn known(transaction: &Transaction, beats: &[Beat]) -> Result<Known, StoreError> {
    const POOLS: &str =
        "SELECT pool_id, revoked_at IS NOT NULL AS revoked FROM pools WHERE pool_id = ANY($1)";
    const AGENTS: &str = "SELECT g.pool_id, g.agent_id, g.session, g.sequence FROM agents g \
        JOIN unnest($1::text[], $2::text[]) u(pool_id, agent_id) ON g.pool_id = u.pool_id AND g.agent_id = u.agent_id \
        ORDER BY g.pool_id, g.agent_id FOR NO KEY UPDATE OF g";
    const SESSIONS: &str = "SELECT s.session, s.pool_id, s.agent_id, s.ended_at IS NOT NULL AS ended FROM agent_sessions s \
        WHERE s.session = ANY($1) OR s.session IN (SELECT g.session FROM agents g \
            JOIN unnest($2::text[], $3::text[]) u(pool_id, agent_id) ON g.pool_id = u.pool_id AND g.agent_id = u.agent_id)";
    let agents: BTreeSet<&AgentRef> = beats.iter().map(|beat| &beat.agent).collect();
    let pool_ids: Vec<&str> = agents.iter().map(|agent| agent.pool.as_str()).collect();
    let agent_ids: Vec<&str> = agents.iter().map(|agent| agent.agent.as_str()).collect();
    let sessions: Vec<Uuid> = beats.iter().map(|beat| beat.presence.session.0).collect();
    let mut known = Known::default();
    for row in transaction.query(POOLS, &[&pool_ids]).await? {
        let grant = if row.get("revoked") { Grant::Revoked } else { Grant::Live };
        known.pools.insert(pool_id(&row)?, grant);
    }
    for row in transaction.query(AGENTS, &[&pool_ids, &agent_ids]).await? {
        let sequence = parsed("sequence", u64::try_from(row.get::<_, i64>("sequence")))?;
        known.agents.insert(agent_ref(&row)?, Current { session: SessionId(row.get("session")), sequence });
    }
    // Read under the agents' locks, so that a session that ended meanwhile is seen as such.
    for row in transaction.query(SESSIONS, &[&sessions, &pool_ids, &agent_ids]).await? {
        let seen = Seen { agent: agent_ref(&row)?, ended: row.get("ended") };
        known.sessions.insert(SessionId(row.get("session")), seen);
    }
    let Known { agents, sessions, .. } = &mut known;
    agents.retain(|_, current| sessions.get(&current.session).is_some_and(|seen| !seen.ended));
    Ok(known)
}

fn pool_id(row: &Row) -> Result<PoolId, StoreError> {
    parsed("pool_id", row.get::<_, &str>("pool_id").parse())
}

pub(crate) fn agent_ref(row: &Row) -> Result<AgentRef, StoreError> {
    Ok(AgentRef { pool: pool_id(row)?, agent: parsed("agent_id", row.get::<_, &str>("agent_id").parse())? })
}

async fn end_superseded(transaction: &Transaction, changes: &Changes) -> Result<(), StoreError> {
    if changes.superseded.is_empty() {
        return Ok(());
    }
    const SQL: &str = "UPDATE agent_sessions SET ended_at = now(), end_reason = 'superseded' \
        WHERE session = ANY($1) AND ended_at IS NULL";
    let superseded: Vec<Uuid> = changes.superseded.iter().map(|session| session.0).collect();
    transaction.execute(SQL, &[&superseded]).await?;
    Ok(())
}

/// Inserts new sessions, and gives those that this replica was the first to see.
async fn begin(transaction: &Transaction, changes: &Changes) -> Result<BTreeSet<SessionId>, StoreError> {
    if changes.begun.is_empty() {
        return Ok(BTreeSet::new());
    }
    const SQL: &str = "INSERT INTO agent_sessions (session, pool_id, agent_id, ended_at, end_reason) \
        SELECT u.session, u.pool_id, u.agent_id, CASE WHEN u.ended THEN now() END, CASE WHEN u.ended THEN 'superseded' END \
        FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bool[]) u(session, pool_id, agent_id, ended) \
        ORDER BY u.session ON CONFLICT DO NOTHING RETURNING session";
    let sessions: Vec<Uuid> = changes.begun.keys().map(|session| session.0).collect();
    let pools: Vec<&str> = changes.begun.values().map(|agent| agent.pool.as_str()).collect();
    let agents: Vec<&str> = changes.begun.values().map(|agent| agent.agent.as_str()).collect();
    let ended: Vec<bool> = changes.begun.keys().map(|session| changes.superseded.contains(session)).collect();
    let rows = transaction.query(SQL, &[&sessions, &pools, &agents, &ended]).await?;
    Ok(rows.iter().map(|row| SessionId(row.get("session"))).collect())
}

async fn write_agents(transaction: &Transaction, heard: &[&Beat]) -> Result<(), StoreError> {
    if heard.is_empty() {
        return Ok(());
    }
    const SQL: &str = "INSERT INTO agents AS g (pool_id, agent_id, session, sequence, pod, node, version, slots, credit, max_exclusive, \
            handlers, draining, live, last_seen) \
        SELECT u.pool_id, u.agent_id, u.session, u.sequence, u.pod, u.node, u.version, u.slots, u.credit, u.max_exclusive, \
            ARRAY(SELECT jsonb_array_elements_text(u.handlers)), u.draining, true, now() \
        FROM unnest($1::text[], $2::text[], $3::uuid[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::integer[], \
            $9::integer[], $10::integer[], $11::jsonb[], $12::bool[]) \
            u(pool_id, agent_id, session, sequence, pod, node, version, slots, credit, max_exclusive, handlers, draining) \
        ORDER BY u.pool_id, u.agent_id \
        ON CONFLICT (pool_id, agent_id) DO UPDATE SET session = EXCLUDED.session, sequence = EXCLUDED.sequence, pod = EXCLUDED.pod, \
            node = EXCLUDED.node, version = EXCLUDED.version, slots = EXCLUDED.slots, credit = EXCLUDED.credit, \
            max_exclusive = EXCLUDED.max_exclusive, handlers = EXCLUDED.handlers, draining = EXCLUDED.draining, live = true, \
            last_seen = EXCLUDED.last_seen, retired_at = NULL, \
            drain_requested_at = CASE WHEN g.session = EXCLUDED.session THEN g.drain_requested_at END, \
            drain_requested_by = CASE WHEN g.session = EXCLUDED.session THEN g.drain_requested_by END, \
            retire_requested_at = CASE WHEN g.session = EXCLUDED.session THEN g.retire_requested_at END, \
            retire_requested_by = CASE WHEN g.session = EXCLUDED.session THEN g.retire_requested_by END";
    let said = || heard.iter().map(|beat| &beat.presence);
    let handlers: Vec<Value> = said()
        .map(|presence| serde_json::to_value(&presence.handlers))
        .collect::<Result<_, _>>()
        .map_err(|error| StoreError::Unreadable(format!("handlers: {error}")))?;
    transaction
        .execute(
            SQL,
            &[
                &heard.iter().map(|beat| beat.agent.pool.as_str()).collect::<Vec<_>>(),
                &heard.iter().map(|beat| beat.agent.agent.as_str()).collect::<Vec<_>>(),
                &said().map(|p| p.session.0).collect::<Vec<_>>(),
                &said().map(|p| i64::try_from(p.sequence).unwrap_or(i64::MAX)).collect::<Vec<_>>(),
                &said().map(|p| p.pod.as_str()).collect::<Vec<_>>(),
                &said().map(|p| p.node.as_deref()).collect::<Vec<_>>(),
                &said().map(|p| p.version.as_str()).collect::<Vec<_>>(),
                &said().map(|p| int(p.slots)).collect::<Vec<_>>(),
                &said().map(|p| int(p.credit)).collect::<Vec<_>>(),
                &said().map(|p| int(p.max_exclusive)).collect::<Vec<_>>(),
                &handlers,
                &said().map(|p| p.draining).collect::<Vec<_>>(),
            ],
        )
        .await?;
    Ok(())
}

/// What agents list, as columns.
struct Listed {
    tasks: Vec<String>,
    attempts: Vec<i32>,
    sessions: Vec<Uuid>,
}

impl Listed {
    fn of<'a>(in_hand: impl Iterator<Item = &'a InHand>) -> Self {
        let mut listed = Self { tasks: Vec::new(), attempts: Vec::new(), sessions: Vec::new() };
        for one in in_hand {
            listed.tasks.push(one.key.task_id.to_string());
            listed.attempts.push(int(one.key.attempt));
            listed.sessions.push(one.session.0);
        }
        listed
    }
}

/// Open attempts are found agent by agent, and what is listed in a hash, by `IN`: joined, each open attempt would be compared with
/// everything that all agents list. Only what changes is locked, and looked at again under its lock: a start may have been granted
/// meanwhile.
pub(super) const COMPARE_IN_HAND: &str = "UPDATE attempts a SET unlisted = CASE WHEN j.is_listed THEN 0 ELSE a.unlisted + 1 END \
        FROM (SELECT x.task_id, x.attempt, o.is_listed \
            FROM unnest($1::text[], $2::text[], $3::uuid[]) h(pool_id, agent_id, session) \
            CROSS JOIN LATERAL (SELECT y.task_id, y.attempt, y.unlisted, y.confirmed_at, y.started_at, \
                    (y.task_id, y.attempt, y.session) IN (SELECT * FROM unnest($4::text[], $5::integer[], $6::uuid[])) AS is_listed \
                FROM attempts y WHERE y.pool_id = h.pool_id AND y.agent_id = h.agent_id AND y.session = h.session \
                    AND y.ended_at IS NULL OFFSET 0) o \
            JOIN attempts x ON x.task_id = o.task_id AND x.attempt = o.attempt AND x.outcome IS NULL \
            WHERE (o.is_listed AND o.unlisted > 0) \
               OR (NOT o.is_listed AND $7 AND o.unlisted < $9 AND o.confirmed_at < now() - $8 * interval '1 second' \
                   AND coalesce(o.started_at, '-infinity') < now() - $8 * interval '1 second') \
            ORDER BY x.task_id, x.attempt FOR NO KEY UPDATE OF x) j \
        WHERE a.task_id = j.task_id AND a.attempt = j.attempt AND a.outcome IS NULL \
            AND (j.is_listed OR (a.confirmed_at < now() - $8 * interval '1 second' \
                AND coalesce(a.started_at, '-infinity') < now() - $8 * interval '1 second'))";

/// Compares what agents list with what they were given (protocol C2). An attempt counts as unlisted only when its publish was
/// confirmed, and any start granted, longer than `margin` before the sign was received: an assignment on its way must not count.
/// With `silence_counts` false, because outcomes wait that nobody has read, nothing is counted, only forgiven.
pub async fn compare_in_hand(
    db: &Db,
    heard: &[&Beat],
    margin: Duration,
    silence_counts: bool,
) -> Result<u64, StoreError> {
    if heard.is_empty() {
        return Ok(0);
    }
    let pools: Vec<&str> = heard.iter().map(|beat| beat.agent.pool.as_str()).collect();
    let agents: Vec<&str> = heard.iter().map(|beat| beat.agent.agent.as_str()).collect();
    let sessions: Vec<Uuid> = heard.iter().map(|beat| beat.presence.session.0).collect();
    let listed = Listed::of(heard.iter().flat_map(|beat| &beat.presence.in_hand));
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(COMPARE_IN_HAND).await?;
    let changed = connection
        .execute(
            &statement,
            &[
                &pools,
                &agents,
                &sessions,
                &listed.tasks,
                &listed.attempts,
                &listed.sessions,
                &silence_counts,
                &margin.as_secs_f64(),
                &UNLISTED_COUNTED_MAX,
            ],
        )
        .await?;
    Ok(changed)
}

/// Signs of life that are counted for one unlisted attempt; nothing depends on more.
const UNLISTED_COUNTED_MAX: i32 = 100;

/// Takes agents to drain in these sessions; one that is not the agent's own changes nothing.
pub(crate) async fn drains(
    transaction: &Transaction,
    agents: &[(&AgentRef, SessionId)],
) -> Result<(), StoreError> {
    if agents.is_empty() {
        return Ok(());
    }
    const SQL: &str = "UPDATE agents g SET draining = true FROM ( \
            SELECT x.pool_id, x.agent_id FROM agents x WHERE NOT x.draining \
                AND (x.pool_id, x.agent_id, x.session) IN (SELECT * FROM unnest($1::text[], $2::text[], $3::uuid[])) \
            ORDER BY x.pool_id, x.agent_id FOR NO KEY UPDATE OF x) c \
        WHERE g.pool_id = c.pool_id AND g.agent_id = c.agent_id";
    let pools: Vec<&str> = agents.iter().map(|(agent, _)| agent.pool.as_str()).collect();
    let ids: Vec<&str> = agents.iter().map(|(agent, _)| agent.agent.as_str()).collect();
    let sessions: Vec<Uuid> = agents.iter().map(|(_, session)| session.0).collect();
    transaction.execute(SQL, &[&pools, &ids, &sessions]).await?;
    Ok(())
}

/// What is noted of an uncertain task whose agent still runs it (protocol H).
pub const STILL_RUNNING_NOTE: &str = "its agent reports it running";

/// Writes when an uncertain task was last listed as running by its agent, and notes it once per attempt. In the transaction of the sign
/// of life, so that nobody sees the agent heard and the attempt not listed.
async fn note_uncertain(transaction: &Transaction, heard: &[Beat]) -> Result<u64, StoreError> {
    let running = heard.iter().flat_map(|beat| beat.presence.in_hand.iter().map(move |one| (beat, one)));
    let running: Vec<(&Beat, &InHand)> = running.filter(|(_, one)| one.running).collect();
    if running.is_empty() {
        return Ok(0);
    }
    const SQL: &str = "WITH found AS (SELECT x.task_id, x.attempt \
            FROM unnest($1::text[], $2::integer[], $3::uuid[], $4::text[], $5::text[]) l(task_id, attempt, session, pool_id, agent_id) \
            JOIN attempts x ON x.task_id = l.task_id AND x.attempt = l.attempt AND x.session = l.session AND x.outcome IS NULL \
                AND x.pool_id = l.pool_id AND x.agent_id = l.agent_id \
            JOIN tasks t ON t.task_id = x.task_id AND t.status = 'uncertain' \
            ORDER BY x.task_id, x.attempt FOR NO KEY UPDATE OF x), \
        listed AS (UPDATE attempts a SET listed_at = now() FROM found f \
            WHERE a.task_id = f.task_id AND a.attempt = f.attempt RETURNING a.task_id, a.attempt, a.agent_id, a.session) \
        INSERT INTO task_notes (task_id, at, attempt, what, detail) \
        SELECT a.task_id, now(), a.attempt, $6, jsonb_build_object('agent', a.agent_id, 'session', a.session) FROM listed a \
        WHERE NOT EXISTS (SELECT 1 FROM task_notes n WHERE n.task_id = a.task_id AND n.attempt = a.attempt AND n.what = $6)";
    let listed = Listed::of(running.iter().map(|(_, one)| *one));
    let pools: Vec<&str> = running.iter().map(|(beat, _)| beat.agent.pool.as_str()).collect();
    let agents: Vec<&str> = running.iter().map(|(beat, _)| beat.agent.agent.as_str()).collect();
    let noted = transaction
        .execute(
            SQL,
            &[&listed.tasks, &listed.attempts, &listed.sessions, &pools, &agents, &STILL_RUNNING_NOTE],
        )
        .await?;
    Ok(noted)
}

/// An agent whose session was ended because nothing was heard of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Lost {
    /// The agent.
    pub agent: AgentRef,
    /// The session that has ended.
    pub session: SessionId,
    /// It had said that it drains, and has nothing in hand: it went as it should.
    pub drained: bool,
    /// How long it was silent, in seconds, by the database clock.
    pub silent_seconds: f64,
}

/// Agents that are declared lost in one transaction.
const LOST_MAX_COUNT: i64 = 100;

/// Ends the sessions of agents that were silent for longer than `lost_after` by the database clock, whoever heard them last
/// (protocol C1). Only the caller knows whether it may: see [`crate::presence::judge`].
pub async fn declare_lost(db: &Db, lost_after: Duration) -> Result<Vec<Lost>, StoreError> {
    const AGENTS: &str = "UPDATE agents g SET live = false FROM ( \
            SELECT x.pool_id, x.agent_id FROM agents x WHERE x.live AND x.last_seen < now() - $1 * interval '1 second' \
            ORDER BY x.pool_id, x.agent_id LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED) c \
        WHERE g.pool_id = c.pool_id AND g.agent_id = c.agent_id \
        RETURNING g.pool_id, g.agent_id, g.session, extract(epoch FROM now() - g.last_seen)::double precision AS silent, \
            g.draining AND NOT EXISTS (SELECT 1 FROM attempts a WHERE a.pool_id = g.pool_id AND a.agent_id = g.agent_id \
                AND a.ended_at IS NULL) AS drained";
    db.transaction(|transaction| async move {
        let rows = transaction.query(AGENTS, &[&lost_after.as_secs_f64(), &LOST_MAX_COUNT]).await?;
        let lost: Vec<Lost> = rows
            .iter()
            .map(|row| {
                Ok(Lost {
                    agent: agent_ref(row)?,
                    session: SessionId(row.get("session")),
                    drained: row.get("drained"),
                    silent_seconds: row.get("silent"),
                })
            })
            .collect::<Result<_, StoreError>>()?;
        let (drained, silent): (Vec<&Lost>, Vec<&Lost>) = lost.iter().partition(|lost| lost.drained);
        end_sessions(&transaction, &silent, "silent").await?;
        end_sessions(&transaction, &drained, "drained").await?;
        Ok(lost)
    })
    .await
}

async fn end_sessions(transaction: &Transaction, lost: &[&Lost], reason: &str) -> Result<(), StoreError> {
    if lost.is_empty() {
        return Ok(());
    }
    const SQL: &str = "UPDATE agent_sessions SET ended_at = now(), end_reason = $2 WHERE session = ANY($1) AND ended_at IS NULL";
    let sessions: Vec<Uuid> = lost.iter().map(|lost| lost.session.0).collect();
    transaction.execute(SQL, &[&sessions, &reason]).await?;
    Ok(())
}

/// Ends the sessions of pools whose grant was revoked (incident 63).
pub async fn end_revoked(db: &Db) -> Result<u64, StoreError> {
    const SQL: &str = "WITH gone AS (UPDATE agents g SET live = false FROM ( \
            SELECT x.pool_id, x.agent_id FROM agents x JOIN pools p ON p.pool_id = x.pool_id \
            WHERE x.live AND p.revoked_at IS NOT NULL ORDER BY x.pool_id, x.agent_id FOR NO KEY UPDATE OF x) c \
            WHERE g.pool_id = c.pool_id AND g.agent_id = c.agent_id RETURNING g.session) \
        UPDATE agent_sessions s SET ended_at = now(), end_reason = 'pool_revoked' FROM gone \
        WHERE s.session = gone.session AND s.ended_at IS NULL";
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(SQL).await?;
    Ok(connection.execute(&statement, &[]).await?)
}
