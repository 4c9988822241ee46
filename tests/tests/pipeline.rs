//! The pipeline that `dispatcher serve` wires is the one that its drawing shows, with a folder per stage.
#![expect(
    clippy::expect_used,
    reason = "all of this is tests; clippy exempts only the test functions themselves"
)]

use std::collections::BTreeSet;

use switchyard_tests::harness::sources::{self, Source};

/// Folders of the dispatcher that are not stages of the pipeline.
const NOT_STAGES: [&str; 5] = ["accounts", "audit", "cli", "config", "store"];

/// Stages that others call: they have no loop of their own.
const CALLED: [&str; 1] = ["schedule"];

#[test]
fn the_pipeline_that_is_wired_is_the_pipeline_that_is_drawn_and_has_a_folder_per_stage() {
    let serve = sources::read("dispatcher/src/serve.rs");
    let drawing = serve.description();
    let folders: BTreeSet<String> = std::fs::read_dir(sources::root().join("dispatcher/src"))
        .unwrap()
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !NOT_STAGES.contains(&name.as_str()))
        .collect();
    let wired: BTreeSet<String> = supervised(&serve);
    for folder in &folders {
        assert!(drawing.contains(folder.as_str()), "the drawing in serve.rs does not show {folder}");
        let called = CALLED.contains(&folder.as_str());
        assert_eq!(
            wired.contains(folder),
            !called,
            "{folder}: wired in serve.rs, or named as called by others?"
        );
    }
    for stage in &wired {
        assert!(folders.contains(stage), "serve.rs supervises {stage}, which has no folder");
    }
}

/// The folders whose loops are handed to the supervisor: the first word of each path to a `run`.
fn supervised(serve: &Source) -> BTreeSet<String> {
    let code: String = serve.code().map(|(_, line)| line).collect::<Vec<_>>().join("\n");
    let body = code.split_once("async fn run_parts(").expect("serve.rs has run_parts").1;
    let body = body.split_once("\n}\n").expect("run_parts ends").0;
    let mut stages = BTreeSet::new();
    // These two own something that cannot be made anew, so they have a function each.
    for (wired_by, stage) in [("supervise_routing(", "route"), ("supervise_api(", "api")] {
        if body.contains(wired_by) {
            stages.insert(stage.to_owned());
        }
    }
    for (at, _) in body.match_indices("::run") {
        let path_from = body[..at]
            .rfind(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
            .map_or(0, |n| n + 1);
        let first = body[path_from..at].split("::").next().unwrap_or_default();
        stages.insert(first.to_owned());
    }
    stages
}
