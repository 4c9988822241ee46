//! From a message to a report: who speaks, and what is said. Pure, and safe for any bytes (protocol A5).
//!
//! The routing key is the authority for the sender, because the broker's topic permissions vouch for it (incidents 63, 64). What the
//! body carries for other eyes (results, log lines, times, names) is cut to its limits here, so that no row that follows can be
//! refused by PostgreSQL for what an agent wrote.

use chrono::{DateTime, Datelike, Utc};
use serde_json::Value;
use switchyard_common::contract::artifact::{check_name, part_count};
use switchyard_common::contract::ids::AgentRef;
use switchyard_common::contract::limits::{
    ARTIFACT_PART_MAX_BYTES, ARTIFACTS_TOTAL_MAX_BYTES, BROKER_MESSAGE_MAX_BYTES, LOG_LINE_MAX_CHARS,
    LOG_REPORT_MAX_LINES, RESULT_MAX_BYTES,
};
use switchyard_common::contract::report::{
    Claim, LeftPart, LogLines, Outcome, OutcomeBatch, OutcomeEnd, Report, ReportBody, StartedBatch,
};
use switchyard_common::contract::routing::{ReportKind, parse_report_key};
use switchyard_common::failure::bound;

/// Most characters of a parser's complaint that are kept.
const COMPLAINT_MAX_CHARS: usize = 500;
/// Years that a time of an agent's clock may show; others are left out, since PostgreSQL and people cannot use them.
const YEARS: std::ops::RangeInclusive<i32> = 2_000..=9_999;

/// A report with its sender.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard {
    /// Pool and agent, from the routing key.
    pub sender: AgentRef,
    /// The newest restore epoch that the sender has seen.
    pub epoch: i64,
    /// What is said.
    pub body: ReportBody,
    /// It has waited long enough for its artifact parts: what is missing now fails it.
    pub waited: bool,
}

impl Heard {
    /// What it says of each attempt, as reports of their own; nothing where it speaks of one alone.
    #[must_use]
    pub fn apart(&self) -> Vec<Self> {
        let bodies: Vec<ReportBody> = match &self.body {
            ReportBody::Outcome(batch) => {
                let alone = |one: &Outcome| ReportBody::Outcome(OutcomeBatch { outcomes: vec![one.clone()] });
                batch.outcomes.iter().map(alone).collect()
            }
            ReportBody::Started(batch) => {
                let alone = |one: &Claim| ReportBody::Started(StartedBatch { claims: vec![one.clone()] });
                batch.claims.iter().map(alone).collect()
            }
            ReportBody::Hello(_)
            | ReportBody::Heartbeat(_)
            | ReportBody::Ask(_)
            | ReportBody::Artifact(_)
            | ReportBody::Log(_) => Vec::new(),
        };
        if bodies.len() < 2 {
            return Vec::new();
        }
        bodies.into_iter().map(|body| Self { body, ..self.clone() }).collect()
    }
}

/// Why a message is not a report that this queue takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

/// Reads a message that came to a queue for `kinds`.
///
/// # Errors
/// What is wrong with it. It never leaves the queue blocked: its failure is recorded, and it is nacked.
pub fn read(routing_key: &str, body: &[u8], kinds: &[ReportKind]) -> Result<Heard, Malformed> {
    let (kind, sender) = parse_report_key(routing_key).map_err(|error| Malformed(error.to_string()))?;
    if !kinds.contains(&kind) {
        return Err(Malformed(format!("a report of type {} does not belong to this queue", kind.as_str())));
    }
    if body.len() > BROKER_MESSAGE_MAX_BYTES {
        let size = body.len();
        return Err(Malformed(format!(
            "the report has {size} bytes: at most {BROKER_MESSAGE_MAX_BYTES} are read"
        )));
    }
    // serde_json refuses what is nested deeper than JSON_DEPTH_MAX_LEVELS.
    let report: Report = serde_json::from_slice(body).map_err(|error| {
        Malformed(bound(&format!("the report cannot be read: {error}"), COMPLAINT_MAX_CHARS))
    })?;
    if report.body.kind() != kind {
        let said = report.body.name();
        return Err(Malformed(format!("the routing key says {}, the body says {said}", kind.as_str())));
    }
    let body = checked(report.body)?;
    Ok(Heard { sender, epoch: report.epoch, body, waited: false })
}

