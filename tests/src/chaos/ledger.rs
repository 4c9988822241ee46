//! What the handlers did, by their own word: a file that no part of the system reads or writes.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::behaviour::Ends;

const NS_PER_S: u64 = 1_000_000_000;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// One process of a handler: drawn by itself at its start.
    pub run: Uuid,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
    /// When, in nanoseconds since the machine booted: one clock for all processes.
    pub at_ns: u64,
    /// The task.
    pub task: String,
    /// Its workspace.
    pub workspace: String,
    /// Its kind.
    pub kind: String,
    /// The step.
    pub step: String,
    /// The attempt's number.
    pub attempt: u64,
    /// The agent.
    pub agent: String,
    /// The process.
    pub pid: i32,
}

/// What a line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// It has started.
    Start,
    /// It still runs.
    Alive,
    /// It is about to end by itself.
    End {
        /// So.
        end: Ends,
    },
}

/// One run of a handler, put together from its lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Run {
    /// Drawn by the handler.
    pub run: Uuid,
    /// The task.
    pub task: String,
    /// Its workspace.
    pub workspace: String,
    /// Its kind.
    pub kind: String,
    /// The step.
    pub step: String,
    /// The attempt's number.
    pub attempt: u64,
    /// The agent.
    pub agent: String,
    /// The process.
    pub pid: i32,
    /// Its first line.
    pub from_ns: u64,
    /// Its last line: it certainly ran until then.
    pub to_ns: u64,
    /// How it ended by itself; none when it was killed, or runs.
    pub end: Option<Ends>,
}

impl Run {
    /// Whether both ran at some moment, by their own lines.
    #[must_use]
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.from_ns < other.to_ns && other.from_ns < self.to_ns
    }
}

/// Nanoseconds since the machine booted, sleep included.
///
/// # Errors
/// When the kernel has no such clock.
pub fn boot_now_ns() -> anyhow::Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).context("CLOCK_BOOTTIME")?;
    Ok(u64::try_from(time.tv_sec())? * NS_PER_S + u64::try_from(time.tv_nsec())?)
}

/// Every run in a ledger, by its start. A ledger that is not there yet has none.
///
/// # Errors
/// When a complete line cannot be read.
pub fn read(path: &Path) -> anyhow::Result<Vec<Run>> {
    match std::fs::read_to_string(path) {
        Ok(text) => runs(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// The runs that lines tell of.
///
/// # Errors
/// When a complete line cannot be read.
pub fn runs(text: &str) -> anyhow::Result<Vec<Run>> {
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut runs: BTreeMap<Uuid, Run> = BTreeMap::new();
    for text in complete.lines() {
        let line: Line = serde_json::from_str(text).with_context(|| format!("the ledger's line {text}"))?;
        let run = runs.entry(line.run).or_insert_with(|| Run::begun(&line));
        run.to_ns = run.to_ns.max(line.at_ns);
        if let What::End { end } = line.what {
            run.end = Some(end);
        }
    }
    let mut runs: Vec<Run> = runs.into_values().collect();
    runs.sort_by_key(|run| run.from_ns);
    Ok(runs)
}

impl Run {
    fn begun(line: &Line) -> Self {
        Self {
            run: line.run,
            task: line.task.clone(),
            workspace: line.workspace.clone(),
            kind: line.kind.clone(),
            step: line.step.clone(),
            attempt: line.attempt,
            agent: line.agent.clone(),
            pid: line.pid,
            from_ns: line.at_ns,
            to_ns: line.at_ns,
            end: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(run: u128, what: What, at_ns: u64) -> String {
        let line = Line {
            run: Uuid::from_u128(run),
            what,
            at_ns,
            task: "t-1".into(),
            workspace: "w-1".into(),
            kind: "plan".into(),
            step: "plan".into(),
            attempt: 1,
            agent: "agent-1".into(),
            pid: 7,
        };
        format!("{}\n", serde_json::to_string(&line).unwrap())
    }

    #[test]
    fn a_run_lasts_from_its_first_line_to_its_last_and_a_killed_one_has_no_end() {
        let text = [
            line(1, What::Start, 10),
            line(2, What::Start, 12),
            line(1, What::Alive, 15),
            line(1, What::End { end: Ends::Fails }, 20),
            line(2, What::Alive, 19),
        ];
        let found = runs(&(text.concat() + "{\"half")).unwrap();
        assert_eq!((found[0].from_ns, found[0].to_ns, found[0].end), (10, 20, Some(Ends::Fails)));
        assert_eq!((found[1].from_ns, found[1].to_ns, found[1].end), (12, 19, None));
        assert!(found[0].overlaps(&found[1]));
    }

    #[test]
    fn runs_that_only_touch_do_not_overlap() {
        let text = [
            line(1, What::Start, 10),
            line(1, What::Alive, 20),
            line(2, What::Start, 20),
            line(2, What::Alive, 30),
        ];
        let found = runs(&text.concat()).unwrap();
        assert!(!found[0].overlaps(&found[1]));
    }
}
