//! Reads the `[handlers.<name>]` tables of the agent's TOML. All errors are reported together, each with its place.
//!
//! ```toml
//! [handlers.plan]
//! command = ["/opt/handlers/plan", "--json"]    # no shell; with a '/' but not at its start: relative to this file
//! env_pass = ["HOME", "CLOUD_TOKEN"]            # the agent's variables that the program may see
//! env = { TF_IN_AUTOMATION = "1" }              # fixed values
//! mask = ["CLOUD_TOKEN"]                        # variables whose values are secrets: *** in the log
//! exit_codes = { 0 = "no_changes", 2 = "succeeded" }
//! run_timeout_ms = 600000                       # the shorter one of this and the step's counts
//! kill_grace_ms = 5000                          # between TERM and KILL
//! max_artifact_bytes = 8388608
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use switchyard_common::contract::ids::check_label;
use switchyard_common::contract::limits::{ARTIFACTS_TOTAL_MAX_BYTES, HANDLERS_MAX_COUNT};
use toml::{Table, Value};

use super::environment::RESERVED_PREFIX;
use super::limits::{ENV_MAX_COUNT, KILL_GRACE_DEFAULT_MS, KILL_GRACE_MAX_MS, RUN_TIMEOUT_MAX_MS};
use super::spec::{ExitMeaning, ProgramSpec};

/// The keys of a handler's table.
const KEYS: [&str; 8] = [
    "command",
    "env_pass",
    "env",
    "mask",
    "exit_codes",
    "run_timeout_ms",
    "kill_grace_ms",
    "max_artifact_bytes",
];

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {reason}")]
pub struct ConfigError {
    /// The key, with its tables.
    pub at: String,
    /// What is wrong and what is expected.
    pub reason: String,
}

/// Everything that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} error(s) in the handlers:\n{}", .0.len(), list(.0))]
pub struct ConfigErrors(pub Vec<ConfigError>);

fn list(errors: &[ConfigError]) -> String {
    errors.iter().map(|error| format!("  {error}")).collect::<Vec<_>>().join("\n")
}

/// Reads the value of the key `handlers`. Commands with a relative path are relative to `base_dir`, the directory of the file.
///
/// # Errors
/// All that is wrong, at once.
pub fn parse_handlers(
    handlers: &Table,
    base_dir: &Path,
) -> Result<BTreeMap<String, ProgramSpec>, ConfigErrors> {
    let mut errors = Vec::new();
    if handlers.len() > HANDLERS_MAX_COUNT {
        let reason = format!("{} handlers: at most {HANDLERS_MAX_COUNT} are allowed", handlers.len());
        errors.push(ConfigError { at: "handlers".into(), reason });
    }
    let mut specs = BTreeMap::new();
    for (name, value) in handlers {
        let mut reader = Reader { at: format!("handlers.{name}"), errors: &mut errors };
        if let Err(error) = check_label(name, true) {
            reader.refuse("", format!("the name {error}"));
        }
        match value.as_table() {
            Some(table) => {
                specs.insert(name.clone(), reader.spec(table, base_dir));
            }
            None => reader.refuse("", expected("a table", value)),
        }
    }
    if errors.is_empty() { Ok(specs) } else { Err(ConfigErrors(errors)) }
}

/// Reads one table. What is wrong is written down and replaced, so that the rest is read too.
struct Reader<'a> {
    at: String,
    errors: &'a mut Vec<ConfigError>,
}

