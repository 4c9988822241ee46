//! What an outcome comes to before it is decided, and what is noted of it afterwards. Pure.

use serde_json::json;
use switchyard_common::contract::artifact::{ArtifactError, Manifest};
use switchyard_common::contract::assignment::AttemptKey;
use switchyard_common::contract::ids::AgentRef;
use switchyard_common::contract::report::{Outcome, OutcomeEnd};
use switchyard_common::failure::{Failure, FailureKind};
use switchyard_common::task::{Input, Refusal, Reporter, Status, Subject, Verdict};

use super::manifest::Verified;
use super::read::usable_time;
use super::refusal;
use crate::store::notes::Note;
use crate::store::reports::Facts;
use crate::store::{Applied, Named};

/// An outcome on its way into the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Settling<'a> {
    /// Who speaks, as the routing key says.
    pub sender: &'a AgentRef,
    /// The restore epoch that it carries.
    pub epoch: i64,
    /// What was reported.
    pub outcome: &'a Outcome,
    /// What is decided by: what was reported, or a failure in place of a success whose artifacts are not what it says.
    pub end: OutcomeEnd,
    /// Why the artifacts are refused.
    pub refused: Option<ArtifactError>,
}

/// What the verification of its artifacts makes of an outcome; none = it waits for parts.
#[must_use]
pub fn admitted<'a>(
    sender: &'a AgentRef,
    epoch: i64,
    outcome: &'a Outcome,
    verified: Verified,
    waited: bool,
) -> Option<Settling<'a>> {
    let settling = |end: OutcomeEnd, refused| Settling { sender, epoch, outcome, end, refused };
    match verified {
        Verified::Complete => Some(settling(outcome.end.clone(), None)),
        Verified::Missing(_) if !waited => None,
        Verified::Missing(error) | Verified::Refused(error) => {
            Some(settling(OutcomeEnd::Failed { failure: artifacts_refused(&error) }, Some(error)))
        }
    }
}

fn artifacts_refused(error: &ArtifactError) -> Failure {
    Failure::new(
        FailureKind::ArtifactsRefused,
        format!("the handler reported success, but what it left cannot be kept: {error}"),
    )
}

/// The manifest that an outcome names, where it names anything.
#[must_use]
pub fn manifest(end: &OutcomeEnd) -> Option<&Manifest> {
    match end {
        OutcomeEnd::Succeeded { artifacts, .. } if !artifacts.0.is_empty() => Some(artifacts),
        OutcomeEnd::Succeeded { .. }
        | OutcomeEnd::Failed { .. }
        | OutcomeEnd::Panicked { .. }
        | OutcomeEnd::TimedOut { .. }
        | OutcomeEnd::Cancelled { .. }
        | OutcomeEnd::NotStarted { .. } => None,
    }
}

impl Settling<'_> {
    pub(crate) fn key(&self) -> AttemptKey {
        self.outcome.claim.key()
    }

    /// The input that settles it.
    #[must_use]
    pub fn named(&self, reporter: Reporter) -> Named {
        let claim = self.outcome.claim.clone();
        Named {
            task_id: claim.task_id.clone(),
            attempt: Some(claim.attempt),
            input: Input::Outcome { reporter, claim, end: self.end.clone() },
        }
    }

    /// Why this is bad input, where it is.
    pub(crate) fn unusable(&self, applied: &Applied) -> Option<Failure> {
        let claim = &self.outcome.claim;
        match applied.decision.as_ref().map(|decision| &decision.verdict) {
            Some(Verdict::Refused(why)) => refusal::unusable(why, claim, &self.outcome.end),
            Some(Verdict::Changed(_) | Verdict::Unchanged) => None,
            None => refusal::unusable(&Refusal::UnknownAttempt, claim, &self.outcome.end),
        }
    }

    /// What is kept beside the state of the task.
    pub(crate) fn facts(&self) -> Facts {
        let result = match &self.outcome.end {
            OutcomeEnd::Succeeded { result, .. } => result.clone(),
            OutcomeEnd::Failed { .. }
            | OutcomeEnd::Panicked { .. }
            | OutcomeEnd::TimedOut { .. }
            | OutcomeEnd::Cancelled { .. }
            | OutcomeEnd::NotStarted { .. } => None,
        };
        Facts {
            key: self.key(),
            result,
            log_lines: self.outcome.log_lines,
            handler_started_at: self.outcome.started_at.and_then(usable_time),
            handler_ended_at: usable_time(self.outcome.ended_at),
        }
    }

    /// What the timeline of the task must tell that its columns do not: everything but the happy path.
    pub(crate) fn notes(&self, applied: &Applied) -> Vec<Note> {
        let Some(decision) = &applied.decision else { return Vec::new() };
        match &decision.verdict {
            Verdict::Changed(after) => self.notes_of_change(applied.before.as_ref(), after),
            Verdict::Refused(why) if refusal::is_proven(why) && refusal::word(why) != "duplicate" => {
                vec![self.note(
                    "late outcome refused",
                    json!({ "outcome": self.outcome.end.name(), "reason": why.to_string() }),
                )]
            }
            Verdict::Refused(_) | Verdict::Unchanged => Vec::new(),
        }
    }

    fn notes_of_change(&self, before: Option<&Subject>, after: &Subject) -> Vec<Note> {
        let task = &after.task;
        let mut notes = Vec::new();
        if before.is_some_and(|before| before.task.status == Status::Uncertain) {
            notes.push(self.note(
                "uncertain attempt reported",
                json!({ "outcome": self.outcome.end.name(), "agent": self.sender.to_string() }),
            ));
        }
        if let Some(error) = &self.refused {
            notes.push(self.note("artifacts refused", json!({ "reason": error.to_string() })));
        }
        match &self.outcome.end {
            OutcomeEnd::NotStarted { reason } => {
                notes.push(
                    self.note("not started", json!({ "reason": reason, "agent": self.sender.to_string() })),
                );
            }
            OutcomeEnd::Cancelled { by } => notes.push(self.note("stopped", json!({ "by": by }))),
            OutcomeEnd::Succeeded { .. }
            | OutcomeEnd::Failed { .. }
            | OutcomeEnd::Panicked { .. }
            | OutcomeEnd::TimedOut { .. } => {}
        }
        if let (Status::Pending, Some(at)) = (task.status, task.run_after) {
            notes.push(
                self.note(
                    "tried again later",
                    json!({ "at": at, "tries": task.charge, "losses": task.losses }),
                ),
            );
        }
        let was_approved = before.is_some_and(|before| before.task.approval.is_some());
        if let (Some(approval), false) = (&task.approval, was_approved) {
            let detail =
                json!({ "by": approval.by, "step": task.current_step().name, "digest": approval.digest });
            // An approval is the task's, not the attempt's: so it is one line with what the task's columns tell.
            notes.push(Note { attempt: None, ..self.note("approved", detail) });
        }
        notes
    }

    fn note(&self, what: &'static str, detail: serde_json::Value) -> Note {
        let claim = &self.outcome.claim;
        Note { task_id: claim.task_id.clone(), attempt: Some(claim.attempt), what, detail }
    }
}
