//! Where the program of a handler is, as the exec that becomes it will look: a name with a slash is a path, any other is looked for in the
//! PATH of the program's own environment.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::environment::allowed;
use super::spec::ProgramSpec;

/// Why a program cannot be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// Nothing is there.
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    /// Something is there that this user may not execute, or that is no file.
    #[error("{} is not a file that this user may execute", .0.display())]
    NotExecutable(PathBuf),
    /// It is in none of the folders.
    #[error("{name} is not an executable file in any folder of its PATH, which is {path:?}")]
    NotInPath {
        /// The program.
        name: String,
        /// Where it was looked for.
        path: String,
    },
}

/// Finds the program of `spec`, which an agent with the environment `agent_env` would run.
///
/// # Errors
/// When there is none that could be executed.
pub fn find(spec: &ProgramSpec, agent_env: &BTreeMap<OsString, OsString>) -> Result<PathBuf, FindError> {
    let name = spec.command.first().map_or("", String::as_str);
    if name.contains('/') {
        let path = PathBuf::from(name);
        return match path.exists() {
            true if is_executable(&path) => Ok(path),
            true => Err(FindError::NotExecutable(path)),
            false => Err(FindError::Missing(path)),
        };
    }
    let env = allowed(spec, agent_env);
    let folders = env.get(OsStr::new("PATH")).cloned().unwrap_or_default();
    // Relative folders are those of a working directory that does not exist yet: nothing is in them.
    let found = std::env::split_paths(&folders)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|path| is_executable(path));
    found.ok_or_else(|| FindError::NotInPath {
        name: name.to_owned(),
        path: folders.to_string_lossy().into_owned(),
    })
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && access(path, AccessFlags::X_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::exec::config::parse_handlers;

    fn found(table: &str, agent_env: &[(&str, &Path)]) -> Result<PathBuf, FindError> {
        let handlers = toml::from_str(&format!("[h]\n{table}")).unwrap();
        let specs = parse_handlers(&handlers, Path::new("/base")).unwrap();
        let agent_env = agent_env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        find(&specs["h"], &agent_env)
    }

    /// A folder with the program `tool`, and a file `data` that is none.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, mode) in [("tool", 0o755), ("data", 0o644)] {
            let path = folder.path().join(name);
            fs::write(&path, "#!/bin/sh\n").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        folder
    }

    #[test]
    fn a_path_is_a_file_that_may_be_executed_or_an_error_that_says_which() {
        let folder = folder();
        let ask = |name: &str| {
            let path = folder.path().join(name);
            (found(&format!("command = [{path:?}]"), &[]), path)
        };
        let (tool, path) = ask("tool");
        assert_eq!(tool, Ok(path));
        let (data, path) = ask("data");
        assert_eq!(data, Err(FindError::NotExecutable(path)));
        let (nothing, path) = ask("nothing");
        assert_eq!(nothing, Err(FindError::Missing(path)));
        assert!(matches!(found("command = [\"/tmp/\"]", &[]), Err(FindError::NotExecutable(_))));
    }

    #[test]
    fn a_name_is_looked_for_in_the_path_that_the_program_gets_and_not_in_that_of_the_agent() {
        let folder = folder();
        let agent_env = [("PATH", folder.path())];
        let tool = Ok(folder.path().join("tool"));
        assert!(matches!(found("command = [\"tool\"]", &agent_env), Err(FindError::NotInPath { .. })));
        assert_eq!(found("command = [\"tool\"]\nenv_pass = [\"PATH\"]", &agent_env), tool);
        let fixed = format!("command = [\"tool\"]\nenv = {{ PATH = {:?} }}", folder.path());
        assert_eq!(found(&fixed, &[]), tool);
        let error = found(&fixed.replace("tool", "data"), &[]).unwrap_err().to_string();
        assert!(error.starts_with("data is not an executable file in any folder of its PATH"), "{error}");
        assert!(found("command = [\"sh\"]", &[]).is_ok());
    }
}
