//! The end of an attempt: artifacts first, then the outcome, and only when that is confirmed the ack or nack (design 6.5).

use std::collections::BTreeMap;
use std::sync::Arc;

use switchyard_common::contract::artifact::{Manifest, split};
use switchyard_common::contract::report::{Claim, LeftPart, NotStarted, Outcome, OutcomeEnd, StoppedBy};
use switchyard_common::failure::{Failure, FailureKind};

use super::attempt_id::AttemptId;
use super::core::{Machine, Purpose};
use super::hand::{Again, Held, Leaving, Reporting, Stage};
use super::limits::{REPUBLISH_INITIAL_MS, REPUBLISH_MAX_MS};
use super::message::{Body, Effect, HandlerEnd, ReportId};
use super::note::What;
use super::time::Now;
use super::tombstone::Tombstone;

impl Machine {
    /// A handler has ended.
    pub(super) fn handler_ended(&mut self, now: Now, attempt: AttemptId, end: HandlerEnd, log_lines: u64) {
        let Some(Held { claim, stage: Stage::Running(running), .. }) = self.hand.get(attempt) else {
            self.note(What::UnknownHandler);
            return;
        };
        let (claim, started_at, stop) = (claim.clone(), running.started_at, running.stop);
        let (end, files) = reported_end(end, stop);
        self.note_held(attempt, What::Ended { outcome: end.name() });
        let outcome = Arc::new(Outcome {
            claim: claim.clone(),
            started_at: Some(started_at),
            ended_at: now.wall,
            log_lines,
            end,
        });
        if files.values().all(Vec::is_empty) {
            self.report(now, attempt, outcome);
        } else {
            self.leave(now, attempt, &claim, &files, outcome);
        }
    }

    /// Ends an attempt that was never started.
    pub(super) fn refuse(&mut self, now: Now, attempt: AttemptId, reason: NotStarted) {
        let Some(held) = self.hand.get(attempt) else { return };
        let claim = held.claim.clone();
        self.parts.drop_attempt(&claim.key(), claim.session);
        self.note_held(attempt, What::Refused(reason));
        self.report(now, attempt, not_started(claim, now, reason));
    }

    fn leave(
        &mut self,
        now: Now,
        attempt: AttemptId,
        claim: &Claim,
        files: &BTreeMap<String, Vec<u8>>,
        outcome: Arc<Outcome>,
    ) {
        let mut open = BTreeMap::new();
        for part in split(files) {
            let part = Arc::new(LeftPart { claim: claim.clone(), part });
            let id = self.publish(Body::Artifact(Arc::clone(&part)), Some(Purpose::Part(attempt)));
            open.insert(id, part);
        }
        self.hand
            .advance(attempt, Stage::Leaving(Leaving { open, lost: Vec::new(), again: again(now), outcome }));
    }

    /// Publishes the outcome of an attempt in hand.
    fn report(&mut self, now: Now, attempt: AttemptId, outcome: Arc<Outcome>) {
        let id = self.publish(Body::Outcome(Arc::clone(&outcome)), Some(Purpose::Outcome(attempt)));
        self.hand
            .advance(attempt, Stage::Reporting(Reporting { outcome, open: Some(id), again: again(now) }));
    }

    /// Answers for an attempt whose assignment was never seen: it is taken in hand only to be refused.
    pub(super) fn refuse_unseen(&mut self, now: Now, claim: Claim, reason: NotStarted) {
        let (attempt, outcome) = (AttemptId::from(claim.lease), not_started(claim.clone(), now, reason));
        let reporting = Reporting { outcome: Arc::clone(&outcome), open: None, again: again(now) };
        self.hand.insert(Held {
            claim,
            workspace: None,
            tag: None,
            publish_no: 0,
            stage: Stage::Reporting(reporting),
        });
        self.note_held(attempt, What::Refused(reason));
        self.report(now, attempt, outcome);
    }

    /// The outcome is safe at the broker: only now does the delivery go, and the attempt becomes a tombstone.
    pub(super) fn outcome_confirmed(&mut self, attempt: AttemptId, id: ReportId) {
        let confirmed = matches!(
            self.hand.get(attempt),
            Some(Held { stage: Stage::Reporting(Reporting { open: Some(open), .. }), .. }) if *open == id
        );
        if !confirmed {
            return;
        }
        let Some(Held { tag, publish_no, stage: Stage::Reporting(Reporting { outcome, .. }), .. }) =
            self.hand.remove(attempt)
        else {
            return;
        };
        let nack = outcome.end.failure().is_some();
        if let Some(tag) = tag {
            self.emit(if nack { Effect::Nack(tag) } else { Effect::Ack(tag) });
        }
        self.tombstones.remember(attempt, Tombstone { publish_no, nack, outcome: Some(outcome) });
    }

