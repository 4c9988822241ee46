//! A copy of the checkout, in which guards are removed: the checkout stays as it is, whatever happens to the run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::harness::sources::root;

/// The copy, and where it is built.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    target: PathBuf,
}

impl Tree {
    /// Brings the copy up to date: every file that git lists or would list. What has not changed keeps its time, so that it is not
    /// built anew.
    ///
    /// # Errors
    /// When git or the file system fails.
    pub fn refresh() -> anyhow::Result<Self> {
        let own = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
        std::fs::create_dir_all(own.join("mutants"))?;
        let own = own.canonicalize()?;
        let tree = Self { root: own.join("mutants/tree"), target: own.join("mutants/build") };
        let listed = tree.copy_all()?;
        tree.remove_others(&tree.root, &listed)?;
        tree.seed_dependencies(&own)?;
        Ok(tree)
    }

    /// The copy's root.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where it is built.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Writes a file of the copy, unless it says the same already.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, file: &str, text: &str) -> anyhow::Result<()> {
        let path = self.root.join(file);
        if std::fs::read_to_string(&path).is_ok_and(|before| before == text) {
            return Ok(());
        }
        std::fs::write(&path, text).with_context(|| path.display().to_string())
    }

    fn copy_all(&self) -> anyhow::Result<BTreeSet<PathBuf>> {
        let output = Command::new("git")
            .current_dir(root())
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .output()
            .context("git ls-files")?;
        ensure!(output.status.success(), "git ls-files failed: {}", String::from_utf8_lossy(&output.stderr));
        let names = String::from_utf8(output.stdout)?;
        let mut listed = BTreeSet::new();
        for name in names.split('\0').filter(|name| !name.is_empty()) {
            let (from, to) = (root().join(name), self.root.join(name));
            if !from.is_file() {
                continue;
            }
            let differs = std::fs::read(&from)? != std::fs::read(&to).unwrap_or_default() || !to.exists();
            if differs {
                std::fs::create_dir_all(to.parent().unwrap_or(&self.root))?;
                std::fs::copy(&from, &to).with_context(|| name.to_owned())?;
            }
            listed.insert(to);
        }
        Ok(listed)
    }

    fn remove_others(&self, folder: &Path, listed: &BTreeSet<PathBuf>) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                self.remove_others(&path, listed)?;
            } else if !listed.contains(&path) && !path.ends_with("Cargo.lock") {
                std::fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// The first time, dependencies are taken over from the checkout's own build, where there is one: only the project's crates are
    /// built in the copy. They are linked, not copied; nothing writes to them again.
    fn seed_dependencies(&self, own: &Path) -> anyhow::Result<()> {
        let (from, to) = (own.join("debug"), self.target.join("debug"));
        if to.exists() || !from.join("deps").is_dir() {
            return Ok(());
        }
        std::fs::create_dir_all(&to)?;
        for (folder, how) in [("deps", "-al"), (".fingerprint", "-a"), ("build", "-a")] {
            let status = Command::new("cp").arg(how).arg(from.join(folder)).arg(&to).status()?;
            ensure!(status.success(), "{folder} of the build cannot be taken over");
        }
        Ok(())
    }
}
