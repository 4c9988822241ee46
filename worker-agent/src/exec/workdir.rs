//! One directory per attempt: made before the program starts, removed only after everything it started has gone (incident 61).
//!
//! ```text
//! <work_root>/<task>-<attempt>/
//!   .switchyard-attempt   says that this directory is ours to remove
//!   task.json             SWITCHYARD_TASK_FILE, read-only
//!   input/                SWITCHYARD_INPUT_DIR: the approved artifacts, read-only
//!   artifacts/            SWITCHYARD_ARTIFACT_DIR
//!   result.json           SWITCHYARD_RESULT_FILE, when the program writes it
//!   work/                 the program's working directory
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use switchyard_common::contract::artifact::check_name;

use super::limits::WORKDIR_NAME_MAX_BYTES;
use super::orphans;
use super::task::{InputArtifact, ProgramTask};

const MARKER: &str = ".switchyard-attempt";
const LOCK: &str = ".switchyard-agent.lock";
const DIR_MODE: u32 = 0o700;
const READ_ONLY_DIR_MODE: u32 = 0o500;
const READ_ONLY_FILE_MODE: u32 = 0o400;

/// Why a working directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WorkdirError {
    /// Another agent process uses the same work root.
    #[error("the work root {0} is in use by another agent process: give each agent its own")]
    InUse(PathBuf),
    /// An input artifact is not what the manifest says. Nothing was written.
    #[error("input artifact {name:?} is refused: {reason}")]
    Input {
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WorkdirError {
    let path = path.to_owned();
    move |source| WorkdirError::Io { action, path, source }
}

/// The directory that holds the working directories of one agent process, locked while this value lives.
#[derive(Debug)]
pub struct WorkRoot {
    path: PathBuf,
    _lock: Flock<File>,
}

impl WorkRoot {
    /// Makes and locks `path`, and clears what an earlier agent process left there: first the processes, then the directories.
    ///
    /// Returns what could not be cleared, in words for the log. Directories that are not ours are not touched.
    ///
    /// # Errors
    /// [`WorkdirError::InUse`] when another process holds the lock; [`WorkdirError::Io`] when the directory cannot be used.
    pub fn open(path: &Path) -> Result<(Self, Vec<String>), WorkdirError> {
        DirBuilder::new().recursive(true).mode(DIR_MODE).create(path).map_err(io_error("make", path))?;
        // Programs have another working directory, and orphans are recognised by the path that they were given.
        let path = path.canonicalize().map_err(io_error("find", path))?;
        let lock_path = path.join(LOCK);
        let lock_file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock_path);
        let lock_file = lock_file.map_err(io_error("open", &lock_path))?;
        let lock = Flock::lock(lock_file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| {
            if error == Errno::EAGAIN {
                WorkdirError::InUse(path.clone())
            } else {
                io_error("lock", &lock_path)(error.into())
            }
        })?;
        let root = Self { path, _lock: lock };
        let left = root.clear()?;
        Ok((root, left))
    }

    /// The absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn clear(&self) -> Result<Vec<String>, WorkdirError> {
        let mut left = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(io_error("list", &self.path))? {
            let path = entry.map_err(io_error("list", &self.path))?.path();
            let ours = path.join(MARKER).symlink_metadata().is_ok();
            if !ours {
                continue;
            }
            let leftover = Workdir { path };
            let cleared = orphans::end_all(&leftover.task_file(), None).and_then(|()| leftover.remove());
            left.extend(cleared.err().map(|error| format!("{} stays: {error}", leftover.path.display())));
        }
        Ok(left)
    }
}

/// The working directory of one attempt.
#[derive(Debug, Clone)]
pub struct Workdir {
    path: PathBuf,
}

impl Workdir {
    /// Verifies the inputs, then makes the directory and everything in it. On an error nothing stays.
    ///
    /// # Errors
    /// [`WorkdirError::Input`] before anything is written; else [`WorkdirError::Io`].
    pub fn create(work_root: &Path, task: &ProgramTask) -> Result<Self, WorkdirError> {
        verify_inputs(&task.inputs)?;
        let path = work_root.join(dir_name(&task.task_id, task.attempt));
        DirBuilder::new().mode(DIR_MODE).create(&path).map_err(io_error("make", &path))?;
        let workdir = Self { path };
        match workdir.fill(task) {
            Ok(()) => Ok(workdir),
            Err(error) => {
                // The first error is the one to tell; a leftover is cleared when the agent starts again.
                let _ = workdir.remove();
                Err(error)
            }
        }
    }

