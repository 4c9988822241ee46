//! Statements of whole batches, for the test that holds how the database finds their rows.
//!
//! While a table is small, and that is when a connection plans, the database likes to read all of it, or all of a partial index, and to
//! compare each row with each key. That costs the square of a batch once there is much. Hence two rules:
//!
//! - An attempt that is named is open when its `outcome IS NULL`, which a CHECK makes the same as `ended_at IS NULL`; but the latter is the
//!   condition of partial indexes, and invites the database to take one of those in place of the key. An attempt of an agent is open when
//!   its `ended_at IS NULL`, for which there is one index alone.
//! - Whether something is in a list is asked with `IN`, which looks it up in a hash, in place of a join with the list.

use super::{locks, pass, presence, refusals, route, save};

/// One of them.
#[derive(Debug, Clone)]
pub struct Batched {
    /// What it does.
    pub what: &'static str,
    /// Its text.
    pub sql: String,
    /// The indexes by which it may find rows.
    pub indexes: &'static [&'static str],
}

/// All of them.
#[must_use]
pub fn statements() -> Vec<Batched> {
    const KEYS: &[&str] =
        &["workspaces_pkey", "tasks_pkey", "attempts_pkey", "agents_pkey", "artifacts_pkey", "fence_pkey"];
    const AGENT: &[&str] = &["agents_pkey", "attempts_pkey", "attempts_open_by_agent"];
    let batched = |what, sql: &str, indexes| Batched { what, sql: sql.to_owned(), indexes };
    vec![
        batched("locks workspaces", locks::LOCK_WORKSPACES, KEYS),
        batched("locks tasks", &locks::tasks_sql(), KEYS),
        batched("locks tasks to assign", &locks::tasks_to_assign_sql(), KEYS),
        batched("locks attempts", &locks::attempts_sql(), KEYS),
        batched("writes tasks", save::UPDATE_TASKS, KEYS),
        batched("writes attempts", save::UPDATE_ATTEMPTS, KEYS),
        batched("reads assignments", route::CONTENT, KEYS),
        batched("records confirms", route::RECORD_CONFIRMS, KEYS),
        batched("claims publishes", route::CLAIM_RESENDS, KEYS),
        batched("renews publishes", route::RENEW, KEYS),
        batched("reads refused claims", &refusals::named_sql(), KEYS),
        batched("counts what agents have in hand", pass::AGENTS, AGENT),
        batched("compares what agents list", presence::COMPARE_IN_HAND, AGENT),
    ]
}