impl Reader<'_> {
    fn spec(&mut self, table: &Table, base_dir: &Path) -> ProgramSpec {
        for key in table.keys().filter(|key| !KEYS.contains(&key.as_str())) {
            self.refuse(key, format!("unknown key; known are {}", KEYS.join(", ")));
        }
        let total = ARTIFACTS_TOTAL_MAX_BYTES as u64;
        let spec = ProgramSpec {
            command: self.command(table, base_dir),
            env_pass: self.names(table, "env_pass"),
            env: self.fixed_env(table),
            mask: self.names(table, "mask"),
            run_timeout: self
                .number(table, "run_timeout_ms", 1, RUN_TIMEOUT_MAX_MS)
                .map(Duration::from_millis),
            kill_grace: Duration::from_millis(
                self.number(table, "kill_grace_ms", 0, KILL_GRACE_MAX_MS).unwrap_or(KILL_GRACE_DEFAULT_MS),
            ),
            exit_codes: self.exit_codes(table),
            max_artifact_bytes: self.number(table, "max_artifact_bytes", 0, total).unwrap_or(total),
        };
        self.check_names(&spec);
        spec
    }

    fn command(&mut self, table: &Table, base_dir: &Path) -> Vec<String> {
        let Some(value) = table.get("command") else {
            self.refuse(
                "command",
                "is missing: give the program and its arguments, as [\"program\", \"argument\"]".into(),
            );
            return Vec::new();
        };
        let mut command = self.texts("command", value);
        if command.iter().any(|word| word.contains('\0')) {
            self.refuse("command", "has a NUL character".into());
        }
        match command.first_mut() {
            None => self.refuse("command", "is empty: give the program and its arguments".into()),
            Some(program) if program.is_empty() => {
                self.refuse("command", "the program's name is empty".into())
            }
            Some(program) if program.contains('/') => {
                // Programs run in a directory of their own, where a relative path would name nothing.
                *program = base_dir.join(&*program).to_string_lossy().into_owned();
            }
            Some(_) => {}
        }
        command
    }

    fn names(&mut self, table: &Table, key: &str) -> BTreeSet<String> {
        let Some(value) = table.get(key) else { return BTreeSet::new() };
        let names = self.texts(key, value);
        if names.len() > ENV_MAX_COUNT {
            self.refuse(key, format!("{} names: at most {ENV_MAX_COUNT} are allowed", names.len()));
        }
        names.into_iter().collect()
    }

    fn fixed_env(&mut self, table: &Table) -> BTreeMap<String, String> {
        let fields = self.fields(table, "env", "a table of texts");
        if fields.len() > ENV_MAX_COUNT {
            self.refuse("env", format!("{} names: at most {ENV_MAX_COUNT} are allowed", fields.len()));
        }
        let mut env = BTreeMap::new();
        for (name, value) in fields {
            let at = format!("env.{name}");
            match value.as_str() {
                Some(text) if text.contains('\0') => self.refuse(&at, "has a NUL character".into()),
                Some(text) => {
                    env.insert(name.clone(), text.to_owned());
                }
                None => self.refuse(&at, expected("a text in quotes", value)),
            }
        }
        env
    }

    fn exit_codes(&mut self, table: &Table) -> BTreeMap<u8, ExitMeaning> {
        let fields = self.fields(table, "exit_codes", "a table such as { 2 = \"no_changes\" }");
        fields.into_iter().filter_map(|(code, value)| self.exit_code(code, value)).collect()
    }

    fn fields<'t>(&mut self, table: &'t Table, key: &str, what: &str) -> Vec<(&'t String, &'t Value)> {
        let Some(value) = table.get(key) else { return Vec::new() };
        value.as_table().map_or_else(
            || {
                self.refuse(key, expected(what, value));
                Vec::new()
            },
            |fields| fields.iter().collect(),
        )
    }

    fn exit_code(&mut self, code: &str, value: &Value) -> Option<(u8, ExitMeaning)> {
        let at = format!("exit_codes.{code}");
        let number = code.parse().ok();
        if number.is_none() {
            self.refuse(&at, "an exit code is a number from 0 to 255".into());
        }
        let word = value.as_str().unwrap_or_default();
        let meaning =
            ExitMeaning::ALL.into_iter().find(|(name, _)| *name == word).map(|(_, meaning)| meaning);
        if meaning.is_none() {
            let words = ExitMeaning::ALL.map(|(name, _)| format!("{name:?}")).join(", ");
            self.refuse(&at, format!("expected one of {words}"));
        }
        Some((number?, meaning?))
    }

    /// Values out of range are refused, never moved into it.
    fn number(&mut self, table: &Table, key: &str, min: u64, max: u64) -> Option<u64> {
        let value = table.get(key)?;
        let number = value.as_integer().and_then(|number| u64::try_from(number).ok());
        let in_range = number.filter(|number| (min..=max).contains(number));
        if in_range.is_none() {
            self.refuse(key, format!("expected a whole number from {min} to {max}, without quotes"));
        }
        in_range
    }

    fn texts(&mut self, key: &str, value: &Value) -> Vec<String> {
        let texts: Option<Vec<String>> = value
            .as_array()
            .and_then(|items| items.iter().map(|item| item.as_str().map(str::to_owned)).collect());
        texts.unwrap_or_else(|| {
            self.refuse(key, expected("an array of texts", value));
            Vec::new()
        })
    }

    fn check_names(&mut self, spec: &ProgramSpec) {
        for (key, name) in spec
            .env_pass
            .iter()
            .map(|name| ("env_pass", name))
            .chain(spec.env.keys().map(|name| ("env", name)))
        {
            if name.is_empty() || name.contains(['=', '\0']) {
                self.refuse(key, format!("{name:?} is not a variable's name"));
            }
            if name.starts_with(RESERVED_PREFIX) {
                let why = "names with this beginning hold the agent's own settings and secrets";
                self.refuse(key, format!("{name} cannot be given to a program: {why}"));
            }
        }
        for name in &spec.mask {
            if !spec.env_pass.contains(name) && !spec.env.contains_key(name) {
                self.refuse(
                    "mask",
                    format!("{name} is neither in env_pass nor in env, so its value is not known"),
                );
            }
        }
    }

    fn refuse(&mut self, key: &str, reason: String) {
        let at = if key.is_empty() { self.at.clone() } else { format!("{}.{key}", self.at) };
        self.errors.push(ConfigError { at, reason });
    }
}

fn expected(what: &str, found: &Value) -> String {
    format!("expected {what}, found {}", found.type_str())
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
