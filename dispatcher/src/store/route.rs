//! What routing reads and writes: the content of an assignment, its publishes and confirms (protocol B1, B2).

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use switchyard_common::contract::artifact::{ArtifactPart, Manifest};
use switchyard_common::contract::assignment::{AssignedApproval, Assignment, AttemptKey, InputPart};
use switchyard_common::contract::ids::{LeaseToken, SessionId};
use switchyard_common::task::{Step, Subject};
use tokio::time::Instant;
use tokio_postgres::Row;

use super::db::Db;
use super::error::StoreError;
use super::rows::{count, parsed};
use super::save::{int, run_timeout_ms};

/// One publish of an attempt: only the replica that the database names as its publisher, under this very number, may send it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// The attempt.
    pub key: AttemptKey,
    /// The number of the publish.
    pub publish_no: u32,
}

impl Publish {
    /// The publish that was committed with the attempt.
    #[must_use]
    pub const fn first(key: AttemptKey) -> Self {
        Self { key, publish_no: 1 }
    }
}

/// A committed assignment on its way to routing.
#[derive(Debug, Clone, PartialEq)]
pub struct Committed {
    /// The attempt.
    pub key: AttemptKey,
    /// What is to be sent, where the transaction that committed it has read all of it; else routing reads it.
    pub fresh: Option<Box<Fresh>>,
}

/// An assignment as the transaction that committed it knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Fresh {
    /// The message.
    pub assignment: Assignment,
    /// When that transaction began. This replica cannot have been the attempt's publisher for longer, and nobody else can be for as long
    /// as [`SEND_WITHIN`](crate::route::decide::SEND_WITHIN) from then on (protocol B2): the database need not be asked again.
    pub since: Instant,
}

/// Largest payload that is handed over with an assignment, in bytes of JSON: about what the database keeps in the row. Batches wait for
/// routing in memory; what is larger is read when it is its turn.
pub const SAID_MAX_BYTES: usize = 2_000;

/// What a message says beyond the state of its task.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Said {
    pub(crate) payload: Value,
    pub(crate) traceparent: Option<String>,
    pub(crate) epoch: i64,
}

impl From<AttemptKey> for Committed {
    /// One whose message is to be read.
    fn from(key: AttemptKey) -> Self {
        Self { key, fresh: None }
    }
}

impl Committed {
    /// The newest attempt of `subject`, assigned by a transaction that began at `since`; none when it has no attempt. What has inputs or
    /// rests on an approval is left to be read: it is seldom, and large.
    pub(crate) fn of(subject: &Subject, said: Option<Said>, since: Instant) -> Option<Self> {
        let Subject { task, attempt } = subject;
        let attempt = attempt.as_ref()?;
        let step = task.steps.get(attempt.step)?;
        let key = AttemptKey { task_id: task.id.clone(), attempt: attempt.number };
        let Some(said) = said.filter(|_| attempt.step == 0 && !step.approval) else {
            return Some(Self::from(key));
        };
        let assignee = &attempt.assignee;
        let assignment = Assignment {
            epoch: said.epoch,
            task_id: task.id.clone(),
            attempt: attempt.number,
            lease: assignee.lease,
            session: assignee.session,
            pool: assignee.agent.pool.clone(),
            agent: assignee.agent.agent.clone(),
            workspace_id: task.workspace.clone(),
            kind: task.kind.clone(),
            step: step.name.clone(),
            handler: step.handler.clone(),
            exclusive: task.exclusive,
            repeatable: step.repeatable,
            run_timeout_ms: run_timeout_ms(step),
            parameters: step.parameters.clone(),
            payload: said.payload,
            approval: None,
            inputs: Manifest::default(),
            publish_no: attempt.publish_no,
            traceparent: said.traceparent,
        };
        Some(Self { key, fresh: Some(Box::new(Fresh { assignment, since })) })
    }
}

/// An assignment as it is committed; the parts of its inputs are read when it is its turn, because they may be large.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    /// The assignment.
    pub assignment: Assignment,
    /// The attempt that has left its inputs; none when it has no inputs.
    pub inputs_of: Option<i32>,
    /// How long this replica has been its publisher, by the database clock.
    pub age: Duration,
}

impl Content {
    /// How many bytes its inputs have.
    #[must_use]
    pub fn input_bytes(&self) -> u64 {
        self.assignment.inputs.total_bytes()
    }
}

