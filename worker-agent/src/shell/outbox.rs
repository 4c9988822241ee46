//! Publishes what the machine wants to say: pipelined, confirms come back as inputs. Outcomes that have queued up while others are on
//! their way go together; when nothing is on its way they go at once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use switchyard_common::broker::{LostReason, Outgoing, PublishOutcome, Publisher};
use switchyard_common::contract::report::{Outcome, OutcomeBatch, OutcomeEnd, ReportBody, StartedBatch};
use switchyard_common::failure::Failure;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::limits::{
    OUTBOX_TURN_MAX_COUNT, OUTCOME_BATCH_MAX_BYTES, OUTCOME_BATCH_MAX_COUNT, OUTCOME_MESSAGES_OPEN_MAX_COUNT,
    REPORT_TIMEOUT_MS,
};
use super::reports::{ReportError, ReportWriter};
use super::served::{Fate, Served};
use crate::machine::{Body, Input, Publish, ReportId};

/// What a message on its way was for.
struct Sent {
    ids: Vec<ReportId>,
    outcomes: bool,
    fate: Fate,
}

/// An outcome that waits for its message.
struct Waiting {
    id: ReportId,
    epoch: i64,
    outcome: Arc<Outcome>,
}

/// The task that publishes.
pub(super) struct Outbox {
    publisher: Publisher,
    writer: ReportWriter,
    reports: mpsc::UnboundedReceiver<Publish>,
    answers: mpsc::UnboundedSender<Input>,
    /// Longest time that a sign of life is worth sending.
    presence_timeout: Duration,
    waiting: VecDeque<Waiting>,
    outcome_messages_open: usize,
    served: Served,
    open: FuturesUnordered<BoxFuture<'static, Sent>>,
}

impl Outbox {
    pub(super) fn new(
        publisher: Publisher,
        writer: ReportWriter,
        reports: mpsc::UnboundedReceiver<Publish>,
        answers: mpsc::UnboundedSender<Input>,
        presence_timeout: Duration,
    ) -> Self {
        Self {
            publisher,
            writer,
            reports,
            answers,
            presence_timeout,
            waiting: VecDeque::new(),
            outcome_messages_open: 0,
            served: Served::default(),
            open: FuturesUnordered::new(),
        }
    }

    /// Publishes until the machine is gone and everything is answered.
    pub(super) async fn run(mut self) {
        let mut taken = Vec::with_capacity(OUTBOX_TURN_MAX_COUNT);
        let mut more = true;
        while more || !self.open.is_empty() {
            tokio::select! {
                count = self.reports.recv_many(&mut taken, OUTBOX_TURN_MAX_COUNT), if more => more = count > 0,
                Some(sent) = self.open.next() => self.answered(sent),
            }
            for publish in taken.drain(..) {
                self.take(publish);
            }
            self.send_outcomes();
        }
    }

    fn take(&mut self, publish: Publish) {
        let Publish { id, epoch, body } = publish;
        let timeout = Duration::from_millis(REPORT_TIMEOUT_MS);
        let presence = self.presence_timeout;
        match body {
            Body::Hello(hello) => self.send(vec![id], epoch, ReportBody::Hello(hello), presence),
            Body::Heartbeat(beat) => self.send(vec![id], epoch, ReportBody::Heartbeat(beat), presence),
            Body::Ask(ask) => self.send(vec![id], epoch, ReportBody::Ask(ask), timeout),
            Body::Started(claims) => {
                self.send(vec![id], epoch, ReportBody::Started(StartedBatch { claims }), timeout);
            }
            Body::Artifact(part) => {
                self.send(vec![id], epoch, ReportBody::Artifact(Arc::unwrap_or_clone(part)), timeout);
            }
            Body::Outcome(outcome) => self.waiting.push_back(Waiting { id, epoch, outcome }),
        }
    }

    /// Sends what waits, as long as few enough messages with outcomes are on their way.
    fn send_outcomes(&mut self) {
        while self.outcome_messages_open < OUTCOME_MESSAGES_OPEN_MAX_COUNT
            && let Some((ids, epoch, batch)) = next_batch(&mut self.waiting)
        {
            let timeout = Duration::from_millis(REPORT_TIMEOUT_MS);
            self.outcome_messages_open += 1;
            self.send(ids, epoch, ReportBody::Outcome(batch), timeout);
        }
    }

    fn send(&mut self, ids: Vec<ReportId>, epoch: i64, body: ReportBody, timeout: Duration) {
        let outcomes = matches!(body, ReportBody::Outcome(_));
        let kind = body.name();
        let message = match self.writer.message(epoch, body) {
            Ok(message) => message,
            Err(error) => {
                self.refused(kind, &error);
                self.answered(Sent { ids, outcomes, fate: Fate::Lost });
                return;
            }
        };
        let publisher = self.publisher.clone();
        let deadline = Instant::now() + timeout;
        self.open.push(Box::pin(async move {
            let fate = publish(&publisher, message, deadline, kind).await;
            Sent { ids, outcomes, fate }
        }));
    }

    fn refused(&self, kind: &'static str, error: &ReportError) {
        tracing::error!(report = kind, %error, "a report cannot be sent");
        metrics::counter!("switchyard_agent_reports_refused_total", "report" => kind).increment(1);
    }

    fn answered(&mut self, sent: Sent) {
        if sent.outcomes {
            self.outcome_messages_open = self.outcome_messages_open.saturating_sub(1);
        }
        self.served.learn(sent.fate, self.writer.exchange());
        for id in sent.ids {
            let answer = match sent.fate {
                Fate::Confirmed => Input::Confirmed(id),
                Fate::NoExchange | Fate::Lost => Input::Lost(id),
            };
            // The driver is gone only when the process ends.
            let _ = self.answers.send(answer);
        }
    }
}

