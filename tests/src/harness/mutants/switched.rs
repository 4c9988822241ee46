//! Many guards behind a switch each: one build serves them all, and the environment says which one is removed in a process.

use super::list::{Mutant, Switch};

/// The variable that names the removed guard by its number, from 1. Not one of the programs' own, which refuse what they do not know.
pub const VARIABLE: &str = "REMOVED_GUARD";

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
    let mut places: Vec<Place<'_>> = Vec::new();
    for (number, mutant) in mutants {
        let place = Place::of(text, *number, mutant)?;
        match places.iter_mut().find(|known| (known.from, known.to) == (place.from, place.to)) {
            Some(known) => known.removed.extend(place.removed),
            None => places.push(place),
        }
    }
    places.sort_by_key(|place| place.from);
    let krate = if path.starts_with("common/") { "crate" } else { "switchyard_common" };
    let (mut switched, mut rest_at) = (String::new(), 0);
    for place in places {
        if place.from < rest_at {
            return Err(format!("{}: the patch overlaps another one: build it alone", place.guard));
        }
        switched.push_str(&text[rest_at..place.from]);
        switched.push_str(&place.behind_switches(krate, text));
        rest_at = place.to;
    }
    switched.push_str(&text[rest_at..]);
    Ok(switched)
}

/// A part of a file that is switched.
struct Place<'a> {
    guard: &'a str,
    switch: Switch,
    from: usize,
    to: usize,
    /// Of a constant: its name.
    name: &'a str,
    /// What stands there instead, by the number of the removed guard.
    removed: Vec<(u32, String)>,
}

impl<'a> Place<'a> {
    fn of(text: &'a str, number: u32, mutant: &'a Mutant) -> Result<Self, String> {
        let at =
            text.find(&mutant.find).ok_or_else(|| format!("{}: the patch does not fit", mutant.guard))?;
        let switch = mutant.switch.unwrap_or(Switch::Statement);
        let (guard, to) = (&mutant.guard, at + mutant.find.len());
        if switch != Switch::Sql {
            return Ok(Self {
                guard,
                switch,
                from: at,
                to,
                name: "",
                removed: vec![(number, mutant.replace.clone())],
            });
        }
        let not_sql = || format!("{guard}: the patch is not in a constant of a function");
        let from = text[..at].rfind("const ").ok_or_else(not_sql)?;
        // One of a module is not computed when the program runs.
        if !text[..from].ends_with("    ") {
            return Err(not_sql());
        }
        let to = to + text[to..].find("\";").ok_or_else(not_sql)? + 2;
        let (head, value) = text[from..to].split_once(": &str = ").ok_or_else(not_sql)?;
        let name = head.trim_start_matches("const ");
        let removed = vec![(number, value.trim_end_matches(';').replacen(&mutant.find, &mutant.replace, 1))];
        Ok(Self { guard, switch, from, to, name, removed })
    }

    fn behind_switches(&self, krate: &str, text: &str) -> String {
        let whole = &text[self.from..self.to];
        let kept = match self.switch {
            Switch::Expression | Switch::Statement => whole,
            Switch::Sql => whole.split_once(" = ").map_or(whole, |(_, value)| value.trim_end_matches(';')),
        };
        let removed = self.removed.iter();
        let mut chain: String = removed
            .map(|(number, text)| format!("if {krate}::removed_guard::is({number}) {{ {text} }} else "))
            .collect();
        chain.push_str(&format!("{{ {kept} }}"));
        match self.switch {
            Switch::Expression => format!("({chain})"),
            Switch::Statement => chain,
            Switch::Sql => format!("let {}: &str = {chain};", self.name),
        }
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
            list: String::new(),
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
        let sql = mutant("id = 1", "true", Switch::Sql);
        let text =
            apply("dispatcher/src/x.rs", "    const SQL: &str = \"A WHERE id = 1\";", &[(3, &sql)]).unwrap();
        assert_eq!(
            text,
            "    let SQL: &str = if switchyard_common::removed_guard::is(3) { \"A WHERE true\" } else { \"A WHERE id = 1\" };"
        );
        let of_module = "pub(super) const SQL: &str = \"A WHERE id = 1\";";
        assert!(apply("dispatcher/src/x.rs", of_module, &[(3, &sql)]).is_err());
        let wide = mutant("a + b", "1", Switch::Expression);
        assert!(apply("common/src/x.rs", "a + b", &[(1, &one), (2, &wide)]).is_err());
    }
}
