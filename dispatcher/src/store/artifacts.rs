//! Artifacts: parts as they arrive, what is known of them, and the manifests of those that a step has left (protocol F2).

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;
use switchyard_common::contract::artifact::{Manifest, part_count};
use switchyard_common::contract::assignment::AttemptKey;
use switchyard_common::contract::ids::{AgentRef, Digest};
use switchyard_common::contract::limits::ARTIFACTS_MAX_COUNT;
use switchyard_common::contract::report::LeftPart;
use switchyard_common::task::Refusal;
use tokio_postgres::types::ToSql;

use super::db::{Db, Transaction};
use super::error::StoreError;
use super::refusals;
use super::reports::{ClaimColumns, PROVEN_CLAIMS, Standing};
use super::rows::{count, parsed};
use super::save::int;
use crate::settle::manifest::StoredFile;

/// A part with its sender.
#[derive(Debug, Clone, Copy)]
pub struct SentPart<'a> {
    /// Who sent it.
    pub sender: &'a AgentRef,
    /// The restore epoch that it carries.
    pub epoch: i64,
    /// The part, with its claim.
    pub left: &'a LeftPart,
}

/// What became of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartEnd {
    /// It is stored, now or by an earlier copy.
    Stored,
    /// Its attempt is not open, or the claim is not its agent's: nothing is stored.
    Refused(Refusal),
    /// Its attempt has left as much as it may.
    OverLimit,
}

