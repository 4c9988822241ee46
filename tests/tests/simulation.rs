//! The simulation: thousands of seeds, each a whole life of the system under faults, with every invariant held.
//!
//! A failing seed is printed with the command that replays it and prints its trace. `SWITCHYARD_SIM_SEEDS` sets how many seeds run,
//! `SWITCHYARD_SIM_FIRST` the first one, `SWITCHYARD_SIM_SEED` runs one alone and prints what happened in it.
#![expect(clippy::expect_used, reason = "a test that cannot be set up must stop")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use switchyard_tests::sim::{Report, Tracing, run};

/// Seeds in the ordinary run.
const SEEDS_COUNT: u64 = 2_000;
/// So many seeds make a line of progress: more than the ordinary run has.
const PROGRESS_EVERY_COUNT: u64 = 2_500;
/// Threads that run them.
const THREADS_COUNT: usize = 2;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a whole number"))
}

/// What came of many seeds.
struct End {
    failed: Vec<Report>,
    panicked: Vec<u64>,
    events: u64,
}

#[expect(clippy::print_stdout, reason = "progress, for whoever waits for many seeds")]
fn say_progress(so_far: u64, count: u64, begun: Instant) {
    println!("{so_far} of {count} seeds in {} s", begun.elapsed().as_secs());
}

/// Runs seeds until all have run or one has failed.
fn run_all(first: u64, count: u64) -> End {
    let (next, events) = (AtomicU64::new(first), AtomicU64::new(0));
    let failed = AtomicBool::new(false);
    let panicked = Mutex::new(Vec::new());
    let (done, begun) = (AtomicU64::new(0), Instant::now());
    let work = || {
        let mut reports = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                break;
            }
            let Ok(report) = std::panic::catch_unwind(|| run(seed, Tracing::Off)) else {
                failed.store(true, Ordering::Relaxed);
                panicked.lock().expect("no panic while held").push(seed);
                continue;
            };
            events.fetch_add(report.events, Ordering::Relaxed);
            let so_far = done.fetch_add(1, Ordering::Relaxed) + 1;
            if so_far.is_multiple_of(PROGRESS_EVERY_COUNT) {
                say_progress(so_far, count, begun);
            }
            if !report.violations.is_empty() {
                failed.store(true, Ordering::Relaxed);
                reports.push(report);
            }
        }
        reports
    };
    let failed = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS_COUNT).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("panics are caught")).collect()
    });
    let panicked = panicked.into_inner().expect("no panic while held");
    End { failed, panicked, events: events.into_inner() }
}

#[test]
fn every_seed_comes_to_rest_with_every_invariant_held() {
    if let Some(seed) = number("SWITCHYARD_SIM_SEED") {
        let report = run(seed, Tracing::Lines);
        report.lines.iter().for_each(|line| println!("{line}"));
        assert!(report.violations.is_empty(), "seed {seed}: {:#?}", report.violations);
        return;
    }
    let first = number("SWITCHYARD_SIM_FIRST").unwrap_or_default();
    let count = number("SWITCHYARD_SIM_SEEDS").unwrap_or(SEEDS_COUNT);
    let end = run_all(first, count);
    println!("{count} seeds, {} events", end.events);
    for report in &end.failed {
        println!("seed {} failed at {} ms: {}", report.seed, report.ended_at, report.violations.join("; "));
    }
    end.panicked.iter().for_each(|seed| println!("seed {seed} failed: it panicked, as said above"));
    let failed = end.failed.iter().map(|report| report.seed).chain(end.panicked.iter().copied());
    let failed: Vec<u64> = failed.inspect(|seed| println!("{}", replay(*seed))).collect();
    assert!(failed.is_empty(), "seeds {failed:?} failed");
}

fn replay(seed: u64) -> String {
    format!(
        "replay: SWITCHYARD_SIM_SEED={seed} cargo test -p switchyard-tests --test simulation every_seed -- --nocapture"
    )
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..5 {
        let (one, other) = (run(seed, Tracing::Hash), run(seed, Tracing::Hash));
        assert_eq!(one.hash, other.hash, "seed {seed}");
        assert_eq!(
            (one.events, one.runs, one.ended_at),
            (other.events, other.runs, other.ended_at),
            "seed {seed}"
        );
    }
}
