//! What the lists say.

use serde::Deserialize;

use crate::harness::sources;

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
    /// What `find` and `replace` are, where both can stand side by side in one program behind a switch; none = the patch is built alone.
    #[serde(default)]
    pub switch: Option<Switch>,
    /// The file that lists it.
    #[serde(skip)]
    pub list: String,
}

/// What can be switched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Switch {
    /// Expressions of the same type.
    Expression,
    /// Whole statements.
    Statement,
    /// Parts of the text of a constant that a function keeps its SQL in.
    Sql,
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
        list.mutant.into_iter().map(move |mutant| Mutant { list: source.path.clone(), ..mutant })
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
            [&self.guard, &self.file, &self.check, &self.list].iter().any(|text| text.contains(word.as_str()))
        };
        words.is_empty() || words.iter().any(has)
    }

    /// Whether its test needs a broker and a database: all do but unit tests and what is known to do without.
    #[must_use]
    pub fn needs_services(&self) -> bool {
        let alone = ["--lib", "--test simulation", "--test pure_modules"];
        !alone.iter().any(|without| self.check.contains(without))
    }
}
