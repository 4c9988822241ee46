//! What a program left behind: its artifacts and its result, checked and bounded. Read only after every process has gone.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::fcntl::OFlag;
use serde_json::Value;
use switchyard_common::contract::artifact::check_name;
use switchyard_common::contract::limits::{ARTIFACTS_MAX_COUNT, RESULT_MAX_BYTES};

/// Why what was left is refused. Says what to do.
#[derive(Debug, thiserror::Error)]
pub enum LeftoverError {
    /// Not a regular file.
    #[error(
        "artifact {0:?} is {1}: only regular files can be artifacts; copy the file, or pack directories into an archive"
    )]
    NotAFile(String, &'static str),
    /// A name that cannot travel.
    #[error("{0}")]
    Name(String),
    /// Too many.
    #[error("there are more than {ARTIFACTS_MAX_COUNT} artifacts: pack them into one archive")]
    Count,
    /// Too large.
    #[error(
        "the artifacts have more than {0} bytes in total (max_artifact_bytes): leave large data in an object store and \
         keep its digest"
    )]
    Total(u64),
    /// The result is too large.
    #[error("the result file has more than {RESULT_MAX_BYTES} bytes: leave large data as an artifact")]
    ResultSize,
    /// The result is not JSON.
    #[error("the result file is not JSON: {0}")]
    ResultJson(serde_json::Error),
    /// The result is not a regular file.
    #[error("the result file is {0}, not a regular file")]
    ResultNotAFile(&'static str),
    /// The file system refused.
    #[error("cannot read {0}: {1}")]
    Io(String, io::Error),
}

/// Reads every file of `dir`, of `max_bytes` in total.
///
/// # Errors
/// On anything that is not a plain file with a plain name, and above the limits. Nothing is skipped in silence.
pub fn collect(dir: &Path, max_bytes: u64) -> Result<BTreeMap<String, Vec<u8>>, LeftoverError> {
    let io_error = |error| LeftoverError::Io(dir.display().to_string(), error);
    let mut files = BTreeMap::new();
    let mut room = max_bytes;
    for entry in fs::read_dir(dir).map_err(io_error)? {
        let entry = entry.map_err(io_error)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            return Err(LeftoverError::Name(format!("artifact name {name:?} is refused: it is not UTF-8")));
        };
        check_name(name).map_err(|error| LeftoverError::Name(error.to_string()))?;
        if files.len() == ARTIFACTS_MAX_COUNT {
            return Err(LeftoverError::Count);
        }
        let kind = kind_of(&entry.path()).map_err(io_error)?;
        if let Some(kind) = kind {
            return Err(LeftoverError::NotAFile(name.to_owned(), kind));
        }
        let bytes = read_at_most(&entry.path(), room)
            .map_err(|error| LeftoverError::Io(name.to_owned(), error))?
            .ok_or(LeftoverError::Total(max_bytes))?;
        room = room.saturating_sub(bytes.len() as u64);
        files.insert(name.to_owned(), bytes);
    }
    Ok(files)
}

/// Reads the optional result.
///
/// # Errors
/// When it is there and is not JSON, not a regular file, or above the limit.
pub fn read_result(path: &Path) -> Result<Option<Value>, LeftoverError> {
    let io_error = |error| LeftoverError::Io(path.display().to_string(), error);
    match kind_of(path) {
        Ok(None) => {}
        Ok(Some(kind)) => return Err(LeftoverError::ResultNotAFile(kind)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(error)),
    }
    let bytes =
        read_at_most(path, RESULT_MAX_BYTES as u64).map_err(io_error)?.ok_or(LeftoverError::ResultSize)?;
    serde_json::from_slice(&bytes).map(Some).map_err(LeftoverError::ResultJson)
}

/// None for a regular file; else what it is, in words. Symbolic links are not followed: they could name the agent's own files.
fn kind_of(path: &Path) -> io::Result<Option<&'static str>> {
    let kind = path.symlink_metadata()?.file_type();
    Ok(if kind.is_file() {
        None
    } else if kind.is_symlink() {
        Some("a symbolic link")
    } else if kind.is_dir() {
        Some("a directory")
    } else {
        Some("a pipe, socket or device")
    })
}

/// None when there is more than `max_bytes`. Never reads more than one byte above it, whatever the size is said to be.
fn read_at_most(path: &Path, max_bytes: u64) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file: File = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    let mut bytes = Vec::new();
    file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= max_bytes).then_some(bytes))
}

#[cfg(test)]
#[path = "artifacts_tests.rs"]
mod tests;
