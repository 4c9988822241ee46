//! `make chaos-guards`: removes guards of the protocol one at a time, and sees the checker of a chaos run find what each of them is for.
//!
//! In a copy of the checkout, built once with every guard behind a switch (`tests/chaos/guards.toml`); the switches exist only there. With
//! words: only the guards that have one of them.
#![expect(clippy::print_stdout, reason = "this program's output is for whoever runs it")]

use std::collections::BTreeMap;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use serde_json::Value;
use switchyard_tests::harness::mutants::switched::VARIABLE;
use switchyard_tests::harness::mutants::{Mutant, Switch, Tree, errors_in, install, listed, restore};
use switchyard_tests::harness::sources;

const LIST: &str = "tests/chaos/guards.toml";
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    guard: Vec<Guard>,
}

/// A guard, and the run that must miss it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Guard {
    guard: String,
    about: String,
    mix: String,
    seed: u64,
    minutes: f64,
    patch: Option<Patch>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    file: String,
    find: String,
    replace: String,
    switch: Switch,
}

fn main() -> anyhow::Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let list: List = toml::from_str(&sources::read(LIST).text).context(LIST)?;
    let mutants: Vec<Mutant> = list.guard.iter().map(mutant).collect::<anyhow::Result<_>>()?;
    let numbered: Vec<(u32, &Mutant)> = (1..).zip(&mutants).collect();
    let tree = Tree::refresh()?;
    let written = install(&tree, &numbered)?;
    build(&tree)?;
    let mut table = Vec::new();
    for ((number, _), guard) in numbered.iter().zip(&list.guard) {
        let wanted =
            |word: &String| guard.guard.contains(word.as_str()) || guard.about.contains(word.as_str());
        if words.is_empty() || words.iter().any(wanted) {
            let found = run(&tree, guard, *number)?;
            println!("{}: {}", guard.about, told(&found));
            table.push((guard, found));
        }
    }
    restore(&tree, &written)?;
    ensure!(!table.is_empty(), "no guard has any of {words:?}");
    println!("\n{:<20} {:<26} {:>4}  caught by", "guard", "mix", "seed");
    for (guard, found) in &table {
        println!("{:<20} {:<26} {:>4}  {}", guard.about, guard.mix, guard.seed, told(found));
    }
    let missed = table.iter().filter(|(_, found)| found.is_empty()).count();
    println!("{} guards, {missed} not caught", table.len());
    Ok(if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn mutant(guard: &Guard) -> anyhow::Result<Mutant> {
    let Some(patch) = &guard.patch else {
        let known = listed().into_iter().find(|mutant| mutant.guard == guard.guard);
        return known.with_context(|| format!("no list of mutants has {:?}", guard.guard));
    };
    Ok(Mutant {
        guard: guard.guard.clone(),
        file: patch.file.clone(),
        find: patch.find.clone(),
        replace: patch.replace.clone(),
        check: String::new(),
        switch: Some(patch.switch),
        list: LIST.to_owned(),
    })
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
fn run(tree: &Tree, guard: &Guard, number: u32) -> anyhow::Result<BTreeMap<String, usize>> {
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
    let verdict: Value = serde_json::from_slice(&verdict).context("the verdict")?;
    let findings = verdict["findings"].as_array().context("a verdict has findings")?;
    let mut found = BTreeMap::new();
    for rule in findings.iter().filter_map(|finding| finding["rule"].as_str()) {
        *found.entry(rule.to_owned()).or_default() += 1;
    }
    Ok(found)
}

fn told(found: &BTreeMap<String, usize>) -> String {
    if found.is_empty() {
        return "NOT CAUGHT".to_owned();
    }
    found.iter().map(|(rule, count)| format!("{rule} x{count}")).collect::<Vec<_>>().join(", ")
}
