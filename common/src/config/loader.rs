//! Reads configuration from environment variables and an optional TOML file, and reports all errors at once.
//!
//! A value is known by its TOML key (`broker.heartbeat`) and, where it has one, its environment variable
//! (`SWITCHYARD_BROKER_HEARTBEAT`), which wins. Every getter records what is wrong and goes on; [`Loader::finish`] ends
//! with everything that was wrong: bad values, missing ones, unknown keys and variables with the nearest known name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::required::Required;
use super::secret::Secret;
use super::value::{ConfigValue, parse};
use crate::text::closest;

/// Environment variables with this prefix are ours: an unknown one is an error.
const ENV_PREFIX: &str = "SWITCHYARD_";
/// The suffix of variables, and of TOML keys in lower case, that name a file with a secret in it.
const FILE_SUFFIX: &str = "_FILE";
/// Largest secret file.
const SECRET_FILE_MAX_BYTES: usize = 64 * 1024;

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {} error(s):", self.0.len())?;
        self.0.iter().try_for_each(|error| write!(f, "\n  - {error}"))
    }
}

impl std::error::Error for ConfigErrors {}

/// Where a value can be set. Made by [`key`] or [`env_key`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The path in TOML, parts separated by dots.
    toml: Option<&'static str>,
    /// The environment variable.
    env: Option<&'static str>,
}

/// A key that can be set in TOML and in the environment.
#[must_use]
pub const fn key(toml: &'static str, env: &'static str) -> Key {
    Key { toml: Some(toml), env: Some(env) }
}

/// A key that can be set in TOML only.
#[must_use]
pub const fn toml_key(toml: &'static str) -> Key {
    Key { toml: Some(toml), env: None }
}

/// A key that can be set in the environment only.
#[must_use]
pub const fn env_key(env: &'static str) -> Key {
    Key { toml: None, env: Some(env) }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.toml, self.env) {
            (Some(toml), Some(env)) => write!(f, "`{toml}` ({env})"),
            (Some(name), None) | (None, Some(name)) => write!(f, "`{name}`"),
            (None, None) => Ok(()),
        }
    }
}

/// Reads values and collects errors.
#[derive(Debug)]
pub struct Loader {
    env: BTreeMap<String, String>,
    toml: Table,
    known_env: BTreeSet<String>,
    known_toml: BTreeSet<String>,
    errors: Vec<String>,
}

/// A text that was found, and where.
struct Found {
    text: String,
    place: String,
}

impl Loader {
    /// A loader over the given variables and the text of a TOML file. A file that is not TOML is an error among the
    /// others.
    #[must_use]
    pub fn new(env: impl IntoIterator<Item = (String, String)>, toml: Option<&str>) -> Self {
        let mut loader = Self {
            env: env.into_iter().collect(),
            toml: Table::new(),
            known_env: BTreeSet::new(),
            known_toml: BTreeSet::new(),
            errors: Vec::new(),
        };
        match toml.map(str::parse::<Table>) {
            None => {}
            Some(Ok(table)) => loader.toml = table,
            // The parser's long form quotes the line, which may hold a secret.
            Some(Err(error)) => {
                let line = error.span().zip(toml).map(|(span, text)| line_of(text, span.start));
                let place = line.map_or(String::new(), |line| format!(" (line {line})"));
                loader.errors.push(format!("the configuration file is not TOML{place}: {}", error.message()));
            }
        }
        loader
    }

    /// A loader over the process's environment and, when `SWITCHYARD_CONFIG` names one, a TOML file.
    #[must_use]
    pub fn from_process() -> Self {
        let env: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let path = env.get("SWITCHYARD_CONFIG").cloned();
        let mut loader = match path.as_deref().map(|path| (path, std::fs::read_to_string(path))) {
            None => Self::new(env, None),
            Some((_, Ok(text))) => Self::new(env, Some(&text)),
            Some((path, Err(error))) => {
                let mut loader = Self::new(env, None);
                loader.errors.push(format!("cannot read the configuration file `{path}`: {error}"));
                loader
            }
        };
        loader.also_known(["SWITCHYARD_CONFIG", "SWITCHYARD_LOG"]);
        loader
    }

