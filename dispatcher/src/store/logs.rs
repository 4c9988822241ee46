//! Log lines of handlers: append-only, checked against their claim, never near a task row (incident 75).

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use switchyard_common::contract::ids::AgentRef;
use switchyard_common::contract::report::{Claim, LogLines, LogStream};
use switchyard_common::task::Refusal;

use super::db::{Db, Transaction};
use super::error::StoreError;
use super::refusals;
use super::reports::{ClaimColumns, PROVEN_CLAIMS, Standing};
use super::rows::parsed;
use super::save::int;
use crate::settle::read::usable_time;

/// Most log lines that are kept of one attempt; a marker stands in place of the rest.
pub const LOG_LINES_PER_ATTEMPT_MAX_COUNT: u64 = 10_000;

/// Log lines with their sender.
#[derive(Debug, Clone, Copy)]
pub struct SentLines<'a> {
    /// Who sent them.
    pub sender: &'a AgentRef,
    /// The restore epoch that they carry.
    pub epoch: i64,
    /// The lines, with their claim.
    pub lines: &'a LogLines,
}

/// What became of a log report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinesEnd {
    /// It is stored, now or by an earlier copy, as far as the limit reaches.
    Stored,
    /// Its claim is not that of an attempt of its sender: nothing is stored.
    Refused(Refusal),
}

/// Appends lines. An attempt that has ended still takes them: the last ones of a lost agent tell most (incident 42).
pub async fn append(db: &Db, reports: &[SentLines<'_>]) -> Result<Vec<LinesEnd>, StoreError> {
    if reports.is_empty() {
        return Ok(Vec::new());
    }
    db.transaction(|transaction| async move {
        let now: DateTime<Utc> = transaction.now().await?;
        let proven = proven(&transaction, reports).await?;
        let mut rows = Rows::default();
        for (place, report) in reports.iter().enumerate() {
            if proven.contains(&place) {
                rows.add(report.lines, now);
            }
        }
        rows.insert(&transaction).await?;
        let refused = reports.iter().enumerate().filter(|(place, _)| !proven.contains(place));
        let claims: Vec<_> =
            refused.map(|(_, report)| (report.sender, report.epoch, &report.lines.claim)).collect();
        let mut reasons = refusals::reasons(&transaction, &claims).await?.into_iter();
        let end = |place| match proven.contains(&place) {
            true => LinesEnd::Stored,
            false => LinesEnd::Refused(reasons.next().unwrap_or(Refusal::UnknownAttempt)),
        };
        Ok((0..reports.len()).map(end).collect())
    })
    .await
}

async fn proven(transaction: &Transaction, reports: &[SentLines<'_>]) -> Result<HashSet<usize>, StoreError> {
    let standing = Standing::load(transaction, reports.iter().map(|report| &report.sender.pool)).await?;
    let may_speak = |report: &SentLines<'_>| {
        let reporter = standing.reporter(report.sender, report.epoch);
        reporter.granted && reporter.epoch_is_current
    };
    let claims = reports.iter().enumerate().filter(|(_, report)| may_speak(report));
    let columns = ClaimColumns::of(claims.map(|(place, report)| (place, report.sender, &report.lines.claim)));
    let rows =
        transaction.query(&format!("SELECT u.place FROM {PROVEN_CLAIMS}"), &columns.parameters()).await?;
    rows.iter().map(|row| parsed("place", usize::try_from(row.get::<_, i64>("place")))).collect()
}

#[derive(Default)]
struct Rows<'a> {
    ids: Vec<&'a str>,
    attempts: Vec<i32>,
    sequences: Vec<i64>,
    times: Vec<DateTime<Utc>>,
    streams: Vec<&'static str>,
    lines: Vec<&'a str>,
}

impl<'a> Rows<'a> {
    /// The lines up to the limit, then the marker once.
    fn add(&mut self, report: &'a LogLines, now: DateTime<Utc>) {
        let mut cut = false;
        for line in &report.lines {
            if line.sequence > LOG_LINES_PER_ATTEMPT_MAX_COUNT {
                cut = true;
                continue;
            }
            let at = usable_time(line.at).unwrap_or(now);
            self.push(&report.claim, line.sequence, at, stream(line.stream), &line.text);
        }
        if cut {
            let at = LOG_LINES_PER_ATTEMPT_MAX_COUNT + 1;
            self.push(&report.claim, at, now, stream(LogStream::Agent), CUT_MARK);
        }
    }

    fn push(
        &mut self,
        claim: &'a Claim,
        sequence: u64,
        at: DateTime<Utc>,
        stream: &'static str,
        line: &'a str,
    ) {
        self.ids.push(claim.task_id.as_str());
        self.attempts.push(int(claim.attempt));
        self.sequences.push(i64::try_from(sequence).unwrap_or(i64::MAX));
        self.times.push(at);
        self.streams.push(stream);
        self.lines.push(line);
    }

    async fn insert(&self, transaction: &Transaction) -> Result<(), StoreError> {
        if self.ids.is_empty() {
            return Ok(());
        }
        const SQL: &str = "INSERT INTO logs (task_id, attempt, sequence, at, stream, line) \
            SELECT u.* FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::timestamptz[], $5::text[], $6::text[]) \
                u(task_id, attempt, sequence, at, stream, line) \
            ORDER BY u.task_id, u.attempt, u.sequence ON CONFLICT DO NOTHING";
        transaction
            .execute(
                SQL,
                &[&self.ids, &self.attempts, &self.sequences, &self.times, &self.streams, &self.lines],
            )
            .await?;
        Ok(())
    }
}

/// The line that stands in place of what is beyond the limit.
pub const CUT_MARK: &str = "[the log is cut here: an attempt keeps 10000 lines]";

/// The stored text form.
const fn stream(stream: LogStream) -> &'static str {
    match stream {
        LogStream::Stdout => "stdout",
        LogStream::Stderr => "stderr",
        LogStream::Agent => "agent",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marker_names_the_limit() {
        assert!(CUT_MARK.contains(&LOG_LINES_PER_ATTEMPT_MAX_COUNT.to_string()));
    }
}
