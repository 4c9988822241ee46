//! The guards that a chaos run must miss when they are removed.

use serde::Deserialize;

use super::list::{Mutant, Switch, listed};
use crate::chaos::check::Rule;
use crate::harness::sources;

/// Where they are listed.
const LIST: &str = "tests/chaos/guards.toml";

/// A guard, and the run that must miss it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guard {
    /// A mutant of `tests/mutants/*.toml`, or a name for the patch.
    pub guard: String,
    /// What it is called in the table.
    pub about: String,
    /// The mix of the run.
    pub mix: String,
    /// Its seed.
    pub seed: u64,
    /// How long things are broken.
    pub minutes: f64,
    /// The rules of which one must be found broken: what the guard is for. Anything else may have another cause.
    pub finds: Vec<Rule>,
    /// What removes it, if no mutant does.
    patch: Option<Patch>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    file: String,
    find: String,
    replace: String,
    switch: Switch,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    guard: Vec<Guard>,
}

/// Every guard, in the order of the list.
///
/// # Panics
/// When the list cannot be read.
#[must_use]
pub fn guards() -> Vec<Guard> {
    let list: List =
        toml::from_str(&sources::read(LIST).text).unwrap_or_else(|error| panic!("{LIST}: {error}"));
    list.guard
}

impl Guard {
    /// The patch that removes it.
    ///
    /// # Errors
    /// When it has none of its own, and no mutant has its name.
    pub fn mutant(&self) -> anyhow::Result<Mutant> {
        let Some(patch) = &self.patch else {
            let known = listed().into_iter().find(|mutant| mutant.guard == self.guard);
            return known.ok_or_else(|| anyhow::anyhow!("no list of mutants has {:?}", self.guard));
        };
        Ok(Mutant {
            guard: self.guard.clone(),
            file: patch.file.clone(),
            find: patch.find.clone(),
            replace: patch.replace.clone(),
            check: String::new(),
            switch: Some(patch.switch),
            list: LIST.to_owned(),
        })
    }
}
