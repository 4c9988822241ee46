//! The tokens of the HTTP API: who may read (viewer) and who may change things (operator), by name, from a file that is read anew when it
//! changes, so that tokens are rotated without a restart.
//!
//! ```text
//! # role name token
//! viewer   grafana  4f6d...
//! operator ada      9c1b...
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use switchyard_common::config::Secret;
use switchyard_common::contract::ids::Digest;

/// Shortest token, in characters: shorter ones can be guessed.
pub const TOKEN_MIN_CHARS: usize = 16;
/// Most tokens: each is compared with every request.
pub const TOKENS_MAX_COUNT: usize = 256;
/// Largest token file, in bytes.
pub const TOKEN_FILE_MAX_BYTES: u64 = 256 * 1024;

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Read.
    Viewer,
    /// Read, and change things.
    Operator,
}

/// Who makes a request: what is written to the audit log with a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The name beside the token.
    pub name: String,
    /// What it may do.
    pub role: Role,
}

/// A token, as its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    caller: Caller,
    digest: Digest,
}

/// Why a token file cannot be used. No error quotes a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {wrong}")]
pub struct TokensError {
    path: String,
    wrong: String,
}

/// The tokens of one listener.
#[derive(Debug)]
pub struct Tokens {
    fixed: Vec<Entry>,
    file: Option<PathBuf>,
    kept: Mutex<Kept>,
}

/// What was read last, and of which state of the file. A file that changes twice within the clock's grain is told by its length.
#[derive(Debug, Default)]
struct Kept {
    stamp: Option<(SystemTime, u64)>,
    entries: Arc<Vec<Entry>>,
}

impl Tokens {
    /// The tokens of a file, and one for reading that was configured by itself.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn new(single: Option<&Secret>, file: Option<PathBuf>) -> Result<Self, TokensError> {
        let entry = |token: &Secret| Entry {
            caller: Caller { name: "SWITCHYARD_HTTP_TOKEN".to_owned(), role: Role::Viewer },
            digest: Digest::of(token.expose().as_bytes()),
        };
        let tokens = Self { fixed: single.map(entry).into_iter().collect(), file, kept: Mutex::default() };
        tokens.refresh()?;
        Ok(tokens)
    }

    /// Whose token it is.
    #[must_use]
    pub fn caller(&self, given: &str) -> Option<Caller> {
        if let Err(error) = self.refresh() {
            // Whoever rotates tokens may be in the middle of it: the last good ones go on.
            tracing::error!(%error, "the tokens cannot be read anew; the last ones stay in force");
        }
        let given = Digest::of(given.trim().as_bytes());
        let entries = Arc::clone(&self.kept.lock().unwrap_or_else(PoisonError::into_inner).entries);
        // Every one is compared in full: how long it takes says nothing about any of them.
        self.fixed.iter().chain(entries.iter()).fold(None, |found, entry| {
            if same(&entry.digest, &given) { Some(entry.caller.clone()) } else { found }
        })
    }

    fn refresh(&self) -> Result<(), TokensError> {
        let Some(path) = &self.file else { return Ok(()) };
        let wrong = |wrong: String| TokensError { path: path.display().to_string(), wrong };
        let state = fs::metadata(path).and_then(|state| Ok((state.modified()?, state.len())));
        let stamp = state.map_err(|error| wrong(error.to_string()))?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.stamp == Some(stamp) {
            return Ok(());
        }
        kept.stamp = Some(stamp);
        kept.entries = Arc::new(read(path, stamp.1).map_err(wrong)?);
        tracing::info!(path = %path.display(), tokens = kept.entries.len(), "tokens of the HTTP API are read");
        Ok(())
    }
}

fn read(path: &Path, size_bytes: u64) -> Result<Vec<Entry>, String> {
    if size_bytes > TOKEN_FILE_MAX_BYTES {
        return Err(format!("{size_bytes} bytes: at most {TOKEN_FILE_MAX_BYTES} are read"));
    }
    parse(&fs::read_to_string(path).map_err(|error| error.to_string())?)
}

