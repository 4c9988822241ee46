//! The project's own sources, for tests that hold a rule of writing against them.

use std::path::{Path, PathBuf};

/// One source file.
#[derive(Debug, Clone)]
pub struct Source {
    /// Path from the root of the repository, with `/`.
    pub path: String,
    /// Everything in it.
    pub text: String,
}

/// The root of the repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// One file.
///
/// # Panics
/// When it cannot be read.
#[must_use]
pub fn read(path: &str) -> Source {
    let text = std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    Source { path: path.to_owned(), text }
}

/// Every file below `folder` whose name ends in `.<extension>`, in the order of their paths. A path to a file gives that file.
///
/// # Panics
/// When nothing is found: a rule that looks at nothing holds nothing.
#[must_use]
pub fn below(folder: &str, extension: &str) -> Vec<Source> {
    let mut found = Vec::new();
    collect(&root().join(folder), &mut found);
    let ending = format!(".{extension}");
    let mut sources: Vec<Source> = found
        .iter()
        .filter_map(|path| path.strip_prefix(root()).ok())
        .map(|path| path.to_string_lossy().replace('\\', "/"))
        .filter(|path| path.ends_with(&ending))
        .map(|path| read(&path))
        .collect();
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!sources.is_empty(), "there is no {ending} file in {folder}");
    sources
}

/// Every Rust file of the project, tests included.
#[must_use]
pub fn all_rust() -> Vec<Source> {
    ["common", "dispatcher", "worker-agent", "tests"].iter().flat_map(|folder| below(folder, "rs")).collect()
}

fn collect(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_file() {
        found.push(path.to_owned());
        return;
    }
    let Ok(entries) = std::fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name != "target" && !name.to_string_lossy().starts_with('.') {
            collect(&entry.path(), found);
        }
    }
}

impl Source {
    /// True for files that hold tests alone.
    #[must_use]
    pub fn is_test(&self) -> bool {
        self.path.ends_with("_tests.rs")
            || self.path.contains("/tests/")
            || self.path.ends_with("/tests.rs")
            || self.path.starts_with("tests/")
    }

    /// The lines that ship: without comments and without the test module at the end. Each with its number, from 1.
    pub fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let tests_begin = lines
            .windows(2)
            .position(|pair| {
                pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
            })
            .unwrap_or(lines.len());
        lines
            .into_iter()
            .take(tests_begin)
            .enumerate()
            .map(|(index, line)| (index + 1, without_comment(line)))
    }

    /// The module's own description: its leading `//!` lines.
    #[must_use]
    pub fn description(&self) -> String {
        self.text.lines().map_while(|line| line.strip_prefix("//!")).collect::<Vec<_>>().join("\n")
    }
}

/// The line up to a comment. A `//` inside a text (an address) follows a colon, never a blank.
fn without_comment(line: &str) -> &str {
    if line.trim_start().starts_with("//") {
        return "";
    }
    line.find(" //").map_or(line, |at| &line[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_ends_where_the_tests_begin_and_has_no_comments() {
        let text =
            "//! About.\nuse a; // why\nlet url = \"http://x\";\n#[cfg(test)]\nmod tests {\n    use b;\n}\n";
        let source = Source { path: "common/src/x.rs".into(), text: text.into() };
        let code: Vec<(usize, &str)> = source.code().collect();
        assert_eq!(code, [(1, ""), (2, "use a;"), (3, "let url = \"http://x\";")]);
        assert_eq!(source.description(), " About.");
    }
}
