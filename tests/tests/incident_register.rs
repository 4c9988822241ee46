//! Every incident that Switchyard must make impossible has a test that carries its number, and a listed mutant that the test kills.

use std::collections::BTreeSet;

use switchyard_tests::chaos::mixes;
use switchyard_tests::harness::mutants::guards::guards;
use switchyard_tests::harness::mutants::{listed, switched};
use switchyard_tests::harness::sources;

/// The incidents that Switchyard must make impossible: all that were collected. Nothing here scales agents, so that of 25, 28 and 31 to
/// 34 it answers for what a scaler reads: the slots that a pool has and those that it wants, told in time, never guessed as zero.
const REQUIRED: [u32; 65] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28,
    29, 30, 31, 32, 33, 34, 37, 38, 39, 40, 41, 42, 43, 45, 46, 47, 48, 53, 54, 55, 57, 58, 59, 60, 61, 62,
    63, 64, 65, 67, 68, 69, 70, 71, 73, 74, 75,
];

/// The number in `incident_07_short_words`.
fn number(test: &str) -> Option<u32> {
    let digits: String = test.strip_prefix("incident_")?.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// The names of all incident tests in the sources.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for source in sources::all_rust() {
        let lines: Vec<&str> = source.text.lines().map(str::trim_start).collect();
        for pair in lines.windows(2) {
            let is_test = pair[0].starts_with("#[test]") || pair[0].starts_with("#[tokio::test");
            let Some((_, after)) = pair[1].split_once("fn incident_") else { continue };
            if is_test && let Some((name, _)) = after.split_once('(') {
                names.insert(format!("incident_{name}"));
            }
        }
    }
    names
}

#[test]
fn every_required_incident_has_a_test_that_carries_its_number() {
    let tested: BTreeSet<u32> = tests().iter().filter_map(|name| number(name)).collect();
    let missing: Vec<u32> = REQUIRED.into_iter().filter(|number| !tested.contains(number)).collect();
    assert_eq!(missing, Vec::<u32>::new());
}

#[test]
fn every_required_incident_has_a_listed_mutant() {
    let mutated: BTreeSet<u32> = listed().iter().filter_map(|mutant| number(mutant.test())).collect();
    let missing: Vec<u32> = REQUIRED.into_iter().filter(|number| !mutated.contains(number)).collect();
    assert_eq!(missing, Vec::<u32>::new());
}

#[test]
fn every_mutant_still_fits_its_file_and_names_a_test_that_exists() {
    let tests = tests();
    let mut wrong = Vec::new();
    for mutant in listed() {
        let text = sources::read(&mutant.file).text;
        let found = text.matches(&mutant.find).count();
        if found != 1 || mutant.find == mutant.replace {
            wrong.push(format!("{}: the patch fits {found} times in {}", mutant.guard, mutant.file));
        }
        if mutant.switch.is_some()
            && let Err(why) = switched::apply(&mutant.file, &text, &[(1, &mutant)])
        {
            wrong.push(why);
        }
        if number(mutant.test()).is_some() && !tests.contains(mutant.test()) {
            wrong.push(format!("{}: there is no test {}", mutant.guard, mutant.test()));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn every_guard_of_a_chaos_run_can_be_removed_and_names_a_mix() {
    let mut wrong = Vec::new();
    let guards = guards();
    for guard in &guards {
        let mutant = match guard.mutant() {
            Ok(mutant) => mutant,
            Err(why) => {
                wrong.push(why.to_string());
                continue;
            }
        };
        let text = sources::read(&mutant.file).text;
        let found = text.matches(&mutant.find).count();
        if found != 1 || mutant.switch.is_none() {
            wrong.push(format!("{}: the patch fits {found} times in {}", guard.guard, mutant.file));
        }
        if let Err(why) = switched::apply(&mutant.file, &text, &[(1, &mutant)]) {
            wrong.push(why);
        }
        if mixes::named(&guard.mix).is_none() || guard.finds.is_empty() {
            wrong.push(format!("{}: no mix, or nothing to find", guard.guard));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    let names: BTreeSet<&str> = guards.iter().map(|guard| guard.about.as_str()).collect();
    assert!(names.len() >= 8, "{names:?}");
}
