//! `make chaos-guards`: removes guards of the protocol one at a time, and sees the checker of a chaos run find what each of them is for.
//!
//! In a copy of the checkout, built once with every guard behind a switch (`tests/chaos/guards.toml`); the switches exist only there. With
//! words: only the guards that have one of them.
#![expect(clippy::print_stdout, reason = "this program's output is for whoever runs it")]

use std::collections::BTreeMap;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use switchyard_tests::chaos::check::{Finding, Rule};
use switchyard_tests::harness::mutants::guards::{Guard, guards};
use switchyard_tests::harness::mutants::switched::VARIABLE;
use switchyard_tests::harness::mutants::{Mutant, Tree, errors_in, install, restore};

/// What is built of the copy.
const BUILD: [&str; 9] = [
    "build",
    "--locked",
    "-p",
    "switchyard-dispatcher",
    "-p",
    "switchyard-worker-agent",
    "-p",
    "switchyard-tests",
    "--bins",
];

/// What is read of a verdict.
#[derive(Deserialize)]
struct Found {
    findings: Vec<Finding>,
}

fn main() -> anyhow::Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let list = guards();
    let mutants: Vec<Mutant> = list.iter().map(Guard::mutant).collect::<anyhow::Result<_>>()?;
    let numbered: Vec<(u32, &Mutant)> = (1..).zip(&mutants).collect();
    let tree = Tree::refresh()?;
    let written = install(&tree, &numbered)?;
    build(&tree)?;
    let mut table = Vec::new();
    for ((number, _), guard) in numbered.iter().zip(&list) {
        let wanted =
            |word: &String| guard.guard.contains(word.as_str()) || guard.about.contains(word.as_str());
        if words.is_empty() || words.iter().any(wanted) {
            let found = run(&tree, guard, *number)?;
            println!("{}: {}", guard.about, told(guard, &found));
            table.push((guard, found));
        }
    }
    restore(&tree, &written)?;
    ensure!(!table.is_empty(), "no guard has any of {words:?}");
    println!("\n{:<20} {:<26} {:>4}  caught by", "guard", "mix", "seed");
    for (guard, found) in &table {
        println!("{:<20} {:<26} {:>4}  {}", guard.about, guard.mix, guard.seed, told(guard, found));
    }
    let missed = table.iter().filter(|(guard, found)| !is_caught(guard, found)).count();
    println!("{} guards, {missed} not caught", table.len());
    Ok(if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn build(tree: &Tree) -> anyhow::Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .current_dir(tree.root())
        .env("CARGO_TARGET_DIR", tree.target())
        .args(BUILD)
        .output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the guards do not compile behind switches: {}", errors_in(&told));
    Ok(())
}

/// What the run without the guard found, by rule.
fn run(tree: &Tree, guard: &Guard, number: u32) -> anyhow::Result<BTreeMap<Rule, usize>> {
    let built = tree.target().join("debug");
    let folder = built.join(format!("scenarios/chaos/{}-{}", guard.mix, guard.seed));
    // One of an earlier run would be taken for this one's.
    let _there_may_be_none = std::fs::remove_file(folder.join("verdict.json"));
    let _shown_by_its_verdict = Command::new(built.join("chaos"))
        .args([
            "--mix",
            &guard.mix,
            "--seed",
            &guard.seed.to_string(),
            "--minutes",
            &guard.minutes.to_string(),
        ])
        .env(VARIABLE, number.to_string())
        .stdout(Stdio::null())
        .status()?;
    let verdict = std::fs::read(folder.join("verdict.json")).context("no verdict")?;
    let verdict: Found = serde_json::from_slice(&verdict).context("the verdict")?;
    let mut found = BTreeMap::new();
    for finding in verdict.findings {
        *found.entry(finding.rule).or_default() += 1;
    }
    Ok(found)
}

/// Whether what was found is what the guard is for.
fn is_caught(guard: &Guard, found: &BTreeMap<Rule, usize>) -> bool {
    guard.finds.iter().any(|rule| found.contains_key(rule))
}

fn told(guard: &Guard, found: &BTreeMap<Rule, usize>) -> String {
    let rules: Vec<String> = found.iter().map(|(rule, count)| format!("{rule:?} x{count}")).collect();
    match (is_caught(guard, found), rules.is_empty()) {
        (true, _) => rules.join(", "),
        (false, true) => "NOT CAUGHT".to_owned(),
        (false, false) => format!("NOT CAUGHT, but {}", rules.join(", ")),
    }
}