/// An assignment with the parts that travel ahead of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Dispatch {
    /// Parts of its inputs, in order.
    pub parts: Vec<InputPart>,
    /// The assignment.
    pub assignment: Assignment,
    /// How long this replica has been its publisher, by the database clock.
    pub age: Duration,
}

pub(super) const CONTENT: &str = "SELECT a.task_id, a.attempt, a.step AS attempt_step, a.lease_token, a.session, a.pool_id, a.agent_id, a.publish_no, \
        a.run_timeout_ms, t.workspace_id, t.kind, t.exclusive, t.steps::text AS steps, t.payload, t.traceparent, \
        t.approved_by, t.approved_at, t.approved_digest, t.artifact_attempt, m.manifest, f.epoch, \
        greatest(extract(epoch FROM clock_timestamp() - a.published_at), 0)::double precision AS age \
    FROM unnest($1::text[], $2::integer[], $3::integer[]) u(task_id, attempt, publish_no) \
    JOIN attempts a ON a.task_id = u.task_id AND a.attempt = u.attempt AND a.outcome IS NULL \
        AND a.published_by = $4 AND a.publish_no = u.publish_no \
    JOIN tasks t ON t.task_id = a.task_id \
    LEFT JOIN artifacts m ON m.task_id = t.task_id AND m.attempt = t.artifact_attempt AND a.step > 0 \
    CROSS JOIN fence f";

/// Reads the content of open attempts whose publisher is this replica, under the number given. Others are left out: nothing is sent
/// for an attempt that has ended, and nothing by a replica that was taken over (protocol B2). One that cannot be read is left out as
/// well, loudly: it must not hold up the rest.
pub async fn contents(db: &Db, publishes: &[Publish]) -> Result<Vec<Content>, StoreError> {
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(CONTENT).await?;
    let (ids, numbers, publish_numbers) = split(publishes);
    let rows = connection.query(&statement, &[&ids, &numbers, &publish_numbers, &db.replica]).await?;
    let mut contents = Vec::with_capacity(rows.len());
    for row in &rows {
        let assignment = match assignment(db, row) {
            Ok(assignment) => assignment,
            Err(error) => {
                let (task_id, attempt): (&str, i32) = (row.get("task_id"), row.get("attempt"));
                tracing::error!(task_id, attempt, %error, "an assignment cannot be read; it is tried again later");
                metrics::counter!("switchyard_unreadable_rows_total", "part" => "route").increment(1);
                continue;
            }
        };
        let inputs_of =
            row.get::<_, Option<i32>>("artifact_attempt").filter(|_| !assignment.inputs.0.is_empty());
        let age = Duration::try_from_secs_f64(row.get("age")).unwrap_or(Duration::MAX);
        contents.push(Content { assignment, inputs_of, age });
    }
    Ok(contents)
}

fn assignment(db: &Db, row: &Row) -> Result<Assignment, StoreError> {
    let steps = db.steps.read(row.get("steps"))?;
    let index = parsed("attempts.step", usize::try_from(row.get::<_, i16>("attempt_step")))?;
    let step: &Step = steps
        .get(index)
        .ok_or_else(|| StoreError::Unreadable(format!("attempts.step: {index} is outside the steps")))?;
    let manifest: Option<Value> = row.get("manifest");
    Ok(Assignment {
        epoch: row.get("epoch"),
        task_id: parsed("task_id", row.get::<_, &str>("task_id").parse())?,
        attempt: count("attempt", row.get("attempt"))?,
        lease: LeaseToken(row.get("lease_token")),
        session: SessionId(row.get("session")),
        pool: parsed("pool_id", row.get::<_, &str>("pool_id").parse())?,
        agent: parsed("agent_id", row.get::<_, &str>("agent_id").parse())?,
        workspace_id: parsed("workspace_id", row.get::<_, &str>("workspace_id").parse())?,
        kind: parsed("kind", row.get::<_, &str>("kind").parse())?,
        step: step.name.clone(),
        handler: step.handler.clone(),
        exclusive: row.get("exclusive"),
        repeatable: step.repeatable,
        run_timeout_ms: parsed("run_timeout_ms", u64::try_from(row.get::<_, i64>("run_timeout_ms")))?,
        parameters: step.parameters.clone(),
        payload: row.get("payload"),
        approval: if step.approval { Some(approval(row)?) } else { None },
        inputs: match manifest {
            Some(manifest) => parsed("manifest", serde_json::from_value::<Manifest>(manifest))?,
            None => Manifest::default(),
        },
        publish_no: count("publish_no", row.get("publish_no"))?,
        traceparent: row.get("traceparent"),
    })
}