/// Stores parts of open attempts whose claim is right, as far as `total_max_bytes` of each attempt reach.
pub async fn store_parts(
    db: &Db,
    parts: &[SentPart<'_>],
    total_max_bytes: u64,
) -> Result<Vec<PartEnd>, StoreError> {
    if parts.is_empty() {
        return Ok(Vec::new());
    }
    db.transaction(|transaction| async move {
        let used = used_by_attempts(&transaction, parts).await?;
        let (mut ends, taken) = admit(parts, used, total_max_bytes);
        insert(&transaction, &taken).await?;
        explain(&transaction, parts, &mut ends).await?;
        Ok(ends)
    })
    .await
}

/// Says of every part that was refused, why.
async fn explain(
    transaction: &Transaction,
    parts: &[SentPart<'_>],
    ends: &mut [PartEnd],
) -> Result<(), StoreError> {
    let refused: Vec<(&SentPart<'_>, &mut PartEnd)> =
        parts.iter().zip(ends).filter(|(_, end)| matches!(end, PartEnd::Refused(_))).collect();
    let claims: Vec<_> =
        refused.iter().map(|(part, _)| (part.sender, part.epoch, &part.left.claim)).collect();
    for ((_, end), reason) in refused.into_iter().zip(refusals::reasons(transaction, &claims).await?) {
        *end = PartEnd::Refused(reason);
    }
    Ok(())
}

/// What the attempt of each proven part has left so far, by place.
async fn used_by_attempts(
    transaction: &Transaction,
    parts: &[SentPart<'_>],
) -> Result<HashMap<usize, (u64, u64)>, StoreError> {
    let sql = format!(
        "SELECT u.place, count(p.part) AS parts, coalesce(sum(octet_length(p.bytes)), 0)::bigint AS bytes \
         FROM {PROVEN_CLAIMS} AND a.outcome IS NULL \
         LEFT JOIN artifact_parts p ON p.task_id = a.task_id AND p.attempt = a.attempt GROUP BY u.place"
    );
    let standing = Standing::load(transaction, parts.iter().map(|part| &part.sender.pool)).await?;
    let may_speak = |part: &SentPart<'_>| {
        let reporter = standing.reporter(part.sender, part.epoch);
        reporter.granted && reporter.epoch_is_current
    };
    let spoken = parts.iter().enumerate().filter(|(_, part)| may_speak(part));
    let columns = ClaimColumns::of(spoken.map(|(place, part)| (place, part.sender, &part.left.claim)));
    let mut used = HashMap::new();
    for row in transaction.query(&sql, &columns.parameters()).await? {
        let place = parsed("place", usize::try_from(row.get::<_, i64>("place")))?;
        let count = parsed("parts", u64::try_from(row.get::<_, i64>("parts")))?;
        let bytes = parsed("bytes", u64::try_from(row.get::<_, i64>("bytes")))?;
        used.insert(place, (count, bytes));
    }
    Ok(used)
}

/// Splits `parts` by what is left of the limits of their attempts.
fn admit<'a>(
    parts: &[SentPart<'a>],
    used: HashMap<usize, (u64, u64)>,
    total_max_bytes: u64,
) -> (Vec<PartEnd>, Vec<&'a LeftPart>) {
    // Every artifact may end in a part that is not full.
    let parts_max = u64::from(part_count(total_max_bytes)) + ARTIFACTS_MAX_COUNT as u64;
    let mut totals: HashMap<AttemptKey, (u64, u64)> = HashMap::new();
    let mut seen: HashSet<(AttemptKey, &str, u32)> = HashSet::new();
    let mut taken = Vec::new();
    let mut ends = Vec::with_capacity(parts.len());
    for (place, SentPart { left, .. }) in parts.iter().enumerate() {
        let Some(stored) = used.get(&place) else {
            ends.push(PartEnd::Refused(Refusal::UnknownAttempt));
            continue;
        };
        let key = left.claim.key();
        let copy = !seen.insert((key.clone(), left.part.name.as_str(), left.part.part));
        let total = totals.entry(key).or_insert(*stored);
        let after = (total.0 + 1, total.1.saturating_add(left.part.bytes.len() as u64));
        if copy {
            ends.push(PartEnd::Stored);
        } else if after.0 > parts_max || after.1 > total_max_bytes {
            ends.push(PartEnd::OverLimit);
        } else {
            *total = after;
            taken.push(*left);
            ends.push(PartEnd::Stored);
        }
    }
    (ends, taken)
}

async fn insert(transaction: &Transaction, parts: &[&LeftPart]) -> Result<(), StoreError> {
    if parts.is_empty() {
        return Ok(());
    }
    const SQL: &str = "INSERT INTO artifact_parts (task_id, attempt, name, part, bytes) \
        SELECT u.* FROM unnest($1::text[], $2::integer[], $3::text[], $4::integer[], $5::bytea[]) u(task_id, attempt, name, part, bytes) \
        ORDER BY u.task_id, u.attempt, u.name, u.part ON CONFLICT DO NOTHING";
    let ids: Vec<&str> = parts.iter().map(|left| left.claim.task_id.as_str()).collect();
    let attempts: Vec<i32> = parts.iter().map(|left| int(left.claim.attempt)).collect();
    let names: Vec<&str> = parts.iter().map(|left| left.part.name.as_str()).collect();
    let numbers: Vec<i32> = parts.iter().map(|left| int(left.part.part)).collect();
    let bytes: Vec<&[u8]> = parts.iter().map(|left| left.part.bytes.as_slice()).collect();
    transaction.execute(SQL, &[&ids, &attempts, &names, &numbers, &bytes]).await?;
    Ok(())
}

/// What is stored of the artifacts of open attempts, by the place of the claim. A claim that is not right, or whose attempt has
/// ended, is left out: it waits for nothing.
pub(crate) async fn stored_files(
    db: &Db,
    columns: &ClaimColumns,
) -> Result<HashMap<usize, BTreeMap<String, StoredFile>>, StoreError> {
    let sql = format!(
        "SELECT u.place, p.name, count(p.part)::integer AS parts, coalesce(sum(octet_length(p.bytes)), 0)::bigint AS bytes, \
            'sha256:' || encode(sha256(string_agg(p.bytes, ''::bytea ORDER BY p.part)), 'hex') AS digest \
         FROM {PROVEN_CLAIMS} AND a.outcome IS NULL \
         LEFT JOIN artifact_parts p ON p.task_id = a.task_id AND p.attempt = a.attempt GROUP BY u.place, p.name"
    );
    let connection = db.connection().await?;
    let statement = connection.prepare_cached(&sql).await?;
    let mut files: HashMap<usize, BTreeMap<String, StoredFile>> = HashMap::new();
    for row in connection.query(&statement, &columns.parameters()).await? {
        let place = parsed("place", usize::try_from(row.get::<_, i64>("place")))?;
        let of_claim = files.entry(place).or_default();
        let (Some(name), Some(digest)) =
            (row.get::<_, Option<String>>("name"), row.get::<_, Option<&str>>("digest"))
        else {
            continue;
        };
        let file = StoredFile {
            parts: count("parts", row.get("parts"))?,
            bytes: parsed("bytes", u64::try_from(row.get::<_, i64>("bytes")))?,
            sha256: parsed("digest", digest.parse::<Digest>())?,
        };
        of_claim.insert(name, file);
    }
    Ok(files)
}

/// Writes the manifests of what attempts have left, verified before.
pub(crate) async fn write_manifests(
    transaction: &Transaction,
    left: &[(AttemptKey, &Manifest)],
) -> Result<(), StoreError> {
    if left.is_empty() {
        return Ok(());
    }
    const SQL: &str = "INSERT INTO artifacts (task_id, attempt, manifest, digest, total_bytes, created_at) \
        SELECT u.*, now() FROM unnest($1::text[], $2::integer[], $3::jsonb[], $4::text[], $5::bigint[]) \
            u(task_id, attempt, manifest, digest, total_bytes) ORDER BY u.task_id, u.attempt";
    let manifests: Vec<Value> = left
        .iter()
        .map(|(_, manifest)| serde_json::to_value(manifest))
        .collect::<Result<_, _>>()
        .map_err(|error| StoreError::Unreadable(format!("manifest: {error}")))?;
    let ids: Vec<&str> = left.iter().map(|(key, _)| key.task_id.as_str()).collect();
    let attempts: Vec<i32> = left.iter().map(|(key, _)| int(key.attempt)).collect();
    let digests: Vec<String> = left.iter().map(|(_, manifest)| manifest.digest().to_string()).collect();
    let totals: Vec<i64> =
        left.iter().map(|(_, manifest)| i64::try_from(manifest.total_bytes()).unwrap_or(i64::MAX)).collect();
    let parameters: [&(dyn ToSql + Sync); 5] = [&ids, &attempts, &manifests, &digests, &totals];
    transaction.execute(SQL, &parameters).await?;
    Ok(())
}
