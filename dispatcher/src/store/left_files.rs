//! Reading back what steps have left, for people: which files there are, and their bytes, verified against the manifest.

use switchyard_common::contract::artifact::Manifest;
use switchyard_common::contract::ids::{Digest, TaskId};

use serde::Serialize;
use serde_json::Value;

use super::db::{Db, Transaction};
use super::error::StoreError;

/// One file that an attempt has left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftFile {
    /// The step.
    pub step: String,
    /// The attempt.
    pub attempt: i32,
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Of its bytes.
    pub sha256: Digest,
    /// Of the manifest of all files of its attempt: what an approval binds.
    pub manifest_digest: Digest,
    /// Whether the task carries the attempt's files now: an approval binds these, or has bound them.
    pub current: bool,
}

/// The files of a task with those that an approval binds first, else the newest first.
const MANIFESTS: &str = "SELECT a.step_name, m.attempt, m.manifest, m.digest, m.attempt IS NOT DISTINCT FROM t.artifact_attempt AS current \
    FROM artifacts m JOIN attempts a ON a.task_id = m.task_id AND a.attempt = m.attempt JOIN tasks t ON t.task_id = m.task_id \
    WHERE m.task_id = $1 ORDER BY current DESC, m.attempt DESC";

/// Everything that a task's attempts have left; what the task carries now comes first, then the newest.
pub async fn left_files(db: &Db, task_id: &TaskId) -> Result<Vec<LeftFile>, StoreError> {
    db.transaction(|transaction| async move { listed(&transaction, task_id).await }).await
}

async fn listed(transaction: &Transaction, task_id: &TaskId) -> Result<Vec<LeftFile>, StoreError> {
    let mut files = Vec::new();
    for row in transaction.query(MANIFESTS, &[&task_id.as_str()]).await? {
        let manifest: Manifest = serde_json::from_value(row.get::<_, Value>("manifest"))
            .map_err(|error| StoreError::Unreadable(format!("manifest: {error}")))?;
        let digest = super::rows::parsed("digest", row.get::<_, &str>("digest").parse::<Digest>())?;
        files.extend(manifest.0.into_iter().map(|entry| LeftFile {
            step: row.get("step_name"),
            attempt: row.get("attempt"),
            name: entry.name,
            size: entry.size,
            sha256: entry.sha256,
            manifest_digest: digest.clone(),
            current: row.get("current"),
        }));
    }
    Ok(files)
}

/// The same for whoever may have named a task that there is not: none then.
pub async fn left_files_of_known(db: &Db, task_id: &TaskId) -> Result<Option<Vec<LeftFile>>, StoreError> {
    const KNOWN: &str = "SELECT 1 FROM tasks WHERE task_id = $1";
    db.transaction(|transaction| async move {
        if transaction.query_opt(KNOWN, &[&task_id.as_str()]).await?.is_none() {
            return Ok(None);
        }
        listed(&transaction, task_id).await.map(Some)
    })
    .await
}

/// The bytes of one file: of `step`, else of what the task carries now, else of whatever was left last under that name. None when there
/// is no such file.
///
/// # Errors
/// Also when the stored bytes are not those that the manifest names.
pub async fn read_file(
    db: &Db,
    task_id: &TaskId,
    step: Option<&str>,
    name: &str,
) -> Result<Option<(LeftFile, Vec<u8>)>, StoreError> {
    const BYTES: &str = "SELECT coalesce(string_agg(bytes, ''::bytea ORDER BY part), ''::bytea) FROM artifact_parts \
        WHERE task_id = $1 AND attempt = $2 AND name = $3";
    db.transaction(|transaction| async move {
        let files = listed(&transaction, task_id).await?;
        let wanted = |file: &LeftFile| file.name == name && step.is_none_or(|step| file.step == step);
        let Some(file) = files.into_iter().find(wanted) else { return Ok(None) };
        let row = transaction.query_one(BYTES, &[&task_id.as_str(), &file.attempt, &name]).await?;
        let bytes: Vec<u8> = row.get(0);
        if Digest::of(&bytes) != file.sha256 {
            return Err(StoreError::Unreadable(format!(
                "artifact {name:?} of attempt {} does not match its SHA-256",
                file.attempt
            )));
        }
        Ok(Some((file, bytes)))
    })
    .await
}
