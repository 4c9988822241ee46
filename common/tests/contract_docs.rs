//! What is checked in under `docs/contract` is what the code says.

use std::collections::BTreeSet;
use std::path::PathBuf;

use switchyard_common::contract::schema::documents;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/contract")
}

/// The first line in which two texts differ, from 1.
fn first_difference(left: &str, right: &str) -> usize {
    let same = left.lines().zip(right.lines()).take_while(|(left, right)| left == right).count();
    same + 1
}

#[test]
fn the_checked_in_documents_are_those_that_the_code_makes() {
    let mut wrong = Vec::new();
    for (name, made) in documents().unwrap() {
        match std::fs::read_to_string(folder().join(&name)) {
            Ok(kept) if kept == made => {}
            Ok(kept) => wrong.push(format!("{name} differs from line {} on", first_difference(&kept, &made))),
            Err(error) => wrong.push(format!("{name} cannot be read: {error}")),
        }
    }
    assert!(
        wrong.is_empty(),
        "docs/contract is out of date: {}. Run `make contract`, look at what changed for others, and commit it.",
        wrong.join("; ")
    );
}

#[test]
fn nothing_else_lies_beside_them() {
    let made: BTreeSet<_> = documents().unwrap().into_keys().collect();
    let kept: BTreeSet<_> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".json"))
        .collect();
    let stale: Vec<_> = kept.difference(&made).collect();
    assert!(stale.is_empty(), "no code makes {stale:?} any more: run `make contract`");
}
