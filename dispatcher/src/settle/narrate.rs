//! The log lines and counters of settling, each with task, workspace and attempt. Lease tokens are never among them.

use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Instant;

use switchyard_common::contract::ids::AgentRef;
use switchyard_common::contract::report::Claim;
use switchyard_common::task::{Refusal, Subject, Verdict};

use super::outcome::Settling;
use super::quiet::{Complaint, Quiet};
use super::refusal::{Loudness, loudness, word};
use super::starts::Spoken;
use crate::store::Applied;

/// What became of an outcome.
pub(super) fn outcome(settling: &Settling<'_>, applied: &Applied) {
    let outcome = settling.outcome.end.name();
    metrics::counter!("switchyard_outcomes_total", "outcome" => outcome).increment(1);
    match applied.decision.as_ref().map(|decision| &decision.verdict) {
        Some(Verdict::Changed(after)) => settled(settling.sender, after, outcome, applied.before.as_ref()),
        Some(Verdict::Refused(why)) => refused("outcome", settling.sender, &settling.outcome.claim, why),
        Some(Verdict::Unchanged) => {}
        None => refused("outcome", settling.sender, &settling.outcome.claim, &Refusal::UnknownAttempt),
    }
}

fn settled(agent: &AgentRef, after: &Subject, outcome: &str, before: Option<&Subject>) {
    let task = &after.task;
    let attempt = after.attempt.as_ref().map(|attempt| attempt.number);
    let step = before.map_or(&task.current_step().name, |before| &before.task.current_step().name);
    let (task_id, workspace_id, status) = (&task.id, &task.workspace, task.status);
    if task.exclusive || outcome != "succeeded" {
        tracing::info!(%task_id, %workspace_id, attempt, %step, %agent, outcome, %status, "outcome settled");
    } else {
        tracing::debug!(%task_id, %workspace_id, attempt, %step, %agent, outcome, %status, "outcome settled");
    }
}

/// What became of an ask or a started report.
pub(super) fn start(spoken: &Spoken<'_>, applied: &Applied) {
    let (agent, claim) = (&spoken.heard.sender, spoken.claim);
    let (task_id, attempt, asked) = (&claim.task_id, claim.attempt, spoken.nonce.is_some());
    let kind = if asked { "ask" } else { "started" };
    match applied.decision.as_ref().map(|decision| &decision.verdict) {
        Some(Verdict::Changed(after)) if asked => {
            let (workspace_id, step) = (&after.task.workspace, &after.task.current_step().name);
            tracing::info!(%task_id, %workspace_id, attempt, %step, %agent, "start granted");
        }
        Some(Verdict::Changed(after)) => {
            let (workspace_id, step) = (&after.task.workspace, &after.task.current_step().name);
            tracing::debug!(%task_id, %workspace_id, attempt, %step, %agent, "attempt runs");
        }
        Some(Verdict::Unchanged) => tracing::debug!(%task_id, attempt, %agent, "start granted again"),
        Some(Verdict::Refused(why)) => refused(kind, agent, claim, why),
        None => refused(kind, agent, claim, &Refusal::UnknownAttempt),
    }
}

/// A report that changed nothing: counted by reason, logged, acked.
pub(super) fn refused(kind: &'static str, agent: &AgentRef, claim: &Claim, why: &Refusal) {
    let reason = word(why);
    count(kind, reason);
    let (task_id, attempt) = (&claim.task_id, claim.attempt);
    match loudness(why) {
        Loudness::Benign => {
            tracing::debug!(%task_id, attempt, %agent, report = kind, reason, "a report changed nothing");
        }
        Loudness::Suspicious => {
            if let Some(left_out) = admit(kind, agent, reason) {
                tracing::warn!(%task_id, attempt, %agent, report = kind, reason, %why, left_out,
                    "a report changed nothing");
            }
        }
        Loudness::Alarm => {
            metrics::counter!("switchyard_alarms_total", "alarm" => reason).increment(1);
            tracing::error!(%task_id, attempt, %agent, report = kind, reason, %why,
                "a report tells of something that was never allowed");
        }
    }
}

/// A part beyond what an attempt may leave.
pub(super) fn over_limit(agent: &AgentRef, claim: &Claim, name: &str) {
    let reason = "over_limit";
    count("artifact", reason);
    if let Some(left_out) = admit("artifact", agent, reason) {
        tracing::warn!(task_id = %claim.task_id, attempt = claim.attempt, %agent, name, report = "artifact",
            reason, left_out, "an artifact part is beyond what an attempt may leave");
    }
}

fn count(kind: &'static str, reason: &'static str) {
    metrics::counter!("switchyard_reports_without_effect_total", "type" => kind, "reason" => reason)
        .increment(1);
}

/// Whether this line is due, and how many like it were left out. The counters have every one.
fn admit(report: &'static str, agent: &AgentRef, reason: &'static str) -> Option<u64> {
    static QUIET: LazyLock<Mutex<Quiet>> = LazyLock::new(Mutex::default);
    let complaint = Complaint { agent: agent.clone(), report, reason };
    QUIET.lock().unwrap_or_else(PoisonError::into_inner).admit(complaint, Instant::now())
}
