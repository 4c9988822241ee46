//! Sends log lines: batched per attempt, confirmed, bounded. While the broker is away lines wait, then writers are held back or told
//! that lines were dropped; nothing here grows.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use switchyard_common::broker::{Outgoing, PublishOutcome, Publisher};
use switchyard_common::contract::ids::LeaseToken;
use switchyard_common::contract::limits::LOG_REPORT_MAX_LINES;
use switchyard_common::contract::report::{Claim, LogLine, LogLines, ReportBody};
use switchyard_common::retry::RetryPolicy;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::attempt_log::QueuedLine;
use super::limits::{LOG_REPORT_MAX_BYTES, LOG_TRIES_MAX_COUNT, LOG_TURN_MAX_LINES};
use super::reports::ReportWriter;
use crate::machine::AttemptId;

/// Waits between the tries of a log report.
const RETRY: RetryPolicy =
    RetryPolicy { initial: Duration::from_millis(200), max: Duration::from_secs(5), multiplier: 2.0 };

/// The task that sends log lines.
pub(super) struct LogShipper {
    pub(super) publisher: Publisher,
    pub(super) writer: ReportWriter,
    pub(super) lines: mpsc::Receiver<QueuedLine>,
    pub(super) epoch: Arc<AtomicI64>,
    /// No more lines: send what is queued, and end.
    pub(super) closing: CancellationToken,
}

impl LogShipper {
    pub(super) async fn run(mut self) {
        let mut taken = Vec::with_capacity(LOG_TURN_MAX_LINES);
        loop {
            let count = tokio::select! {
                biased;
                count = self.lines.recv_many(&mut taken, LOG_TURN_MAX_LINES) => count,
                () = self.closing.cancelled(), if !self.lines.is_closed() => {
                    self.lines.close();
                    continue;
                }
            };
            if count == 0 {
                return;
            }
            self.ship(batches(taken.drain(..))).await;
        }
    }

    async fn ship(&self, batches: Vec<LogLines>) {
        let epoch = self.epoch.load(Ordering::Relaxed);
        let mut open: Vec<(usize, Outgoing)> = Vec::new();
        for batch in batches {
            let lines = batch.lines.len();
            match self.writer.message(epoch, ReportBody::Log(batch)) {
                Ok(message) => open.push((lines, message)),
                Err(error) => given_up(lines, &error.to_string()),
            }
        }
        for attempt in 0..LOG_TRIES_MAX_COUNT {
            let messages = open.iter().map(|(_, message)| message.clone()).collect();
            let outcomes = self.publisher.publish_pipelined(messages).await;
            let mut acked = outcomes.iter().map(PublishOutcome::is_acked);
            open.retain(|_| !acked.next().unwrap_or(false));
            if open.is_empty() {
                return;
            }
            let delay = RETRY.next_delay(attempt, &mut rand::rng());
            tokio::time::sleep(delay).await;
        }
        for (lines, _) in open {
            given_up(lines, "the broker did not take them");
        }
    }
}

/// The gap in the numbers tells the dispatcher that lines are missing.
fn given_up(lines: usize, why: &str) {
    tracing::warn!(lines, why, "log lines of a handler were given up");
    metrics::counter!("switchyard_agent_log_lines_dropped_total").increment(lines as u64);
}

/// Groups lines into reports: in order per attempt, bounded in lines and bytes.
fn batches(lines: impl Iterator<Item = QueuedLine>) -> Vec<LogLines> {
    let mut done = Vec::new();
    let mut open: HashMap<AttemptId, Batch> = HashMap::new();
    for QueuedLine { claim, line } in lines {
        let lease: LeaseToken = claim.lease;
        let batch = open.entry(lease.into()).or_insert_with(|| Batch { claim, lines: Vec::new(), bytes: 0 });
        let bytes = batch.bytes + line.text.len();
        if batch.lines.len() >= LOG_REPORT_MAX_LINES
            || (bytes > LOG_REPORT_MAX_BYTES && !batch.lines.is_empty())
        {
            done.push(batch.take());
        }
        batch.bytes += line.text.len();
        batch.lines.push(line);
    }
    done.extend(open.into_values().map(|mut batch| batch.take()));
    done
}

struct Batch {
    claim: Arc<Claim>,
    lines: Vec<LogLine>,
    bytes: usize,
}

impl Batch {
    fn take(&mut self) -> LogLines {
        self.bytes = 0;
        LogLines { claim: Claim::clone(&self.claim), lines: std::mem::take(&mut self.lines) }
    }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use switchyard_common::contract::ids::{SessionId, TaskId};
    use switchyard_common::contract::report::LogStream;
    use uuid::Uuid;

    use super::*;

    fn queued(attempt: u128, sequence: u64, bytes: usize) -> QueuedLine {
        let claim = Claim {
            task_id: TaskId::new("t").unwrap(),
            attempt: 1,
            session: SessionId(Uuid::from_u128(1)),
            lease: LeaseToken(Uuid::from_u128(attempt)),
        };
        let line = LogLine { sequence, at: Utc::now(), stream: LogStream::Stdout, text: "x".repeat(bytes) };
        QueuedLine { claim: Arc::new(claim), line }
    }

    #[test]
    fn lines_are_grouped_by_attempt_in_order() {
        let lines = (1..=3).flat_map(|n| [queued(1, n, 1), queued(2, n, 1)]);
        let batches = batches(lines);
        assert_eq!(batches.len(), 2);
        for batch in batches {
            assert_eq!(batch.lines.iter().map(|line| line.sequence).collect::<Vec<_>>(), [1, 2, 3]);
        }
    }

    #[test]
    fn a_report_is_bounded_in_lines_and_in_bytes() {
        let max = LOG_REPORT_MAX_LINES as u64;
        let sizes = |lines: Vec<QueuedLine>| -> Vec<usize> {
            batches(lines.into_iter()).iter().map(|batch| batch.lines.len()).collect()
        };
        assert_eq!(sizes((1..=max).map(|n| queued(1, n, 1)).collect()), [LOG_REPORT_MAX_LINES]);
        assert_eq!(sizes((1..=max + 1).map(|n| queued(1, n, 1)).collect()), [LOG_REPORT_MAX_LINES, 1]);
        let half = LOG_REPORT_MAX_BYTES / 2;
        assert_eq!(sizes((1..=3).map(|n| queued(1, n, half)).collect()), [2, 1]);
    }
}