/// Publishes one message: confirmed when the broker has it in a queue, or for a sign of life at all.
async fn publish(publisher: &Publisher, message: Outgoing, deadline: Instant, report: &'static str) -> Fate {
    match publisher.publish_until(message, deadline).await {
        PublishOutcome::Acked => Fate::Confirmed,
        PublishOutcome::Returned { code, text } => {
            tracing::warn!(
                report,
                code,
                text,
                "a report found no queue: is the dispatcher's topology declared?"
            );
            Fate::Lost
        }
        PublishOutcome::Nacked => {
            tracing::warn!(report, "the broker refused a report: is its queue full?");
            Fate::Lost
        }
        PublishOutcome::Lost(reason) => {
            tracing::debug!(report, ?reason, "a report was not confirmed");
            match reason {
                LostReason::NoExchange(_) => Fate::NoExchange,
                LostReason::NotSent(_) | LostReason::Unconfirmed(_) => Fate::Lost,
            }
        }
    }
}

/// Takes the outcomes of one message from the front: of one epoch, and bounded.
fn next_batch(waiting: &mut VecDeque<Waiting>) -> Option<(Vec<ReportId>, i64, OutcomeBatch)> {
    let epoch = waiting.front()?.epoch;
    let (mut ids, mut outcomes, mut bytes) = (Vec::new(), Vec::new(), 0_usize);
    while let Some(next) = waiting.front() {
        bytes = bytes.saturating_add(weight_bytes(&next.outcome));
        let full =
            ids.len() >= OUTCOME_BATCH_MAX_COUNT || (bytes > OUTCOME_BATCH_MAX_BYTES && !ids.is_empty());
        if full || next.epoch != epoch {
            break;
        }
        if let Some(Waiting { id, outcome, .. }) = waiting.pop_front() {
            ids.push(id);
            outcomes.push(Arc::unwrap_or_clone(outcome));
        }
    }
    Some((ids, epoch, OutcomeBatch { outcomes }))
}

/// About how long an outcome is as JSON: enough to keep a batch far from the broker's limit.
fn weight_bytes(outcome: &Outcome) -> usize {
    const FIXED: usize = 512;
    const PER_ARTIFACT: usize = 400;
    let text = |failure: &Failure| {
        let tail: usize = failure.log_tail.iter().map(String::len).sum();
        failure.message.len() + failure.backtrace.as_ref().map_or(0, String::len) + tail
    };
    FIXED
        + match &outcome.end {
            OutcomeEnd::Succeeded { artifacts, result, .. } => {
                let result = result.as_ref().map_or(0, |result| result.to_string().len());
                artifacts.0.len() * PER_ARTIFACT + result
            }
            OutcomeEnd::Failed { failure }
            | OutcomeEnd::Panicked { failure }
            | OutcomeEnd::TimedOut { failure } => text(failure),
            OutcomeEnd::Cancelled { .. } | OutcomeEnd::NotStarted { .. } => 0,
        }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use switchyard_common::contract::ids::{LeaseToken, SessionId, TaskId};
    use switchyard_common::contract::report::{Claim, NotStarted};
    use switchyard_common::failure::FailureKind;
    use uuid::Uuid;

    use super::*;

    fn waiting(epochs: &[i64], end: &OutcomeEnd) -> VecDeque<Waiting> {
        let claim = Claim {
            task_id: TaskId::new("t").unwrap(),
            attempt: 1,
            session: SessionId(Uuid::from_u128(1)),
            lease: LeaseToken(Uuid::from_u128(2)),
        };
        let outcome = Arc::new(Outcome {
            claim,
            started_at: None,
            ended_at: Utc::now(),
            log_lines: 0,
            end: end.clone(),
        });
        (1..)
            .zip(epochs)
            .map(|(id, epoch)| Waiting { id: ReportId(id), epoch: *epoch, outcome: Arc::clone(&outcome) })
            .collect()
    }

    fn sizes(mut waiting: VecDeque<Waiting>) -> Vec<usize> {
        std::iter::from_fn(|| next_batch(&mut waiting)).map(|(ids, _, _)| ids.len()).collect()
    }

    #[test]
    fn what_has_queued_up_goes_together_up_to_the_limit() {
        let end = OutcomeEnd::NotStarted { reason: NotStarted::Draining };
        let max = OUTCOME_BATCH_MAX_COUNT;
        assert_eq!(sizes(waiting(&vec![0; max], &end)), [max]);
        assert_eq!(sizes(waiting(&vec![0; max + 1], &end)), [max, 1]);
    }

    #[test]
    fn epochs_are_never_mixed() {
        let end = OutcomeEnd::NotStarted { reason: NotStarted::Draining };
        assert_eq!(sizes(waiting(&[0, 0, 1, 0], &end)), [2, 1, 1]);
    }

    #[test]
    fn large_outcomes_travel_in_several_messages_and_one_too_large_travels_alone() {
        let mut failure = Failure::new(FailureKind::HandlerFailed, "x");
        failure.log_tail = vec!["y".repeat(OUTCOME_BATCH_MAX_BYTES / 2 - 600)];
        assert_eq!(sizes(waiting(&[0; 3], &OutcomeEnd::Failed { failure: failure.clone() })), [2, 1]);
        failure.log_tail = vec!["y".repeat(OUTCOME_BATCH_MAX_BYTES + 1)];
        assert_eq!(sizes(waiting(&[0; 2], &OutcomeEnd::Failed { failure })), [1, 1]);
    }
}