fn parse(text: &str) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let entry = parse_line(line).map_err(|wrong| format!("line {}: {wrong}", index + 1))?;
        entries.push(entry);
    }
    match entries.len() {
        0 => Err("there is no token in it: expected lines of role, name and token".to_owned()),
        count if count > TOKENS_MAX_COUNT => {
            Err(format!("{count} tokens: at most {TOKENS_MAX_COUNT} are read"))
        }
        _ => Ok(entries),
    }
}

fn parse_line(line: &str) -> Result<Entry, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [role, name, token] = words[..] else {
        return Err(format!("expected three words, role, name and token; there are {}", words.len()));
    };
    let role = match role {
        "viewer" => Role::Viewer,
        "operator" => Role::Operator,
        _ => return Err("the first word is viewer or operator".to_owned()),
    };
    if token.chars().count() < TOKEN_MIN_CHARS {
        return Err(format!(
            "the token is shorter than {TOKEN_MIN_CHARS} characters: `openssl rand -hex 32` makes a good one"
        ));
    }
    Ok(Entry { caller: Caller { name: name.to_owned(), role }, digest: Digest::of(token.as_bytes()) })
}

fn same(one: &Digest, other: &Digest) -> bool {
    one.as_bytes().iter().zip(other.as_bytes()).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# people\nviewer grafana 0123456789abcdef\n\noperator ada  fedcba9876543210\n";

    fn file(text: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("switchyard-tokens-{}", uuid::Uuid::new_v4()));
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn each_token_has_a_name_and_a_role() {
        let path = file(FILE);
        let tokens = Tokens::new(Some(&Secret::new("sesame")), Some(path.clone())).unwrap();
        let role = |token: &str| tokens.caller(token).map(|caller| (caller.name, caller.role));
        assert_eq!(role("0123456789abcdef"), Some(("grafana".into(), Role::Viewer)));
        assert_eq!(role("fedcba9876543210"), Some(("ada".into(), Role::Operator)));
        assert_eq!(role("sesame").map(|(_, role)| role), Some(Role::Viewer));
        for wrong in ["", "0123456789abcde", "0123456789abcdef0", "grafana"] {
            assert_eq!(role(wrong), None, "{wrong}");
        }
        assert!(!format!("{tokens:?}").contains("0123456789abcdef"));
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_changed_file_is_in_force_at_once_and_a_broken_one_changes_nothing() {
        let path = file(FILE);
        let tokens = Tokens::new(None, Some(path.clone())).unwrap();
        fs::write(&path, "operator ada aaaaaaaaaaaaaaaaaaaaaaaa\n").unwrap();
        assert_eq!(tokens.caller("0123456789abcdef"), None, "the old token");
        assert!(tokens.caller("aaaaaaaaaaaaaaaaaaaaaaaa").is_some());
        fs::write(&path, "nonsense").unwrap();
        assert!(tokens.caller("aaaaaaaaaaaaaaaaaaaaaaaa").is_some(), "the last good ones stay");
        fs::remove_file(&path).unwrap();
        assert!(tokens.caller("aaaaaaaaaaaaaaaaaaaaaaaa").is_some());
    }

    #[test]
    fn a_file_that_cannot_be_used_says_why_and_quotes_no_token() {
        for (text, why) in [
            ("", "no token"),
            ("admin ada 0123456789abcdef", "viewer or operator"),
            ("viewer 0123456789abcdef", "three words"),
            ("viewer ada 0123456789abcde", "shorter than 16"),
        ] {
            let path = file(text);
            let error = Tokens::new(None, Some(path.clone())).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("0123456789"), "{error}");
            fs::remove_file(path).unwrap();
        }
        let many = "viewer a 0123456789abcdef\n".repeat(TOKENS_MAX_COUNT);
        assert_eq!(parse(&many).map(|entries| entries.len()), Ok(TOKENS_MAX_COUNT));
        assert!(parse(&(many + "viewer a 0123456789abcdef")).is_err());
    }
}
