//! Rules of writing that a compiler does not hold: what is pure stays pure, nothing is spawned bare, dependencies point one way, files
//! stay short.

use switchyard_tests::harness::sources::{self, Source};

/// Everything that decides: no I/O, no clock, no randomness but what comes as an argument (style 2).
const PURE: [&str; 28] = [
    "common/src/task",
    "common/src/contract",
    "common/src/failure.rs",
    "common/src/broker/confirms.rs",
    "common/src/broker/topology.rs",
    "dispatcher/src/accounts/definitions.rs",
    "dispatcher/src/schedule",
    "dispatcher/src/intake/admit.rs",
    "dispatcher/src/intake/command.rs",
    "dispatcher/src/intake/deliveries.rs",
    "dispatcher/src/intake/new_task.rs",
    "dispatcher/src/settle/batch.rs",
    "dispatcher/src/settle/held.rs",
    "dispatcher/src/settle/manifest.rs",
    "dispatcher/src/settle/outcome.rs",
    "dispatcher/src/settle/read.rs",
    "dispatcher/src/settle/refusal.rs",
    "dispatcher/src/presence/beat.rs",
    "dispatcher/src/presence/drained.rs",
    "dispatcher/src/presence/judge.rs",
    "dispatcher/src/presence/settled.rs",
    "dispatcher/src/presence/sessions.rs",
    "dispatcher/src/dead_letters/replay.rs",
    "dispatcher/src/route/decide.rs",
    "dispatcher/src/sweep/notes.rs",
    "worker-agent/src/machine",
    "worker-agent/src/exec/judge.rs",
    "worker-agent/src/exec/supervisor/guard.rs",
];

/// What reaches outside, waits, or gives another answer each time.
const IMPURE: [&str; 30] = [
    "async fn",
    ".await",
    "async_rs::",
    "axum::",
    "deadpool_postgres",
    "lapin::",
    "metrics::",
    "nix::",
    "refinery::",
    "tempfile::",
    "tokio::",
    "tokio_postgres",
    "tokio_util",
    "tracing::",
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::os::",
    "std::process",
    "std::thread",
    "SystemTime::now",
    "Instant::now",
    "Local::now",
    "Utc::now",
    "Uuid::new_v4",
    "Uuid::now_v7",
    "rand::random",
    "rand::rng",
    "println!",
];

/// A line that may stand in a pure module all the same: the closed list of signals is numbers with names.
const ALLOWED: &str = "use nix::sys::signal::Signal;";

/// Ways to start a task or a thread without a guard.
const BARE_SPAWNS: [&str; 5] =
    ["tokio::spawn(", "task::spawn", "spawn_local(", "thread::spawn(", "thread::Builder"];

/// The one place that may.
const GUARD: &str = "common/src/guard/";

/// Longest file, in lines: about 400, and no argument about the last ten.
const FILE_MAX_LINES: usize = 430;

/// Files that may be longer, up to a limit of their own, and why.
const LONG_FILES: [(&str, usize, &str); 0] = [];

