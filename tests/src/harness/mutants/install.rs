//! Puts guards behind their switches in the copy, and takes them out again.

use std::collections::{BTreeMap, BTreeSet};

use super::list::Mutant;
use super::switched;
use super::tree::Tree;
use crate::harness::sources;

/// Writes every file that one of `numbered` is in, each guard behind the switch of its number, and the switch itself.
///
/// # Errors
/// When a patch does not fit, or a file cannot be written.
pub fn install(tree: &Tree, numbered: &[(u32, &Mutant)]) -> anyhow::Result<BTreeSet<String>> {
    let mut files: BTreeMap<&str, Vec<(u32, &Mutant)>> =
        BTreeMap::from([(switched::SWITCH_FILE, Vec::new())]);
    for (number, mutant) in numbered {
        files.entry(&mutant.file).or_default().push((*number, mutant));
    }
    for (file, of_file) in &files {
        let text = switched::apply(file, &sources::read(file).text, of_file).map_err(anyhow::Error::msg)?;
        let switch = if *file == switched::SWITCH_FILE { switched::switch() } else { String::new() };
        tree.write(file, &(text + &switch))?;
    }
    Ok(files.into_keys().map(str::to_owned).collect())
}

/// Writes the files as they are in the checkout.
///
/// # Errors
/// When one cannot be written.
pub fn restore(tree: &Tree, files: &BTreeSet<String>) -> anyhow::Result<()> {
    files.iter().try_for_each(|file| tree.write(file, &sources::read(file).text))
}
