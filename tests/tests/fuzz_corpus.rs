//! Every file of `fuzz/corpus` through its target, as the fuzzer would: what was found once stays found, without a fuzzer.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use switchyard_common::guard::catch_panic_sync;
use switchyard_tests::fuzz::TARGETS;
use switchyard_tests::harness::sources::root;

/// Largest corpus of all targets together, in bytes: it is part of every clone.
const CORPUS_MAX_BYTES: u64 = 1024 * 1024;

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn names(folder: &str) -> BTreeSet<String> {
    let stem = |path: &PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
    files(&root().join(folder)).iter().map(stem).collect()
}

#[test]
fn no_file_of_the_corpus_breaks_what_its_target_promises() {
    let mut broken = Vec::new();
    for (name, check) in TARGETS {
        let inputs = files(&root().join("fuzz/corpus").join(name));
        assert!(!inputs.is_empty(), "the target {name} has no corpus");
        for path in inputs {
            let data = std::fs::read(&path).unwrap();
            if let Err(panic) = catch_panic_sync(|| check(&data)) {
                broken.push(format!("{}: {panic}", path.display()));
            }
        }
    }
    assert_eq!(broken, Vec::<String>::new());
}

#[test]
fn every_target_has_a_program_and_a_corpus_and_there_are_no_others() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("fuzz/corpus"), targets);
    assert_eq!(names("fuzz/fuzz_targets"), targets);
}

#[test]
fn the_corpus_is_small_enough_for_every_clone() {
    let size = |path: &PathBuf| path.metadata().unwrap().len();
    let folders = files(&root().join("fuzz/corpus"));
    let bytes: u64 = folders.iter().flat_map(|folder| files(folder)).map(|path| size(&path)).sum();
    assert!(bytes <= CORPUS_MAX_BYTES, "{bytes} bytes: `fuzz/run --minimise` makes it smaller");
}