    /// Variables that exist and are read by somebody else.
    pub fn also_known<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) {
        self.known_env.extend(names.into_iter().map(ToOwned::to_owned));
    }

    /// A value that may be absent.
    pub fn optional<T: ConfigValue>(&mut self, key: Key) -> Option<T> {
        let found = self.find(key)?;
        match parse(&found.text) {
            Ok(value) => Some(value),
            Err(error) => {
                self.errors.push(format!("{}: {error}", found.place));
                None
            }
        }
    }

    /// A value with a default.
    pub fn value<T: ConfigValue>(&mut self, key: Key, default: T) -> T {
        self.optional(key).unwrap_or(default)
    }

    /// A value with a default and a rule; `check` says what is wrong with a value.
    pub fn checked<T: ConfigValue>(
        &mut self,
        key: Key,
        default: T,
        check: impl FnOnce(&T) -> Result<(), String>,
    ) -> T {
        let value = self.value(key, default);
        if let Err(wrong) = check(&value) {
            self.error(key, &wrong);
        }
        value
    }

    /// A value that must be there. `None` when it is missing or bad, which [`finish`](Self::finish) reports.
    pub fn required<T: ConfigValue>(&mut self, key: Key) -> Option<T> {
        let before = self.errors.len();
        let value = self.optional(key);
        if value.is_none() && self.errors.len() == before {
            self.errors.push(format!("{key} is required: {}", T::EXPECTED));
        }
        value
    }

    /// A secret that may be absent: from the variable, from the file that `<variable>_FILE` names, or from the TOML
    /// keys `<key>` and `<key>_file`, in this order. Two of them in one place is an error.
    pub fn optional_secret(&mut self, key: Key) -> Option<Secret> {
        let from_env = key.env.and_then(|name| {
            let file = format!("{name}{FILE_SUFFIX}");
            self.known_env.extend([name.to_owned(), file.clone()]);
            let both = (self.env.get(name).cloned(), self.env.get(&file).cloned());
            self.secret_from(name, &file, both)
        });
        let from_toml = key.toml.and_then(|name| {
            let file = format!("{name}{}", FILE_SUFFIX.to_lowercase());
            self.known_toml.extend([name.to_owned(), file.clone()]);
            let both = (self.toml_text(name), self.toml_text(&file));
            self.secret_from(name, &file, both)
        });
        from_env.or(from_toml)
    }

    /// As [`optional_secret`](Self::optional_secret), but it must be there.
    pub fn required_secret(&mut self, key: Key) -> Option<Secret> {
        let before = self.errors.len();
        let secret = self.optional_secret(key);
        if secret.is_none() && self.errors.len() == before {
            let file =
                key.env.map_or(String::new(), |name| format!("; a file can be named by {name}{FILE_SUFFIX}"));
            self.errors.push(format!("{key} is required: a secret{file}"));
        }
        secret
    }

    /// A whole TOML table or array, read by serde; give the type `deny_unknown_fields`.
    pub fn section<T: DeserializeOwned>(&mut self, toml: &'static str) -> Option<T> {
        self.known_toml.insert(toml.to_owned());
        let value = self.lookup(toml)?.clone();
        match value.try_into() {
            Ok(section) => Some(section),
            Err(error) => {
                self.errors.push(format!("`{toml}`: {}", error.message()));
                None
            }
        }
    }

    /// Records an error that the caller found.
    pub fn error(&mut self, key: Key, wrong: &str) {
        self.errors.push(format!("{key}: {wrong}"));
    }

    /// Ends loading: gives back `values` when nothing was wrong and all required ones are there.
    ///
    /// ```
    /// # use switchyard_common::config::{Loader, env_key};
    /// # fn load(mut loader: Loader) -> Result<(String, u16), switchyard_common::config::ConfigErrors> {
    /// let pool = loader.required::<String>(env_key("SWITCHYARD_POOL"));
    /// let slots = loader.value(env_key("SWITCHYARD_SLOTS"), 4_u16);
    /// let (pool,) = loader.finish((pool,))?;
    /// # Ok((pool, slots)) }
    /// ```
    ///
    /// # Errors
    /// Everything that was wrong.
    pub fn finish<R: Required>(mut self, values: R) -> Result<R::Values, ConfigErrors> {
        self.find_unknown_keys();
        self.find_unknown_variables();
        match values.all() {
            Some(values) if self.errors.is_empty() => Ok(values),
            Some(_) => Err(ConfigErrors(self.errors)),
            None => {
                if self.errors.is_empty() {
                    self.errors.push("a required value is missing".to_owned());
                }
                Err(ConfigErrors(self.errors))
            }
        }
    }

    /// The text of a value and where it was found. The environment wins.
    fn find(&mut self, key: Key) -> Option<Found> {
        self.known_env.extend(key.env.map(ToOwned::to_owned));
        self.known_toml.extend(key.toml.map(ToOwned::to_owned));
        let in_toml =
            key.toml.and_then(|name| Some(Found { text: self.toml_text(name)?, place: format!("`{name}`") }));
        let in_env = key.env.and_then(|name| {
            let text = self.env.get(name)?.clone();
            Some(Found { text, place: name.to_owned() })
        });
        in_env.or(in_toml)
    }

    fn lookup(&self, path: &str) -> Option<&Value> {
        let mut parts = path.split('.');
        let first = self.toml.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.as_table()?.get(part))
    }

    /// The text form of a scalar in TOML; a table or an array in its place is an error.
    fn toml_text(&mut self, path: &str) -> Option<String> {
        match self.lookup(path)? {
            Value::String(text) => Some(text.clone()),
            Value::Integer(number) => Some(number.to_string()),
            Value::Float(number) => Some(number.to_string()),
            Value::Boolean(flag) => Some(flag.to_string()),
            Value::Datetime(time) => Some(time.to_string()),
            Value::Array(_) | Value::Table(_) => {
                self.errors.push(format!("`{path}` must be a single value"));
                None
            }
        }
    }

    fn secret_from(
        &mut self,
        name: &str,
        file: &str,
        (text, path): (Option<String>, Option<String>),
    ) -> Option<Secret> {
        let secret = match (text, path) {
            (None, None) => return None,
            (Some(_), Some(_)) => {
                self.errors.push(format!("`{name}` and `{file}` are both set; set one"));
                return None;
            }
            (Some(text), None) => Ok(text),
            (None, Some(path)) => read_secret(Path::new(&path)).map_err(|why| format!("`{file}`: {why}")),
        };
        match secret {
            Ok(text) if text.is_empty() => self.errors.push(format!("`{name}` is an empty secret")),
            Ok(text) => return Some(Secret::new(text)),
            Err(error) => self.errors.push(error),
        }
        None
    }

    fn find_unknown_keys(&mut self) {
        let mut unknown = Vec::new();
        collect_unknown(&self.toml, "", &self.known_toml, &mut unknown);
        for path in unknown {
            let known = self.known_toml.iter().map(String::as_str);
            self.errors.push(format!("unknown key `{path}`{}", suggestion(closest(&path, known))));
        }
    }

    fn find_unknown_variables(&mut self) {
        for name in self.env.keys() {
            let ours = name.starts_with(ENV_PREFIX) && !is_service_link(name);
            if ours && !self.known_env.contains(name) {
                let known = self.known_env.iter().map(String::as_str);
                self.errors.push(format!("unknown variable `{name}`{}", suggestion(closest(name, known))));
            }
        }
    }
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or(String::new(), |name| format!("; did you mean `{name}`?"))
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// Kubernetes sets such variables for every service of the namespace: `SWITCHYARD_DISPATCHER_SERVICE_HOST`, `..._PORT`,
/// `..._PORT_80_TCP_ADDR`. They are not configuration.
fn is_service_link(name: &str) -> bool {
    let numbered =
        |marker: &str| name.split(marker).skip(1).any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || numbered("_PORT_")
}

/// The paths of all keys that nobody asked for. A table that was asked for as a whole is not looked into.
fn collect_unknown(table: &Table, prefix: &str, known: &BTreeSet<String>, unknown: &mut Vec<String>) {
    for (name, value) in table {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        if known.contains(&path) {
            continue;
        }
        let inner = format!("{path}.");
        match value.as_table() {
            Some(table) if known.iter().any(|key| key.starts_with(&inner)) => {
                collect_unknown(table, &path, known, unknown);
            }
            Some(_) | None => unknown.push(path),
        }
    }
}

fn read_secret(path: &Path) -> Result<String, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
    if bytes.len() > SECRET_FILE_MAX_BYTES {
        return Err(format!("`{}` is larger than {SECRET_FILE_MAX_BYTES} bytes", path.display()));
    }
    let text = String::from_utf8(bytes).map_err(|_| format!("`{}` is not text", path.display()))?;
    // Editors and `kubectl create secret` leave a newline at the end.
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
#[path = "loader_tests.rs"]
mod tests;
