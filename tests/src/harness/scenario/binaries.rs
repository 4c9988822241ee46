//! Finds the programs under test beside the running executable, and refuses them when their sources are newer.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, bail, ensure};

/// A program of this workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    /// `dispatcher`
    Dispatcher,
    /// `worker-agent`
    Agent,
}

impl Binary {
    /// Its file name.
    #[must_use]
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Dispatcher => "dispatcher",
            Self::Agent => "worker-agent",
        }
    }

    /// Its path.
    ///
    /// # Errors
    /// When it has not been built, or one of its sources has changed since: testing yesterday's program would prove nothing.
    pub fn path(self) -> anyhow::Result<PathBuf> {
        let path = build_folder()?.join(self.file_name());
        ensure!(path.is_file(), "{} has not been built: cargo build --workspace --bins", path.display());
        if let Some(newer) = newer_source(&path)? {
            bail!(
                "{} is older than its source {}: cargo build --workspace --bins",
                path.display(),
                newer.display()
            );
        }
        Ok(path)
    }
}

/// Where Cargo puts the programs of the profile that is running, such as `target/debug`.
///
/// # Errors
/// When the running executable is not in a folder of Cargo's.
pub fn build_folder() -> anyhow::Result<PathBuf> {
    let running = std::env::current_exe().context("cannot find the running executable")?;
    let folder = running.parent().context("the running executable has no folder")?;
    // Tests are in `deps`, examples in `examples`, programs beside them.
    let inner = folder.ends_with("deps") || folder.ends_with("examples");
    let found = if inner { folder.parent() } else { Some(folder) };
    Ok(found.with_context(|| format!("{} is not where Cargo builds", running.display()))?.to_owned())
}

/// The top of the source tree.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap_or_else(|_| PathBuf::from("."))
}

/// The first source that is newer than the program, by the list of sources that Cargo writes beside it.
fn newer_source(program: &Path) -> anyhow::Result<Option<PathBuf>> {
    let list = program.with_extension("d");
    // A program that was installed by other means has no list, and is taken as it is.
    let Ok(text) = std::fs::read_to_string(&list) else { return Ok(None) };
    let built = changed(program)?;
    let newer = |source: &PathBuf| changed(source).map_or(true, |source| source > built);
    Ok(sources(&text).into_iter().find(newer))
}

/// The paths after the colon of a make rule; a space in a path is escaped.
fn sources(rule: &str) -> Vec<PathBuf> {
    let Some((_, list)) = rule.lines().next().and_then(|line| line.split_once(": ")) else {
        return Vec::new();
    };
    let placeholder = "\u{1}";
    let list = list.replace("\\ ", placeholder);
    list.split_whitespace().map(|path| PathBuf::from(path.replace(placeholder, " "))).collect()
}

fn changed(path: &Path) -> anyhow::Result<SystemTime> {
    let metadata = path.metadata().with_context(|| format!("cannot look at {}", path.display()))?;
    Ok(metadata.modified()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sources_of_a_program_are_read_from_the_rule_that_cargo_writes() {
        let rule = "/t/debug/dispatcher: /src/a.rs /src/with\\ space/b.rs\n";
        assert_eq!(sources(rule), [PathBuf::from("/src/a.rs"), PathBuf::from("/src/with space/b.rs")]);
        assert!(sources("").is_empty());
    }
}