#[test]
fn pure_modules_import_no_io_no_clock_and_no_randomness() {
    let mut found = Vec::new();
    for source in PURE.iter().flat_map(|path| sources::below(path, "rs")).filter(|source| !source.is_test()) {
        found.extend(lines_with(&source, &IMPURE).into_iter().filter(|line| !line.ends_with(ALLOWED)));
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn a_module_that_calls_itself_pure_is_held_to_it() {
    let claims =
        |source: &Source| source.description().lines().any(|line| line.to_lowercase().contains("pure"));
    let unheld: Vec<String> = sources::all_rust()
        .into_iter()
        .filter(|source| {
            !source.is_test() && !source.path.ends_with("/mod.rs") && !source.path.ends_with("/lib.rs")
        })
        .filter(claims)
        .filter(|source| !PURE.iter().any(|pure| source.path.starts_with(pure)))
        // It says that it calls the pure function.
        .filter(|source| source.path != "dispatcher/src/store/apply.rs")
        .map(|source| source.path)
        .collect();
    assert_eq!(unheld, Vec::<String>::new());
}

#[test]
fn nothing_is_spawned_without_a_guard() {
    let mut found = Vec::new();
    for source in sources::all_rust().iter().filter(|source| !source.path.starts_with(GUARD)) {
        found.extend(lines_with(source, &BARE_SPAWNS));
        // Only a child process is spawned without arguments; a scope joins its threads and passes their panics on.
        found.extend(
            lines_with(source, &[".spawn("])
                .into_iter()
                .filter(|line| !line.contains(".spawn()") && !line.contains("scope.spawn(")),
        );
    }
    found.retain(|line| !line.starts_with("tests/tests/pure_modules.rs"));
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn files_stay_short_and_every_exception_has_a_reason_that_still_holds() {
    let mut wrong = Vec::new();
    for source in sources::all_rust() {
        let lines = source.text.lines().count();
        match LONG_FILES.iter().find(|(path, ..)| *path == source.path) {
            Some((path, most, _)) if lines > *most => {
                wrong.push(format!("{path}: {lines} lines, over its own {most}"))
            }
            Some((path, ..)) if lines <= FILE_MAX_LINES => {
                wrong.push(format!("{path}: {lines} lines, the exception is not needed any more"));
            }
            None if lines > FILE_MAX_LINES => wrong.push(format!("{}: {lines} lines", source.path)),
            Some(_) | None => {}
        }
    }
    for (path, ..) in LONG_FILES.iter().filter(|(path, ..)| !sources::root().join(path).exists()) {
        wrong.push(format!("{path}: does not exist"));
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn nothing_is_left_to_be_done_later() {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("un", "implemented!")];
    let mut found = Vec::new();
    for extension in ["rs", "toml", "sql", "md", "yaml", "sh", "bash"] {
        for folder in ["common", "dispatcher", "worker-agent", "tests", "deploy", "docs"] {
            if !has(folder, extension) {
                continue;
            }
            for source in sources::below(folder, extension) {
                let marked = source
                    .text
                    .lines()
                    .enumerate()
                    .filter(|(_, line)| marks.iter().any(|mark| line.contains(mark)));
                found.extend(marked.map(|(index, line)| format!("{}:{}: {line}", source.path, index + 1)));
            }
        }
    }
    assert_eq!(found, Vec::<String>::new());
}

fn has(folder: &str, extension: &str) -> bool {
    fn any(path: &std::path::Path, extension: &str) -> bool {
        std::fs::read_dir(path).into_iter().flatten().flatten().any(|entry| {
            let path = entry.path();
            path.extension().is_some_and(|found| found == extension)
                || (path.is_dir() && any(&path, extension))
        })
    }
    any(&sources::root().join(folder), extension)
}

#[test]
fn dependencies_point_one_way() {
    let manifest = |member: &str| sources::read(&format!("{member}/Cargo.toml")).text;
    for (member, above) in [
        ("common", ["switchyard-dispatcher", "switchyard-worker-agent", "switchyard-tests"]),
        ("dispatcher", ["switchyard-worker-agent", "switchyard-tests", "-"]),
        ("worker-agent", ["switchyard-dispatcher", "switchyard-tests", "-"]),
    ] {
        let manifest = manifest(member);
        let dependencies: Vec<&str> = manifest
            .lines()
            .filter(|line| above.iter().any(|name| line.starts_with(&format!("{name}."))))
            .collect();
        assert_eq!(dependencies, Vec::<&str>::new(), "{member} depends on what stands above it");
    }
}

/// Incident 2: an agent has no database, so it has no client for one either.
#[test]
fn incident_02_the_agent_is_built_without_a_database_client() {
    for member in ["worker-agent", "common"] {
        let manifest = sources::read(&format!("{member}/Cargo.toml")).text;
        for client in ["tokio-postgres", "deadpool-postgres", "refinery", "sqlx", "diesel"] {
            assert!(!manifest.contains(client), "{member} depends on {client}");
        }
    }
}

fn lines_with(source: &Source, words: &[&str]) -> Vec<String> {
    let has = |line: &str| words.iter().any(|word| line.contains(word));
    source
        .code()
        .filter(|(_, line)| has(line))
        .map(|(number, line)| format!("{}:{number}: {}", source.path, line.trim()))
        .collect()
}
