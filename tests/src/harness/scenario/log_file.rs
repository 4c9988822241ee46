//! The log of a program as values: one JSON object per line.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::harness::wait::{Look, until};

/// Lines at the end of a log that an error repeats.
const TAIL_LINES: usize = 15;

/// One line.
#[derive(Clone, PartialEq)]
pub struct LogLine(Map<String, Value>);

impl LogLine {
    fn read(text: &str) -> Self {
        match serde_json::from_str(text) {
            Ok(Value::Object(fields)) => Self(fields),
            // The last words of a program are not always JSON.
            _ => Self(Map::from_iter([("message".to_owned(), Value::String(text.to_owned()))])),
        }
    }

    /// A field, or null.
    #[must_use]
    pub fn field(&self, name: &str) -> &Value {
        self.0.get(name).unwrap_or(&Value::Null)
    }

    /// A field as text; empty when it is absent or not text.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        self.field(name).as_str().unwrap_or_default()
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> &str {
        self.text("message")
    }

    /// The level: `ERROR`, `WARN`, ...; empty for a line that is not JSON.
    #[must_use]
    pub fn level(&self) -> &str {
        self.text("level")
    }

    /// True when every named field has this value.
    #[must_use]
    pub fn has(&self, fields: &[(&str, &str)]) -> bool {
        fields.iter().all(|(name, value)| self.text(name) == *value)
    }

    /// The names of the fields.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl fmt::Debug for LogLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Value::Object(self.0.clone()).to_string())
    }
}

/// A log, read anew each time.
#[derive(Debug, Clone)]
pub struct LogFile {
    path: PathBuf,
}

impl LogFile {
    /// The log at `path`.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every complete line so far.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn lines(&self) -> anyhow::Result<Vec<LogLine>> {
        let text = String::from_utf8_lossy(&std::fs::read(&self.path)?).into_owned();
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        Ok(complete.lines().map(LogLine::read).collect())
    }

    /// The lines that `wanted` picks.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn find(&self, wanted: impl Fn(&LogLine) -> bool) -> anyhow::Result<Vec<LogLine>> {
        Ok(self.lines()?.into_iter().filter(wanted).collect())
    }

    /// The lines with this message and these fields.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn with_message(&self, message: &str, fields: &[(&str, &str)]) -> anyhow::Result<Vec<LogLine>> {
        self.find(|line| line.message() == message && line.has(fields))
    }

    /// The lines of level ERROR.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn errors(&self) -> anyhow::Result<Vec<LogLine>> {
        self.find(|line| line.level() == "ERROR")
    }

    /// Waits for the first line that `wanted` picks.
    ///
    /// # Errors
    /// When none comes in time; the end of the log is in the message.
    pub async fn until(
        &self,
        what: &str,
        within: Duration,
        wanted: impl Fn(&LogLine) -> bool,
    ) -> anyhow::Result<LogLine> {
        until(format!("a log line in {}: {what}", self.path.display()), within, async || {
            Ok(Look::of(self.find(&wanted)?.into_iter().next(), || self.tail()))
        })
        .await
    }

    /// The last lines, for the message of an error.
    #[must_use]
    pub fn tail(&self) -> String {
        let text = std::fs::read(&self.path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let text = text.unwrap_or_else(|error| error.to_string());
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(TAIL_LINES);
        format!("the end of {}:\n{}", self.path.display(), lines[from..].join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_lines_are_values_and_last_words_that_are_not_json_are_messages() {
        let folder = tempfile::tempdir().unwrap();
        let log = LogFile::new(folder.path().join("log"));
        std::fs::write(
            log.path(),
            "{\"level\":\"ERROR\",\"message\":\"m\",\"task_id\":\"t\",\"n\":1}\nbye\n{\"half",
        )
        .unwrap();
        assert_eq!(log.lines().unwrap().len(), 2);
        assert_eq!(log.errors().unwrap()[0].field("n"), 1);
        assert_eq!(log.with_message("m", &[("task_id", "t")]).unwrap().len(), 1);
        assert!(log.with_message("m", &[("task_id", "other")]).unwrap().is_empty());
        assert_eq!(log.lines().unwrap()[1].message(), "bye");
    }
}
