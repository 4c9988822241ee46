//! The verdict: a table for people, a file for the record.

use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

use super::check::{Counts, Finding};
use super::plan::Strike;

/// Findings that the table shows of one mix; all are in its file.
const SHOWN_MAX: usize = 10;

/// What the table tells of one finding.
const TOLD_MAX_CHARS: usize = 400;

/// What came of one mix.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// The mix.
    pub mix: String,
    /// The seed: the same one draws the same schedule and the same tasks.
    pub seed: u64,
    /// Nodes of the broker.
    pub nodes: u8,
    /// How long things were broken, in seconds.
    pub broken_for_s: u64,
    /// How long it then took until nothing was left to do, in seconds.
    pub rest_s: u64,
    /// What was counted.
    pub counts: Counts,
    /// What does not hold.
    pub findings: Vec<Finding>,
    /// What was broken, and what came of it.
    pub strikes: Vec<(Strike, String)>,
    /// Messages that came again.
    pub copies: u64,
    /// Dead letters that the broker kept to the end although it had nobody to give them to, by the queue that it kept them in. Each one
    /// that should have come and did not is a finding.
    pub kept: Vec<(String, u64)>,
    /// Where everything is.
    pub folder: String,
}

impl Verdict {
    /// Whether everything held.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.findings.is_empty()
    }

    /// Keeps it beside the logs.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&self, folder: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(folder.join("verdict.json"), text).context("verdict.json")
    }
}

/// The table, and under it what does not hold.
#[must_use]
pub fn table(verdicts: &[Verdict]) -> String {
    let head = [
        "mix",
        "seed",
        "nodes",
        "strikes",
        "attempted",
        "acknowledged",
        "tasks",
        "ok",
        "lost",
        "duplicated",
        "repeated",
        "recovered",
        "uncertain",
        "overlaps",
        "own",
        "unexplained",
        "unexpected",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for one in verdicts {
        let counts = &one.counts;
        let numbers = [
            usize::from(one.nodes),
            one.strikes.len(),
            counts.attempted,
            counts.acknowledged,
            counts.tasks,
            counts.ok,
            counts.lost,
            counts.duplicated,
            counts.repeated,
            counts.recovered,
            counts.uncertain,
            counts.overlaps,
            counts.own_overlaps,
            counts.unexplained,
            counts.unexpected,
        ];
        let mut row = vec![one.mix.clone(), one.seed.to_string()];
        row.extend(numbers.iter().map(ToString::to_string));
        rows.push(row);
    }
    let mut text = aligned(&rows);
    for one in verdicts {
        for (queue, count) in one.kept.iter().filter(|(_, count)| *count > 0) {
            text.push_str(&format!(
                "\n{} --seed {}: the broker keeps {count} dead letters in {queue} (docs/adr/messages-that-stay-behind.md)\n",
                one.mix, one.seed
            ));
        }
    }
    for one in verdicts.iter().filter(|one| !one.holds()) {
        text.push_str(&format!(
            "\n{} --seed {} does NOT hold: {} findings\n",
            one.mix,
            one.seed,
            one.findings.len()
        ));
        for finding in one.findings.iter().take(SHOWN_MAX) {
            let told: String = finding.text.chars().take(TOLD_MAX_CHARS).collect();
            text.push_str(&format!("  {:?}: {told}\n", finding.rule));
        }
        text.push_str(&format!("  everything is in {}\n", one.folder));
    }
    text
}

fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        cells.collect::<Vec<_>>().join("  ") + "\n"
    };
    rows.iter().map(line).collect()
}
