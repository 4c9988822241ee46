//! Removes guards one at a time and sees the named test fail: `tests/mutants/run [WORD..]` runs those whose guard, file, check or list
//! has a word. Each mutant is a listed patch in `tests/mutants/*.toml`.
//!
//! Everything happens in a copy of the checkout below `target/mutants`. Patches that can stand behind a switch are built together,
//! once, and then cost no more than the test that they fail; each of the others is built alone.
#![expect(clippy::print_stdout, reason = "this program's output is for whoever runs it")]

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use switchyard_tests::harness::mutants::{Check, Mutant, Tree, Verdict, install, listed, restore};
use switchyard_tests::harness::sources;

/// A line of the table.
struct Done {
    guard: String,
    verdict: Verdict,
    seconds: f64,
}

fn main() -> anyhow::Result<ExitCode> {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let asks_only = words.first().is_some_and(|word| word == "--need-services");
    if asks_only {
        words.remove(0);
    }
    let chosen: Vec<Mutant> = listed().into_iter().filter(|mutant| mutant.matches(&words)).collect();
    ensure!(!chosen.is_empty(), "no listed mutant has any of {words:?}");
    if asks_only {
        let needed = chosen.iter().any(Mutant::needs_services);
        return Ok(if needed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let tree = Tree::refresh()?;
    let (together, alone): (Vec<&Mutant>, Vec<&Mutant>) =
        chosen.iter().partition(|mutant| mutant.switch.is_some());
    let mut table = run_together(&tree, &together)?;
    for mutant in alone {
        table.push(run_alone(&tree, mutant)?);
    }
    Ok(tell(&table))
}

/// One build for all of them; each is then a run of its test with its switch on. First every test is seen to pass without one.
fn run_together(tree: &Tree, mutants: &[&Mutant]) -> anyhow::Result<Vec<Done>> {
    if mutants.is_empty() {
        return Ok(Vec::new());
    }
    let numbered: Vec<(u32, &Mutant)> = (1..).zip(mutants.iter().copied()).collect();
    let written = install(tree, &numbered)?;
    let checks: BTreeSet<&str> = mutants.iter().map(|mutant| mutant.check.as_str()).collect();
    for arguments in checks {
        let (check, started) = (Check { tree, arguments, switched: 0 }, Instant::now());
        check
            .build()
            .with_context(|| format!("{arguments} does not compile with its guards behind switches"))?;
        println!("built for {arguments} in {:.0} s", started.elapsed().as_secs_f64());
        let verdict = check.run()?;
        ensure!(verdict == Verdict::Survived, "{arguments} fails with every guard in place: {verdict}");
    }
    let mut table = Vec::new();
    for (number, mutant) in numbered {
        let started = Instant::now();
        let verdict = Check { tree, arguments: &mutant.check, switched: number }.run()?;
        table.push(done(mutant, verdict, started));
    }
    restore(tree, &written)?;
    Ok(table)
}

fn run_alone(tree: &Tree, mutant: &Mutant) -> anyhow::Result<Done> {
    let before = sources::read(&mutant.file).text;
    ensure!(before.matches(&mutant.find).count() == 1, "{}: the patch does not fit any more", mutant.guard);
    tree.write(&mutant.file, &before.replacen(&mutant.find, &mutant.replace, 1))?;
    let started = Instant::now();
    let verdict = Check { tree, arguments: &mutant.check, switched: 0 }.run()?;
    tree.write(&mutant.file, &before)?;
    Ok(done(mutant, verdict, started))
}

fn done(mutant: &Mutant, verdict: Verdict, started: Instant) -> Done {
    let done = Done { guard: mutant.guard.clone(), verdict, seconds: started.elapsed().as_secs_f64() };
    println!("{:>6.1} s  {}  ({})", done.seconds, done.guard, done.verdict);
    done
}

fn tell(table: &[Done]) -> ExitCode {
    let width = table.iter().map(|done| done.guard.chars().count()).max().unwrap_or_default();
    println!("\n{:<width$}  seconds  verdict", "guard");
    for done in table {
        println!("{:<width$}  {:>7.1}  {}", done.guard, done.seconds, done.verdict);
    }
    let left = table.iter().filter(|done| !done.verdict.is_killed()).count();
    println!("{} mutants, {left} not killed", table.len());
    if left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