/// A gated step without its approval record cannot become a message (incident 20).
fn approval(row: &Row) -> Result<AssignedApproval, StoreError> {
    let (Some(approved_by), Some(approved_at), Some(digest)) = (
        row.get::<_, Option<String>>("approved_by"),
        row.get::<_, Option<DateTime<Utc>>>("approved_at"),
        row.get::<_, Option<&str>>("approved_digest"),
    ) else {
        return Err(StoreError::Unreadable(
            "tasks.approved_by: a gated step was assigned without an approval".into(),
        ));
    };
    Ok(AssignedApproval { approved_by, approved_at, digest: parsed("approved_digest", digest.parse())? })
}

/// Reads the parts of its inputs, in order.
pub async fn input_parts(db: &Db, content: &Content) -> Result<Vec<InputPart>, StoreError> {
    const SQL: &str = "SELECT name, part, bytes FROM artifact_parts WHERE task_id = $1 AND attempt = $2 ORDER BY name, part";
    let Some(source) = content.inputs_of else { return Ok(Vec::new()) };
    let assignment = &content.assignment;
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(SQL).await?;
    let rows = connection.query(&statement, &[&assignment.task_id.as_str(), &source]).await?;
    rows.iter()
        .map(|row| {
            Ok(InputPart {
                key: assignment.key(),
                session: assignment.session,
                part: ArtifactPart {
                    name: row.get("name"),
                    part: count("part", row.get("part"))?,
                    bytes: row.get("bytes"),
                },
            })
        })
        .collect()
}

pub(super) const CLAIM_RESENDS: &str = "UPDATE attempts a SET publish_no = a.publish_no + 1, published_by = $4, published_at = now() \
    FROM (SELECT x.task_id, x.attempt FROM attempts x \
          JOIN unnest($1::text[], $2::integer[], $3::integer[]) u(task_id, attempt, publish_no) \
            ON x.task_id = u.task_id AND x.attempt = u.attempt AND x.publish_no = u.publish_no \
          WHERE x.outcome IS NULL AND x.confirmed_at IS NULL ORDER BY x.task_id, x.attempt FOR NO KEY UPDATE OF x) c \
    WHERE a.task_id = c.task_id AND a.attempt = c.attempt AND a.outcome IS NULL \
    RETURNING a.task_id, a.attempt, a.publish_no";

/// Claims publishes that are given up for another one by this replica: `publish_no` grows before anything is sent, so that a late
/// return of an earlier copy can never undo an assignment that somebody may have, and whoever was the publisher finds that it is no
/// longer (protocol B1 to B3). Returns those that are still open, with their new numbers.
pub async fn claim_resends(db: &Db, given_up: &[Publish]) -> Result<Vec<Publish>, StoreError> {
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(CLAIM_RESENDS).await?;
    let (ids, numbers, publish_numbers) = split(given_up);
    let rows = connection.query(&statement, &[&ids, &numbers, &publish_numbers, &db.replica]).await?;
    rows.iter().map(publish).collect()
}

pub(super) const RENEW: &str = "UPDATE attempts a SET published_at = now() \
    FROM (SELECT x.task_id, x.attempt FROM attempts x \
          JOIN unnest($1::text[], $2::integer[], $3::integer[]) u(task_id, attempt, publish_no) \
            ON x.task_id = u.task_id AND x.attempt = u.attempt AND u.publish_no = x.publish_no \
          WHERE x.outcome IS NULL AND x.confirmed_at IS NULL AND x.published_by = $4 \
          ORDER BY x.task_id, x.attempt FOR NO KEY UPDATE OF x) c \
    WHERE a.task_id = c.task_id AND a.attempt = c.attempt AND a.outcome IS NULL \
    RETURNING a.task_id, a.attempt, a.publish_no";

