//! The log of one attempt, from its handler to the shipper: numbered without gaps, bounded, never blocking a Rust handler.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use switchyard_common::contract::limits::LOG_LINE_MAX_CHARS;
use switchyard_common::contract::report::{Claim, LogLine, LogStream};
use switchyard_common::failure::bound;
use tokio::sync::mpsc;

use crate::exec::logs;

/// A line on its way to the shipper.
#[derive(Debug)]
pub(crate) struct QueuedLine {
    pub(crate) claim: Arc<Claim>,
    pub(crate) line: LogLine,
}

/// Takes the lines of one attempt. Clones write to the same log.
#[derive(Debug, Clone)]
pub(crate) struct AttemptLog {
    claim: Arc<Claim>,
    queue: mpsc::Sender<QueuedLine>,
    count: Arc<Mutex<Count>>,
}

#[derive(Debug, Default)]
struct Count {
    /// Number of the last line that was taken.
    lines: u64,
    /// Lines that were dropped since then.
    dropped: u64,
}

impl AttemptLog {
    pub(crate) fn new(claim: Arc<Claim>, queue: mpsc::Sender<QueuedLine>) -> Self {
        Self { claim, queue, count: Arc::default() }
    }

    /// Lines that were taken so far.
    pub(crate) fn lines(&self) -> u64 {
        self.count.lock().unwrap_or_else(PoisonError::into_inner).lines
    }

    /// Writes text, one line per line of it. Lines that find the queue full are dropped; the next one that does not is preceded by one
    /// that says how many.
    pub(crate) fn write(&self, text: &str) {
        for line in text.lines() {
            self.write_line(line);
        }
    }

    fn write_line(&self, text: &str) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        if count.dropped > 0 {
            let told =
                format!("[switchyard] {} lines were dropped here: the log was too slow", count.dropped);
            if self.try_queue(&mut count, &told) {
                count.dropped = 0;
            }
        }
        if count.dropped > 0 || !self.try_queue(&mut count, text) {
            count.dropped += 1;
            metrics::counter!("switchyard_agent_log_lines_dropped_total").increment(1);
        }
    }

    fn try_queue(&self, count: &mut Count, text: &str) -> bool {
        let Ok(place) = self.queue.try_reserve() else { return false };
        place.send(self.numbered(count, Utc::now(), LogStream::Agent, text));
        true
    }

    fn numbered(&self, count: &mut Count, at: DateTime<Utc>, stream: LogStream, text: &str) -> QueuedLine {
        count.lines += 1;
        let line = LogLine { sequence: count.lines, at, stream, text: bound(text, LOG_LINE_MAX_CHARS) };
        QueuedLine { claim: Arc::clone(&self.claim), line }
    }
}

/// The lines of a program: these wait for a place, which holds the program back; the program's side bounds the wait.
#[async_trait]
impl logs::LogSink for AttemptLog {
    async fn accept(&self, line: logs::LogLine) -> Result<(), logs::LogSinkError> {
        let place = self.queue.reserve().await;
        let place =
            place.map_err(|_| logs::LogSinkError("the agent has stopped sending log lines".to_owned()))?;
        let stream = match line.stream {
            logs::LogStream::Stdout => LogStream::Stdout,
            logs::LogStream::Stderr => LogStream::Stderr,
            logs::LogStream::Agent => LogStream::Agent,
        };
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        place.send(self.numbered(&mut count, line.at, stream, &line.text));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use switchyard_common::contract::ids::{LeaseToken, SessionId, TaskId};
    use uuid::Uuid;

    use super::*;

    fn log(places: usize) -> (AttemptLog, mpsc::Receiver<QueuedLine>) {
        let claim = Claim {
            task_id: TaskId::new("t").unwrap(),
            attempt: 1,
            session: SessionId(Uuid::from_u128(1)),
            lease: LeaseToken(Uuid::from_u128(2)),
        };
        let (sender, receiver) = mpsc::channel(places);
        (AttemptLog::new(Arc::new(claim), sender), receiver)
    }

    fn taken(receiver: &mut mpsc::Receiver<QueuedLine>) -> Vec<(u64, String)> {
        std::iter::from_fn(|| receiver.try_recv().ok()).map(|q| (q.line.sequence, q.line.text)).collect()
    }

    #[test]
    fn lines_are_numbered_without_gaps_and_dropped_ones_are_told() {
        let (log, mut receiver) = log(2);
        log.write("a\nb\nc\nd");
        assert_eq!(taken(&mut receiver), [(1, "a".to_owned()), (2, "b".to_owned())]);
        log.write("e");
        let told = "[switchyard] 2 lines were dropped here: the log was too slow".to_owned();
        assert_eq!(taken(&mut receiver), [(3, told), (4, "e".to_owned())]);
        assert_eq!(log.lines(), 4);
    }

    #[tokio::test]
    async fn a_closed_log_refuses_the_lines_of_a_program() {
        let (log, receiver) = log(1);
        drop(receiver);
        let line = logs::LogLine {
            sequence: 1,
            at: Utc::now(),
            stream: logs::LogStream::Stdout,
            text: String::new(),
        };
        assert!(logs::LogSink::accept(&log, line).await.is_err());
    }
}
