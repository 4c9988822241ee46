//! From a program's pipes to the log sink, with nothing lost in silence.
//!
//! ```text
//! stdout ─► lines ─► mask ─┐                                ┌─► LogSink
//!                          ├─► bounded queue ─► number ─────┤
//! stderr ─► lines ─► mask ─┘        └► tail of the last lines
//! ```
//!
//! A sink that is slow holds the program back, but only for a while: then lines are dropped, and a line of our own says how many.
//! Numbers are given after the queue, so they have no gaps: a missing number means a line lost on the way to the store.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use switchyard_common::contract::limits::{LOG_LINE_MAX_CHARS, LOG_TAIL_MAX_LINES};
use switchyard_common::failure::bound;
use switchyard_common::guard::{PanicCapture, catch_panic};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::limits::{
    LINE_READ_MAX_BYTES, LOG_DRAIN_MAX_MS, LOG_QUEUE_MAX_LINES, LOG_STALL_MAX_MS, LOG_TAIL_MAX_BYTES,
    PIPE_CHUNK_BYTES, PIPE_CLOSE_MAX_MS,
};
use super::lines::{LineAssembler, RawLine};
use super::mask::Masker;

/// What a cut line ends with.
pub const CUT_MARK: &str = " [cut]";

/// Where a line was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// By the agent itself, about the log.
    Agent,
}

/// One line of a program's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Number in its run, from 1, without gaps.
    pub sequence: u64,
    /// When it was read.
    pub at: DateTime<Utc>,
    /// Where it was written.
    pub stream: LogStream,
    /// The text: valid, bounded, without NUL, secrets masked.
    pub text: String,
}

/// A sink does not take lines any more.
#[derive(Debug, thiserror::Error)]
#[error("the log sink refused a line: {0}")]
pub struct LogSinkError(pub String);

/// Takes the lines of one run, in order. May be slow: see the module about what happens then.
#[async_trait]
pub trait LogSink: Send + Sync {
    /// Takes one line.
    ///
    /// # Errors
    /// When this line and all that follow cannot be taken. The run goes on, and its result says so.
    async fn accept(&self, line: LogLine) -> Result<(), LogSinkError>;
}

/// What the log came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogEnd {
    /// Lines that the sink took.
    pub lines: u64,
    /// The last lines.
    pub tail: Vec<String>,
    /// Why lines are missing.
    pub fault: Option<String>,
}

struct Queued {
    lost_before: u64,
    at: DateTime<Utc>,
    stream: LogStream,
    text: String,
}

/// Reads both pipes to their ends and feeds `sink`. `gone` is set when every process of the run has gone: what is still open
/// or queued then has a bounded time.
pub async fn stream_logs(
    stdout: impl AsyncRead + Unpin,
    stderr: impl AsyncRead + Unpin,
    masker: &Masker,
    sink: &dyn LogSink,
    gone: &CancellationToken,
) -> LogEnd {
    let (sender, queue) = mpsc::channel(LOG_QUEUE_MAX_LINES);
    let intake = Intake {
        queue: sender,
        masker,
        tail: Mutex::default(),
        lost: AtomicU64::new(0),
        untold: AtomicU64::new(0),
        full: AtomicBool::new(false),
    };
    let read = async {
        let (out, err) = tokio::join!(
            catch_panic(read_pipe(stdout, LogStream::Stdout, &intake, gone)),
            catch_panic(read_pipe(stderr, LogStream::Stderr, &intake, gone)),
        );
        let lost = intake.lost.load(Ordering::Relaxed);
        // The queue ends when its last sender is dropped.
        (intake.into_tail(), lost, [flat(out), flat(err)])
    };
    let ((tail, lost, read_faults), (lines, sink_fault)) = tokio::join!(read, feed(queue, sink, gone));
    let lost_fault =
        (lost > 0).then(|| format!("{lost} lines were dropped because the log sink was too slow"));
    let faults: Vec<String> = read_faults.into_iter().flatten().chain(sink_fault).chain(lost_fault).collect();
    LogEnd { lines, tail, fault: (!faults.is_empty()).then(|| faults.join("; ")) }
}

fn flat(ended: Result<Result<(), String>, Box<PanicCapture>>) -> Option<String> {
    match ended {
        Ok(Ok(())) => None,
        Ok(Err(fault)) => Some(fault),
        Err(panic) => Some(format!("a log reader panicked: {panic}")),
    }
}

/// What the two readers share.
struct Intake<'a> {
    queue: mpsc::Sender<Queued>,
    masker: &'a Masker,
    tail: Mutex<VecDeque<String>>,
    /// Lines dropped.
    lost: AtomicU64,
    /// Those of them that no line in the log has told yet.
    untold: AtomicU64,
    /// The queue was full for as long as we wait, and no line has got in since.
    full: AtomicBool,
}

