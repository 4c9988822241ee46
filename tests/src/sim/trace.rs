//! What happened in a run, line by line: printed for whoever replays a seed, or hashed to show that a seed replays.

use std::fmt::Display;

use super::agenda::Millis;

/// What becomes of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracing {
    /// Nothing: lines are not even made.
    Off,
    /// Only their hash is kept.
    Hash,
    /// They are kept.
    Lines,
}

/// Last lines that are kept with [`Tracing::Lines`].
const LINES_MAX_COUNT: usize = 2_000_000;

/// The lines of one run.
#[derive(Debug)]
pub struct Trace {
    mode: Tracing,
    hash: u64,
    lines: Vec<String>,
}

impl Trace {
    /// An empty trace.
    #[must_use]
    pub const fn new(mode: Tracing) -> Self {
        // The offset basis of FNV-1a.
        Self { mode, hash: 0xcbf2_9ce4_8422_2325, lines: Vec::new() }
    }

    /// Adds a line; `line` is called only where somebody wants it.
    pub fn line<T: Display>(&mut self, at: Millis, line: impl FnOnce() -> T) {
        if self.mode == Tracing::Off {
            return;
        }
        let text = format!("{:>4}.{:03} {}", at / 1_000, at % 1_000, line());
        for byte in text.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        if self.mode == Tracing::Lines && self.lines.len() < LINES_MAX_COUNT {
            self.lines.push(text);
        }
    }

    /// The hash over all lines so far.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// The lines that were kept.
    #[must_use]
    pub fn into_lines(self) -> Vec<String> {
        self.lines
    }
}
