//! What a handler program is: its command, its environment, its limits, and what its exit codes mean.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// One handler, as its table in the agent's TOML describes it. Made by [`config`](super::config), which checks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramSpec {
    /// The program and its arguments; never empty. No shell is involved.
    pub command: Vec<String>,
    /// Names of the agent's environment variables that the program may see.
    pub env_pass: BTreeSet<String>,
    /// Variables with fixed values; they win over passed ones.
    pub env: BTreeMap<String, String>,
    /// Names of variables (passed or fixed) whose values are secrets: `***` in every log line and in the result.
    pub mask: BTreeSet<String>,
    /// Longest run; the shorter one of this and the assignment's counts.
    pub run_timeout: Option<Duration>,
    /// Time between TERM and KILL.
    pub kill_grace: Duration,
    /// What an exit code means, where it differs from "0 succeeded, all others failed".
    pub exit_codes: BTreeMap<u8, ExitMeaning>,
    /// Largest total of what the program may leave, in bytes.
    pub max_artifact_bytes: u64,
}

/// What an exit code says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitMeaning {
    /// The step did what it was asked.
    Succeeded,
    /// The step succeeded and found nothing to change: the task ends here.
    NoChanges,
    /// The step failed.
    Failed,
}

impl ExitMeaning {
    /// Every meaning, with the word that stands for it in TOML.
    pub const ALL: [(&'static str, Self); 3] =
        [("succeeded", Self::Succeeded), ("no_changes", Self::NoChanges), ("failed", Self::Failed)];
}

impl ProgramSpec {
    /// What `code` means for this program.
    #[must_use]
    pub fn meaning(&self, code: i32) -> ExitMeaning {
        let named = u8::try_from(code).ok().and_then(|code| self.exit_codes.get(&code).copied());
        named.unwrap_or(if code == 0 { ExitMeaning::Succeeded } else { ExitMeaning::Failed })
    }
}