/// The body within its limits.
fn checked(body: ReportBody) -> Result<ReportBody, Malformed> {
    Ok(match body {
        ReportBody::Artifact(part) => ReportBody::Artifact(checked_part(part)?),
        ReportBody::Log(lines) => ReportBody::Log(checked_lines(lines)?),
        ReportBody::Outcome(mut batch) => {
            batch.outcomes.iter_mut().for_each(tidy_outcome);
            ReportBody::Outcome(batch)
        }
        body @ (ReportBody::Hello(_)
        | ReportBody::Heartbeat(_)
        | ReportBody::Ask(_)
        | ReportBody::Started(_)) => body,
    })
}

fn checked_part(left: LeftPart) -> Result<LeftPart, Malformed> {
    let part = &left.part;
    check_name(&part.name).map_err(|error| Malformed(error.to_string()))?;
    let size = part.bytes.len();
    if size == 0 || size > ARTIFACT_PART_MAX_BYTES {
        return Err(Malformed(format!(
            "an artifact part has {size} bytes: 1 to {ARTIFACT_PART_MAX_BYTES} are allowed"
        )));
    }
    if part.part >= part_count(ARTIFACTS_TOTAL_MAX_BYTES as u64) {
        return Err(Malformed(format!("artifact part {} is beyond the largest artifact", part.part)));
    }
    Ok(left)
}

fn checked_lines(mut lines: LogLines) -> Result<LogLines, Malformed> {
    if lines.lines.len() > LOG_REPORT_MAX_LINES {
        return Err(Malformed(format!(
            "a log report has {} lines: at most {LOG_REPORT_MAX_LINES} are allowed",
            lines.lines.len()
        )));
    }
    if lines.lines.iter().any(|line| line.sequence == 0) {
        return Err(Malformed("log lines are numbered from 1".to_owned()));
    }
    for line in &mut lines.lines {
        line.text = bound(&line.text, LOG_LINE_MAX_CHARS);
    }
    Ok(lines)
}

/// A result is for people and later steps of the same task, never a reason to refuse an outcome: what cannot be stored is left out,
/// and says so.
fn tidy_outcome(outcome: &mut Outcome) {
    if let OutcomeEnd::Succeeded { result: Some(result), .. } = &mut outcome.end {
        let bytes = serde_json::to_vec(result).map_or(usize::MAX, |bytes| bytes.len());
        if bytes > RESULT_MAX_BYTES {
            *result = Value::String(format!(
                "left out: the result has {bytes} bytes, at most {RESULT_MAX_BYTES} are kept"
            ));
        } else {
            replace_nul(result);
        }
    }
}

/// PostgreSQL refuses NUL in text, in keys too.
fn replace_nul(value: &mut Value) {
    let clean = |text: &str| text.replace('\0', "\u{fffd}");
    match value {
        Value::String(text) if text.contains('\0') => *text = clean(text),
        Value::Array(items) => items.iter_mut().for_each(replace_nul),
        Value::Object(fields) => {
            if fields.keys().any(|key| key.contains('\0')) {
                *fields =
                    std::mem::take(fields).into_iter().map(|(key, value)| (clean(&key), value)).collect();
            }
            fields.values_mut().for_each(replace_nul);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A time of an agent's clock, when it is one that can be stored and shown.
#[must_use]
pub fn usable_time(at: DateTime<Utc>) -> Option<DateTime<Utc>> {
    YEARS.contains(&at.year()).then_some(at)
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
