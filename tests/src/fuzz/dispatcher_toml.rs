//! The dispatcher's TOML file: it is taken, or everything wrong in it is told at once, and no secret is told with it.

use switchyard_common::config::Loader;
use switchyard_common::contract::limits::STEPS_MAX_COUNT;
use switchyard_common::task::{Kinds, Step};
use switchyard_dispatcher::config::Config;
use toml::Table;

use super::fields::escapes_nul;

/// The password of the URLs in the environment.
const PASSWORD: &str = "correct-horse-battery";

/// Reads the configuration.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    // What the input holds itself may be told.
    if names_a_file(&text) || text.contains(PASSWORD) {
        return;
    }
    let urls = [
        ("SWITCHYARD_AMQP_URL", format!("amqp://u:{PASSWORD}@localhost")),
        ("SWITCHYARD_DATABASE_URL", format!("postgresql://u:{PASSWORD}@localhost/d")),
    ];
    let environment = urls.into_iter().map(|(name, value)| (name.to_owned(), value));
    match Config::read(Loader::new(environment, Some(&text))) {
        Ok(config) => {
            assert!(!format!("{config:?}").contains(PASSWORD), "a password is shown");
            let kinds = Kinds::with_built_in(config.kinds.iter().cloned());
            kinds.expect("kinds that were taken can be used together");
            for kind in &config.kinds {
                assert!((1..=STEPS_MAX_COUNT).contains(&kind.steps.len()));
                kind.steps.iter().for_each(|step| check_step(step, &text));
            }
        }
        Err(errors) => check_errors(&errors.0, PASSWORD),
    }
}

/// Files are opened, and no input may open one at random: the corpus of another run could hold any path.
pub(super) fn names_a_file(text: &str) -> bool {
    text.parse().is_ok_and(|table| has_file_key(&table))
}

/// Whether a key such as `url_file` is in it, at any depth.
fn has_file_key(table: &Table) -> bool {
    table.iter().any(|(key, value)| key.ends_with("_file") || value.as_table().is_some_and(has_file_key))
}

pub(super) fn check_errors(errors: &[String], password: &str) {
    assert!(!errors.is_empty(), "refused without a word");
    for error in errors {
        assert!(!error.trim().is_empty() && !error.contains(password), "{error:?}");
    }
}

/// A step travels with its task through the database, as JSON that PostgreSQL must take, and must come back the same.
fn check_step(step: &Step, text: &str) {
    let stored = serde_json::to_string(step).expect("a step can be written");
    assert!(!escapes_nul(&stored), "PostgreSQL refuses NUL: {stored}");
    let has_date = stored.contains("$__toml") && !text.contains("$__toml");
    assert!(!has_date, "a value that JSON does not have: {stored}");
    let back: Step = serde_json::from_str(&stored).expect("a step can be read");
    assert_eq!(&back, step);
}
