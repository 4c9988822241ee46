//! The listed patches that remove a guard each, and the test that must fail then.

use serde::Deserialize;

use super::sources;

/// One patch of `tests/mutants/*.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mutant {
    /// What is removed, in words.
    pub guard: String,
    /// Where, from the root of the repository.
    pub file: String,
    /// What stands there, exactly once.
    pub find: String,
    /// What stands there instead.
    pub replace: String,
    /// What follows `cargo test`; the last word is the name of the test that must fail.
    pub check: String,
}

#[derive(Deserialize)]
struct List {
    mutant: Vec<Mutant>,
}

/// Every listed mutant.
///
/// # Panics
/// When a list cannot be read.
#[must_use]
pub fn listed() -> Vec<Mutant> {
    let read = |source: sources::Source| {
        let list: List =
            toml::from_str(&source.text).unwrap_or_else(|error| panic!("{}: {error}", source.path));
        list.mutant
    };
    sources::below("tests/mutants", "toml").into_iter().flat_map(read).collect()
}

impl Mutant {
    /// The test that must fail.
    #[must_use]
    pub fn test(&self) -> &str {
        self.check.split_whitespace().next_back().unwrap_or_default()
    }

    /// Whether any of `words` is in it; without words, every mutant.
    #[must_use]
    pub fn matches(&self, words: &[String]) -> bool {
        let has = |word: &String| {
            [&self.guard, &self.file, &self.check].iter().any(|text| text.contains(word.as_str()))
        };
        words.is_empty() || words.iter().any(has)
    }
}
