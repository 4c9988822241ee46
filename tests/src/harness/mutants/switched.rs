//! Many guards behind a switch each: one build serves them all, and the environment says which one is removed in a process.

use super::list::{Mutant, Switch};

/// The variable that names the removed guard by its number, from 1.
pub const VARIABLE: &str = "SWITCHYARD_MUTANT";

/// The file that gets the switch.
pub const SWITCH_FILE: &str = "common/src/lib.rs";

/// The switch itself, for the end of [`SWITCH_FILE`].
#[must_use]
pub fn switch() -> String {
    format!(
        "\n/// Guards that are removed.\npub mod removed_guard {{\n    /// Whether this one is.\n    pub fn is(number: u32) -> bool {{\n        \
         static NUMBER: std::sync::OnceLock<u32> = std::sync::OnceLock::new();\n        \
         *NUMBER.get_or_init(|| std::env::var(\"{VARIABLE}\").ok().and_then(|text| text.parse().ok()).unwrap_or(0)) == number\n    \
         }}\n}}\n"
    )
}

/// A file with each of `mutants` (all of this file, with their numbers) behind its switch.
///
/// # Errors
/// Where a patch does not fit, or two overlap without being the same.
pub fn apply(path: &str, text: &str, mutants: &[(u32, &Mutant)]) -> Result<String, String> {
    let mut places: Vec<(usize, &Mutant, Vec<(u32, &Mutant)>)> = Vec::new();
    for (number, mutant) in mutants {
        let at =
            text.find(&mutant.find).ok_or_else(|| format!("{}: the patch does not fit", mutant.guard))?;
        let same =
            places.iter_mut().find(|(place, first, _)| *place == at && first.find.len() == mutant.find.len());
        match same {
            Some((_, _, all)) => all.push((*number, mutant)),
            None => places.push((at, mutant, vec![(*number, mutant)])),
        }
    }
    places.sort_by_key(|(at, ..)| *at);
    let (mut switched, mut rest_at) = (String::new(), 0);
    for (at, first, all) in places {
        if at < rest_at {
            return Err(format!("{}: the patch overlaps another one: build it alone", first.guard));
        }
        switched.push_str(&text[rest_at..at]);
        switched.push_str(&behind(path, first, &all));
        rest_at = at + first.find.len();
    }
    switched.push_str(&text[rest_at..]);
    Ok(switched)
}

fn behind(path: &str, first: &Mutant, all: &[(u32, &Mutant)]) -> String {
    let krate = if path.starts_with("common/") { "crate" } else { "switchyard_common" };
    let mut chain: String = all
        .iter()
        .map(|(number, mutant)| {
            format!("if {krate}::removed_guard::is({number}) {{ {} }} else ", mutant.replace)
        })
        .collect();
    chain.push_str(&format!("{{ {} }}", first.find));
    match first.switch {
        Some(Switch::Expression) => format!("({chain})"),
        Some(Switch::Statement) | None => chain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutant(find: &str, replace: &str, switch: Switch) -> Mutant {
        Mutant {
            guard: "g".into(),
            file: "dispatcher/src/x.rs".into(),
            find: find.into(),
            replace: replace.into(),
            check: "t".into(),
            switch: Some(switch),
        }
    }

    #[test]
    fn each_patch_stands_behind_its_own_switch() {
        let (one, two) = (mutant("b > 1", "true", Switch::Expression), mutant("c();", "", Switch::Statement));
        let text = apply("dispatcher/src/x.rs", "if a && b > 1 { c(); }", &[(1, &one), (2, &two)]).unwrap();
        assert_eq!(
            text,
            "if a && (if switchyard_common::removed_guard::is(1) { true } else { b > 1 }) \
             { if switchyard_common::removed_guard::is(2) {  } else { c(); } }"
        );
    }

    #[test]
    fn patches_of_the_same_place_share_it_and_others_must_not_overlap() {
        let (one, two) = (mutant("a", "1", Switch::Expression), mutant("a", "2", Switch::Expression));
        let text = apply("common/src/x.rs", "a", &[(1, &one), (2, &two)]).unwrap();
        assert_eq!(
            text,
            "(if crate::removed_guard::is(1) { 1 } else if crate::removed_guard::is(2) { 2 } else { a })"
        );
        let wide = mutant("a + b", "1", Switch::Expression);
        assert!(apply("common/src/x.rs", "a + b", &[(1, &one), (2, &wide)]).is_err());
    }
}