    pub(super) fn outcome_lost(&mut self, now: Now, attempt: AttemptId, id: ReportId) {
        if let Some(Held { stage: Stage::Reporting(reporting), .. }) = self.hand.get_mut(attempt)
            && reporting.open == Some(id)
        {
            reporting.open = None;
            reporting.again.put_off(now.boot);
        }
    }

    pub(super) fn part_confirmed(&mut self, now: Now, attempt: AttemptId, id: ReportId) {
        let Some(Held { stage: Stage::Leaving(leaving), .. }) = self.hand.get_mut(attempt) else { return };
        leaving.open.remove(&id);
        if leaving.open.is_empty() && leaving.lost.is_empty() {
            let outcome = Arc::clone(&leaving.outcome);
            self.report(now, attempt, outcome);
        }
    }

    pub(super) fn part_lost(&mut self, now: Now, attempt: AttemptId, id: ReportId) {
        let Some(Held { stage: Stage::Leaving(leaving), .. }) = self.hand.get_mut(attempt) else { return };
        if let Some(part) = leaving.open.remove(&id) {
            // Parts that are lost together come again together.
            if leaving.lost.is_empty() {
                leaving.again.put_off(now.boot);
            }
            leaving.lost.push(part);
        }
    }

    /// Publishes again what was lost of an attempt.
    pub(super) fn publish_again(&mut self, attempt: AttemptId) {
        let Some(held) = self.hand.get_mut(attempt) else { return };
        match &mut held.stage {
            Stage::Reporting(Reporting { outcome, open: None, .. }) => {
                let body = Body::Outcome(Arc::clone(outcome));
                let id = self.publish(body, Some(Purpose::Outcome(attempt)));
                if let Some(Held { stage: Stage::Reporting(reporting), .. }) = self.hand.get_mut(attempt) {
                    reporting.open = Some(id);
                }
            }
            Stage::Leaving(leaving) => {
                for part in std::mem::take(&mut leaving.lost) {
                    let id = self.publish(Body::Artifact(Arc::clone(&part)), Some(Purpose::Part(attempt)));
                    if let Some(Held { stage: Stage::Leaving(leaving), .. }) = self.hand.get_mut(attempt) {
                        leaving.open.insert(id, part);
                    }
                }
            }
            Stage::Reporting(_) | Stage::Waiting(_) | Stage::Asking(_) | Stage::Running(_) => {}
        }
    }
}

/// What is reported of a handler's end, and the files that go with it.
fn reported_end(end: HandlerEnd, stop: Option<StoppedBy>) -> (OutcomeEnd, BTreeMap<String, Vec<u8>>) {
    let none = BTreeMap::new();
    match end {
        HandlerEnd::Succeeded { changes, artifacts: files, result } => match Manifest::of(&files) {
            Ok(artifacts) => (OutcomeEnd::Succeeded { changes, artifacts, result }, files),
            Err(error) => {
                let message = format!("what the handler left is refused: {error}");
                (OutcomeEnd::Failed { failure: Failure::new(FailureKind::HandlerFailed, message) }, none)
            }
        },
        HandlerEnd::Failed(failure) => (OutcomeEnd::Failed { failure: failure.bounded() }, none),
        HandlerEnd::Panicked(failure) => (OutcomeEnd::Panicked { failure: failure.bounded() }, none),
        HandlerEnd::TimedOut(failure) => (OutcomeEnd::TimedOut { failure: failure.bounded() }, none),
        HandlerEnd::KeepAliveStopped => {
            (OutcomeEnd::Cancelled { by: stop.unwrap_or(StoppedBy::Silence) }, none)
        }
        HandlerEnd::Stopped => match stop {
            Some(by) => (OutcomeEnd::Cancelled { by }, none),
            None => {
                let message = "the handler says that it was stopped, but nobody had asked it to stop";
                (OutcomeEnd::Failed { failure: Failure::new(FailureKind::Interrupted, message) }, none)
            }
        },
    }
}

/// The outcome of an attempt of which nothing else can be said.
pub(super) fn not_started(claim: Claim, now: Now, reason: NotStarted) -> Arc<Outcome> {
    let end = OutcomeEnd::NotStarted { reason };
    Arc::new(Outcome { claim, started_at: None, ended_at: now.wall, log_lines: 0, end })
}

fn again(now: Now) -> Again {
    Again::from(now.boot, REPUBLISH_INITIAL_MS, REPUBLISH_MAX_MS)
}