    /// Path of the task file.
    #[must_use]
    pub fn task_file(&self) -> PathBuf {
        self.path.join("task.json")
    }

    /// Path of the directory with the inputs.
    #[must_use]
    pub fn input_dir(&self) -> PathBuf {
        self.path.join("input")
    }

    /// Path of the directory for artifacts.
    #[must_use]
    pub fn artifact_dir(&self) -> PathBuf {
        self.path.join("artifacts")
    }

    /// Path of the optional result.
    #[must_use]
    pub fn result_file(&self) -> PathBuf {
        self.path.join("result.json")
    }

    /// The program's working directory.
    #[must_use]
    pub fn current_dir(&self) -> PathBuf {
        self.path.join("work")
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn fill(&self, task: &ProgramTask) -> Result<(), WorkdirError> {
        write_read_only(&self.path.join(MARKER), b"")?;
        for dir in [self.input_dir(), self.artifact_dir(), self.current_dir()] {
            DirBuilder::new().mode(DIR_MODE).create(&dir).map_err(io_error("make", &dir))?;
        }
        for input in &task.inputs {
            write_read_only(&self.input_dir().join(&input.name), &input.bytes)?;
        }
        let inputs = self.input_dir();
        let read_only = Permissions::from_mode(READ_ONLY_DIR_MODE);
        fs::set_permissions(&inputs, read_only).map_err(io_error("protect", &inputs))?;
        write_read_only(&self.task_file(), task_json(task).to_string().as_bytes())
    }

    /// Removes the directory. To be called only when no process of the attempt is left.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // Read-only directories (our own inputs, a program's module cache) refuse until they are made writable.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                make_writable(&self.path)?;
                fs::remove_dir_all(&self.path)
            }
            Err(error) => Err(error),
        }
    }
}

/// What the task file says.
fn task_json(task: &ProgramTask) -> serde_json::Value {
    let input = |input: &InputArtifact| {
        json!({
            "name": input.name,
            "size": input.bytes.len(),
            "sha256": format!("sha256:{}", hex::encode(input.sha256)),
        })
    };
    json!({
        "task_id": task.task_id,
        "workspace_id": task.workspace_id,
        "kind": task.kind,
        "step": task.step,
        "attempt": task.attempt,
        "agent_id": task.agent_id,
        "parameters": task.parameters,
        "payload": task.payload,
        "traceparent": task.traceparent,
        "inputs": task.inputs.iter().map(input).collect::<Vec<_>>(),
    })
}

fn verify_inputs(inputs: &[InputArtifact]) -> Result<(), WorkdirError> {
    let mut seen = std::collections::BTreeSet::new();
    for input in inputs {
        let refuse = |reason: String| Err(WorkdirError::Input { name: input.name.clone(), reason });
        if let Err(error) = check_name(&input.name) {
            return refuse(error.to_string());
        }
        if !seen.insert(&input.name) {
            return refuse("it is there twice".into());
        }
        let found: [u8; 32] = Sha256::digest(&input.bytes).into();
        if found != input.sha256 {
            let (found, expected) = (hex::encode(found), hex::encode(input.sha256));
            return refuse(format!("its SHA-256 is {found}, the manifest says {expected}"));
        }
    }
    Ok(())
}

/// A name for the file system, one for one: a plain id as it is; any other by its plain characters and a hash after `~`,
/// which no plain id has.
#[must_use]
pub fn dir_name(task_id: &str, attempt: u32) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if task_id.len() <= WORKDIR_NAME_MAX_BYTES && !task_id.is_empty() && task_id.chars().all(plain) {
        return format!("{task_id}-{attempt}");
    }
    let readable = task_id.chars().take(WORKDIR_NAME_MAX_BYTES / 2).map(|c| if plain(c) { c } else { '_' });
    let readable: String = readable.collect();
    let hash = hex::encode(&Sha256::digest(task_id.as_bytes())[..16]);
    format!("{readable}~{hash}-{attempt}")
}

fn write_read_only(path: &Path, bytes: &[u8]) -> Result<(), WorkdirError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(READ_ONLY_FILE_MODE).open(path);
    file.and_then(|mut file| file.write_all(bytes)).map_err(io_error("write", path))
}

/// Symbolic links are not followed: what they name may be somebody else's.
fn make_writable(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, Permissions::from_mode(DIR_MODE))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            make_writable(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "workdir_tests.rs"]
mod tests;
