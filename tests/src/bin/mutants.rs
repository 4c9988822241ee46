//! Removes guards one at a time and sees the named test fail: `tests/mutants/run [WORD..]` runs those whose guard, file or check has a
//! word. Each mutant is a listed patch in `tests/mutants/*.toml`; the file is put back whatever happens.
#![expect(clippy::print_stdout, reason = "this program's output is for whoever runs it")]

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, ensure};
use switchyard_tests::harness::mutants::{Mutant, listed};
use switchyard_tests::harness::sources::root;

fn main() -> anyhow::Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mut survived = 0;
    for mutant in listed().iter().filter(|mutant| mutant.matches(&words)) {
        let verdict = run(mutant)?;
        println!("{verdict:<9} {} ({})", mutant.guard, mutant.test());
        survived += u32::from(verdict != "killed");
    }
    println!("{survived} not killed");
    Ok(if survived == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run(mutant: &Mutant) -> anyhow::Result<&'static str> {
    let path = root().join(&mutant.file);
    let before = std::fs::read_to_string(&path).with_context(|| mutant.file.clone())?;
    ensure!(before.matches(&mutant.find).count() == 1, "{}: the patch does not fit any more", mutant.guard);
    let _restore = Restore { path: path.clone(), text: before.clone() };
    std::fs::write(&path, before.replacen(&mutant.find, &mutant.replace, 1))?;
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
        .current_dir(root())
        .arg("test")
        .args(mutant.check.split_whitespace())
        .output()?;
    let told = String::from_utf8_lossy(&output.stdout);
    Ok(if told.contains("test result: FAILED") {
        "killed"
    } else if output.status.success() {
        "SURVIVED"
    } else {
        // It did not compile: that proves nothing about the test.
        "BROKEN"
    })
}

/// Puts a file back.
struct Restore {
    path: PathBuf,
    text: String,
}

impl Drop for Restore {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(&self.path, &self.text) {
            println!("{} could not be put back: {error}", self.path.display());
        }
    }
}