/// Starts the time of publishes anew in which they must be written: of those that are still open and this replica's own, which it gives.
/// For publishes under whose number nothing was sent.
pub async fn renew(db: &Db, publishes: &[Publish]) -> Result<Vec<Publish>, StoreError> {
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(RENEW).await?;
    let (ids, numbers, publish_numbers) = split(publishes);
    let rows = connection.query(&statement, &[&ids, &numbers, &publish_numbers, &db.replica]).await?;
    rows.iter().map(publish).collect()
}

/// Most orphaned publishes that one sweep takes over, in attempts.
const TAKE_OVER_MAX_COUNT: i64 = 500;

/// Finds open, unconfirmed attempts whose publisher's own heartbeat row is stale, or says that it cannot publish: only then may another
/// replica send them again (protocol B2). What is younger than `stale_after` its publisher may be writing, so it is left alone.
pub async fn orphaned(db: &Db, stale_after: Duration) -> Result<Vec<Publish>, StoreError> {
    const SQL: &str = "SELECT a.task_id, a.attempt, a.publish_no FROM attempts a \
        WHERE a.ended_at IS NULL AND a.confirmed_at IS NULL AND a.published_by <> $1 \
          AND a.published_at < now() - $2::double precision * interval '1 second' \
          AND NOT EXISTS (SELECT 1 FROM replicas r WHERE r.replica_id = a.published_by AND r.publishes \
              AND r.heartbeat_at > now() - $2::double precision * interval '1 second') \
        ORDER BY a.published_at LIMIT $3";
    unconfirmed(db, SQL, stale_after).await
}

/// Finds open attempts that this replica published longer than `after` ago and whose confirm is not recorded. Those that it does not
/// know of were committed without its hearing of it.
pub async fn unconfirmed_own(db: &Db, after: Duration) -> Result<Vec<Publish>, StoreError> {
    const SQL: &str = "SELECT a.task_id, a.attempt, a.publish_no FROM attempts a \
        WHERE a.ended_at IS NULL AND a.confirmed_at IS NULL AND a.published_by = $1 \
          AND a.published_at < now() - $2::double precision * interval '1 second' \
        ORDER BY a.published_at LIMIT $3";
    unconfirmed(db, SQL, after).await
}

async fn unconfirmed(db: &Db, sql: &str, after: Duration) -> Result<Vec<Publish>, StoreError> {
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(sql).await?;
    let rows =
        connection.query(&statement, &[&db.replica, &after.as_secs_f64(), &TAKE_OVER_MAX_COUNT]).await?;
    rows.iter().map(publish).collect()
}

pub(super) const RECORD_CONFIRMS: &str = "UPDATE attempts a SET confirmed_at = now() \
        FROM (SELECT x.task_id, x.attempt FROM unnest($1::text[], $2::integer[]) u(task_id, attempt) \
              JOIN attempts x ON x.task_id = u.task_id AND x.attempt = u.attempt \
              WHERE x.outcome IS NULL AND x.confirmed_at IS NULL ORDER BY x.task_id, x.attempt FOR NO KEY UPDATE OF x) c \
        WHERE a.task_id = c.task_id AND a.attempt = c.attempt";

/// Records confirms of attempts that are still open; most have ended by then, and are only looked at (protocol B2).
pub async fn record_confirms(db: &Db, keys: &[AttemptKey]) -> Result<u64, StoreError> {
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(RECORD_CONFIRMS).await?;
    let (ids, numbers): (Vec<&str>, Vec<i32>) =
        keys.iter().map(|key| (key.task_id.as_str(), int(key.attempt))).unzip();
    Ok(connection.execute(&statement, &[&ids, &numbers]).await?)
}

fn split(publishes: &[Publish]) -> (Vec<&str>, Vec<i32>, Vec<i32>) {
    let ids = publishes.iter().map(|publish| publish.key.task_id.as_str()).collect();
    let numbers = publishes.iter().map(|publish| int(publish.key.attempt)).collect();
    (ids, numbers, publishes.iter().map(|publish| int(publish.publish_no)).collect())
}

fn publish(row: &Row) -> Result<Publish, StoreError> {
    let key = AttemptKey {
        task_id: parsed("task_id", row.get::<_, &str>("task_id").parse())?,
        attempt: count("attempt", row.get("attempt"))?,
    };
    Ok(Publish { key, publish_no: count("publish_no", row.get("publish_no"))? })
}
