//! The probe: a file to which every handler of every contender appends 16 bytes when it starts: when its task was published, and now,
//! both in nanoseconds since 1970 as little-endian integers. One clock, one format, the same small cost for all.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

/// Bytes of a sample.
const SAMPLE_BYTES: u64 = 16;
const NANOSECONDS_PER_MILLISECOND: f64 = 1e6;

/// One task: when it was published, and when its handler started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Nanoseconds since 1970.
    pub sent_ns: u64,
    /// Nanoseconds since 1970.
    pub started_ns: u64,
}

impl Sample {
    /// From publish to start. Clocks of one machine: what looks negative is nothing.
    #[must_use]
    pub fn latency_ms(self) -> f64 {
        self.started_ns.saturating_sub(self.sent_ns) as f64 / NANOSECONDS_PER_MILLISECOND
    }
}

/// Now, as samples have it.
#[must_use]
pub fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Writes samples.
#[derive(Debug)]
pub struct Writer(File);

impl Writer {
    /// Appends to the file at `path`.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(path);
        Ok(Self(file.with_context(|| format!("the probe {} cannot be opened", path.display()))?))
    }

    /// Writes that a task that was published at `sent_ns` starts now.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn starts(&mut self, sent_ns: u64) -> std::io::Result<()> {
        let mut sample = [0; 16];
        sample[..8].copy_from_slice(&sent_ns.to_le_bytes());
        sample[8..].copy_from_slice(&now_ns().to_le_bytes());
        self.0.write_all(&sample)
    }
}

/// Reads samples that others write.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    file: File,
}

impl Reader {
    /// Creates an empty file at `path`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(path: PathBuf) -> anyhow::Result<Self> {
        let options = File::options().create(true).truncate(true).read(true).write(true).open(&path);
        let file = options.with_context(|| format!("the probe {} cannot be made", path.display()))?;
        Ok(Self { path, file })
    }

    /// Where handlers write.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many samples there are.
    ///
    /// # Errors
    /// When the file is gone.
    pub fn count(&self) -> std::io::Result<u64> {
        Ok(self.file.metadata()?.len() / SAMPLE_BYTES)
    }

    /// The samples behind the first `skipped`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn samples(&self, skipped: u64) -> std::io::Result<Vec<Sample>> {
        let count = usize::try_from(self.count()?.saturating_sub(skipped)).unwrap_or(0);
        let mut bytes = vec![0; count * 16];
        self.file.read_exact_at(&mut bytes, skipped * SAMPLE_BYTES)?;
        let (pairs, _) = bytes.as_chunks::<16>();
        Ok(pairs.iter().map(sample).collect())
    }
}

fn sample(bytes: &[u8; 16]) -> Sample {
    let value = u128::from_le_bytes(*bytes);
    Sample { sent_ns: low(value), started_ns: low(value >> 64) }
}

#[expect(clippy::cast_possible_truncation, reason = "half of the value is what is asked for")]
const fn low(value: u128) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_came_before_is_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let reader = Reader::create(folder.path().join("probe")).unwrap();
        let mut writer = Writer::open(reader.path()).unwrap();
        let sent = now_ns();
        writer.starts(1).unwrap();
        writer.starts(sent).unwrap();
        assert_eq!(reader.count().unwrap(), 2);
        let samples = reader.samples(1).unwrap();
        assert_eq!(samples.len(), 1);
        assert_eq!(samples[0].sent_ns, sent);
        assert!(samples[0].started_ns >= sent);
    }

    #[test]
    fn a_latency_is_in_milliseconds() {
        let sample = Sample { sent_ns: 1_000_000, started_ns: 3_500_000 };
        assert!((sample.latency_ms() - 2.5).abs() < 1e-9);
    }
}