impl Intake<'_> {
    async fn take(&self, stream: LogStream, raw: &RawLine) {
        let text = clean(self.masker, raw);
        self.remember(text.clone());
        let Some(place) = self.place().await else {
            self.lost.fetch_add(1, Ordering::Relaxed);
            self.untold.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let lost_before = self.untold.swap(0, Ordering::Relaxed);
        place.send(Queued { lost_before, at: Utc::now(), stream, text });
    }

    /// A place in the queue; None when it stays full. Once it was full for the whole wait there is no further waiting until
    /// the sink moves again: the program must not pay the wait for each line.
    async fn place(&self) -> Option<mpsc::Permit<'_, Queued>> {
        if self.full.load(Ordering::Relaxed) {
            let place = self.queue.try_reserve().ok();
            self.full.store(place.is_none(), Ordering::Relaxed);
            return place;
        }
        match tokio::time::timeout(Duration::from_millis(LOG_STALL_MAX_MS), self.queue.reserve()).await {
            Ok(place) => place.ok(),
            Err(_) => {
                self.full.store(true, Ordering::Relaxed);
                None
            }
        }
    }

    fn remember(&self, text: String) {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.push_back(text);
        while tail.len() > LOG_TAIL_MAX_LINES
            || tail.iter().map(String::len).sum::<usize>() > LOG_TAIL_MAX_BYTES
        {
            tail.pop_front();
        }
    }

    fn into_tail(self) -> Vec<String> {
        self.tail.into_inner().unwrap_or_else(PoisonError::into_inner).into()
    }
}

/// Masks, decodes and bounds one line, in this order: a secret is seen whole, and nothing is cut out of a mask.
fn clean(masker: &Masker, raw: &RawLine) -> String {
    let masked = masker.mask(&raw.bytes, LINE_READ_MAX_BYTES);
    let text = String::from_utf8_lossy(&masked);
    let cut_before = raw.cut || raw.bytes.len() > LINE_READ_MAX_BYTES;
    let bounded = bound(&text, LOG_LINE_MAX_CHARS);
    if !cut_before || bounded.ends_with(CUT_MARK) {
        return bounded;
    }
    let room = LOG_LINE_MAX_CHARS - CUT_MARK.len();
    bounded.chars().take(room).chain(CUT_MARK.chars()).collect()
}

async fn read_pipe(
    mut pipe: impl AsyncRead + Unpin,
    stream: LogStream,
    intake: &Intake<'_>,
    gone: &CancellationToken,
) -> Result<(), String> {
    let mut assembler = LineAssembler::new(LINE_READ_MAX_BYTES + intake.masker.longest_bytes());
    let mut chunk = vec![0; PIPE_CHUNK_BYTES];
    let mut ended = Ok(());
    let overdue = after(gone, PIPE_CLOSE_MAX_MS);
    tokio::pin!(overdue);
    loop {
        let count = tokio::select! {
            biased;
            read = pipe.read(&mut chunk) => read,
            () = &mut overdue => Err(std::io::Error::other("still open after every process of the run had gone")),
        };
        match count {
            Ok(0) => break,
            Ok(count) => {
                for line in assembler.push(&chunk[..count]) {
                    intake.take(stream, &line).await;
                }
            }
            Err(error) => {
                ended = Err(format!("the reader of {stream:?} failed, later lines are lost: {error}"));
                break;
            }
        }
    }
    if let Some(line) = assembler.finish() {
        intake.take(stream, &line).await;
    }
    ended
}

/// Numbers the lines and hands them to the sink. After a fault the rest is taken from the queue and counted, so that the program is
/// not held back by a sink that has gone.
async fn feed(
    mut queue: mpsc::Receiver<Queued>,
    sink: &dyn LogSink,
    gone: &CancellationToken,
) -> (u64, Option<String>) {
    let mut feeder = Feeder { sink, lines: 0, unsent: 0, fault: None };
    let overdue = after(gone, PIPE_CLOSE_MAX_MS + LOG_DRAIN_MAX_MS);
    tokio::pin!(overdue);
    let in_time = tokio::select! {
        biased;
        () = feeder.run_guarded(&mut queue) => true,
        () = &mut overdue => false,
    };
    if !in_time {
        queue.close();
        let mut rest = 1; // the one that the sink was busy with
        while queue.try_recv().is_ok() {
            rest += 1;
        }
        feeder.unsent += rest;
        feeder.fault.get_or_insert_with(|| "the log sink did not take the last lines in time".into());
    }
    let unsent = feeder.unsent;
    (feeder.lines, feeder.fault.map(|fault| format!("{fault} ({unsent} lines lost)")))
}

struct Feeder<'a> {
    sink: &'a dyn LogSink,
    lines: u64,
    unsent: u64,
    fault: Option<String>,
}

impl Feeder<'_> {
    /// A sink that panics is a sink that refuses.
    async fn run_guarded(&mut self, queue: &mut mpsc::Receiver<Queued>) {
        while let Err(panic) = catch_panic(self.run(queue)).await {
            self.fail(format!("the log sink panicked: {panic}"));
        }
    }

    async fn run(&mut self, queue: &mut mpsc::Receiver<Queued>) {
        while let Some(line) = queue.recv().await {
            if line.lost_before > 0 {
                let text = format!(
                    "[switchyard] {} lines were dropped here: the log sink was too slow",
                    line.lost_before
                );
                self.send(LogStream::Agent, line.at, text).await;
            }
            self.send(line.stream, line.at, line.text).await;
        }
    }

    async fn send(&mut self, stream: LogStream, at: DateTime<Utc>, text: String) {
        if self.fault.is_some() {
            self.unsent += 1;
            return;
        }
        let line = LogLine { sequence: self.lines + 1, at, stream, text };
        match self.sink.accept(line).await {
            Ok(()) => self.lines += 1,
            Err(error) => self.fail(error.to_string()),
        }
    }

    fn fail(&mut self, fault: String) {
        self.unsent += 1;
        self.fault = Some(fault);
    }
}

async fn after(gone: &CancellationToken, ms: u64) {
    gone.cancelled().await;
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

#[cfg(test)]
#[path = "logs_tests.rs"]
mod tests;
