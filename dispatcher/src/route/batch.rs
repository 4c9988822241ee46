//! One batch of assignments on its way: read, made into messages slice by slice, published, and what follows for each.

use std::collections::HashMap;
use std::time::Duration;

use switchyard_common::broker::PublishOutcome;
use switchyard_common::contract::assignment::{Assignment, AttemptKey, InputPart};
use switchyard_common::task::Input;
use tokio::time::Instant;

use super::decide::{Delivery, Next, SEND_WITHIN, after_publish, may_send_for};
use super::message::messages;
use super::prepare::{Prepared, Span, publish_of};
use super::run::Router;
use super::slices::slices;
use crate::store::route::{Committed, Content, Dispatch, Fresh, Publish, contents, input_parts, renew};
use crate::store::{self, Named};

/// Wait before a batch is read again when the database is away.
pub(super) const STORE_WAIT: Duration = Duration::from_millis(500);

/// What is to be published, and how often this replica has published it, this time included.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Job {
    pub(super) publish: Publish,
    pub(super) tries: u32,
    /// The message, where it need not be read.
    pub(super) fresh: Option<Box<Fresh>>,
}

impl Job {
    /// The first publish of what was just committed.
    pub(super) fn first(committed: Committed) -> Self {
        Self { publish: Publish::first(committed.key), tries: 1, fresh: committed.fresh }
    }
}

/// What came of a batch: what is to be published again, and when; what was confirmed.
#[derive(Debug, Default)]
pub(super) struct BatchEnd {
    pub(super) keys: Vec<AttemptKey>,
    pub(super) resends: Vec<(Instant, Publish, u32)>,
    pub(super) confirmed: Vec<AttemptKey>,
}

/// An assignment that was read and whose inputs were not.
struct Turn {
    content: Content,
    tries: u32,
    /// Not to be written after this, unless the database is asked once more.
    write_by: Instant,
}

impl Router {
    /// Publishes one batch and says what follows for each of it. What the database does not name this replica as the publisher of is not
    /// sent; what it cannot write soon after the database said so is claimed anew first (protocol B2).
    pub(super) async fn publish(&self, jobs: Vec<Job>) -> BatchEnd {
        let keys: Vec<AttemptKey> = jobs.iter().map(|job| job.publish.key.clone()).collect();
        let mut end = BatchEnd { keys, ..BatchEnd::default() };
        let tries_of: HashMap<AttemptKey, u32> =
            jobs.iter().map(|job| (job.publish.key.clone(), job.tries)).collect();
        let (contents, asked_at) = self.contents(jobs).await;
        let mut turns = Vec::with_capacity(contents.len());
        for content in contents {
            let tries = tries_of.get(&content.assignment.key()).copied().unwrap_or(1);
            match may_send_for(content.age) {
                Some(left) => turns.push(Turn { content, tries, write_by: asked_at + left }),
                None => {
                    let publish = publish_of(&content.assignment);
                    end.resends.push((Instant::now(), publish, tries.saturating_sub(1)));
                }
            }
        }
        // What has no inputs waits for nobody's memory.
        let (light, heavy): (Vec<Turn>, Vec<Turn>) =
            turns.into_iter().partition(|turn| turn.content.input_bytes() == 0);
        if !light.is_empty() {
            self.publish_slice(light, &mut end).await;
        }
        for slice in slices(heavy, |turn| turn.content.input_bytes()) {
            self.publish_slice(slice, &mut end).await;
        }
        end
    }

    async fn publish_slice(&self, slice: Vec<Turn>, end: &mut BatchEnd) {
        let bytes = slice.iter().map(|turn| turn.content.input_bytes()).fold(0, u64::saturating_add);
        let budget = self.inputs.take(bytes).await;
        let mut prepared = self.prepare(slice).await;
        if prepared.is_late(Instant::now()) {
            prepared = self.renewed(prepared, end).await;
        }
        let outcomes = self.publisher.publish_settled(prepared.outgoing, prepared.write_by).await;
        drop(budget);
        let returned = sort_out(prepared.spans, outcomes, end);
        self.tell_returned(&returned).await;
    }

    /// Reads the inputs of a slice, and writes everything down as messages.
    async fn prepare(&self, slice: Vec<Turn>) -> Prepared {
        let mut prepared = Prepared {
            spans: Vec::with_capacity(slice.len()),
            outgoing: Vec::new(),
            write_by: Instant::now() + SEND_WITHIN,
        };
        for Turn { content, tries, write_by } in slice {
            let Some(parts) = self.parts(&content).await else { continue };
            let Content { assignment, age, .. } = content;
            let dispatch = Dispatch { parts, assignment: assignment.clone(), age };
            let messages = messages(&self.namespace, dispatch).unwrap_or_else(|error| {
                tracing::error!(task_id = %assignment.task_id, attempt = assignment.attempt, %error, "assignment cannot be sent");
                Vec::new()
            });
            prepared.write_by = prepared.write_by.min(write_by);
            prepared.spans.push(Span { assignment, tries, count: messages.len() });
            prepared.outgoing.extend(messages);
        }
        prepared
    }

    /// Gives what took long to prepare its full time again, as far as it is still this replica's own: nothing was sent under its number
    /// yet, so the number stays.
    async fn renewed(&self, prepared: Prepared, end: &mut BatchEnd) -> Prepared {
        let (asked_at, asked) = (Instant::now(), prepared.publishes());
        match renew(&self.db, &asked).await {
            Ok(own) => {
                note_not_sent(asked.len() - own.len());
                prepared.only(&own, asked_at + SEND_WITHIN)
            }
            Err(error) => {
                tracing::warn!(%error, "assignments that took long to read cannot be sent now; trying again");
                let again =
                    |span: &Span| (asked_at + STORE_WAIT, span.publish(), span.tries.saturating_sub(1));
                end.resends.extend(prepared.spans.iter().map(again));
                prepared.only(&[], asked_at)
            }
        }
    }

    /// What is to be sent, and the moment that ages are counted to. What was handed over with its message is not read; the rest is, until
    /// the database answers: the assignments are committed, so they must go out, here or from another replica.
    async fn contents(&self, jobs: Vec<Job>) -> (Vec<Content>, Instant) {
        let mut fresh = Vec::with_capacity(jobs.len());
        let mut unread = Vec::new();
        for job in jobs {
            match job.fresh {
                Some(known) => fresh.push(*known),
                None => unread.push(job.publish),
            }
        }
        let (mut contents, asked_at) = self.read(&unread).await;
        note_not_sent(unread.len() - contents.len());
        let known = |Fresh { assignment, since }| Content {
            age: asked_at.saturating_duration_since(since),
            inputs_of: None,
            assignment,
        };
        contents.extend(fresh.into_iter().map(known));
        (contents, asked_at)
    }

    /// Reads contents, and says when the database was asked.
    async fn read(&self, publishes: &[Publish]) -> (Vec<Content>, Instant) {
        if publishes.is_empty() {
            return (Vec::new(), Instant::now());
        }
        loop {
            let asked_at = Instant::now();
            match contents(&self.db, publishes).await {
                Ok(contents) => return (contents, asked_at),
                Err(error) if error.is_transient() => {
                    tracing::warn!(%error, "assignments cannot be read; trying again");
                    tokio::time::sleep(STORE_WAIT).await;
                }
                Err(error) => {
                    tracing::error!(%error, count = publishes.len(), "assignments cannot be read");
                    return (Vec::new(), asked_at);
                }
            }
        }
    }

    /// The same for the inputs of one; none when they cannot be read, which must not hold up the rest.
    async fn parts(&self, content: &Content) -> Option<Vec<InputPart>> {
        let assignment = &content.assignment;
        let (task_id, attempt) = (&assignment.task_id, assignment.attempt);
        loop {
            match input_parts(&self.db, content).await {
                Ok(parts) => return Some(parts),
                Err(error) if error.is_transient() => {
                    tracing::warn!(%task_id, attempt, %error, "the inputs of an assignment cannot be read; trying again");
                    tokio::time::sleep(STORE_WAIT).await;
                }
                Err(error) => {
                    tracing::error!(%task_id, attempt, %error, "the inputs of an assignment cannot be read; it is tried again later");
                    return None;
                }
            }
        }
    }

    /// The agent's queue is gone: undo the assignment, or revoke it where another copy may have arrived (protocol B3).
    async fn tell_returned(&self, returned: &[Assignment]) {
        if returned.is_empty() {
            return;
        }
        let inputs: Vec<Named> = returned
            .iter()
            .map(|assignment| Named {
                task_id: assignment.task_id.clone(),
                attempt: Some(assignment.attempt),
                input: Input::Returned { publish_no: assignment.publish_no },
            })
            .collect();
        loop {
            match store::apply(&self.db, &inputs).await {
                Ok(_) => break,
                Err(error) if error.is_transient() => tokio::time::sleep(STORE_WAIT).await,
                Err(error) => {
                    tracing::error!(%error, "returned assignments cannot be undone; the sweep for unlisted attempts will");
                    break;
                }
            }
        }
        for assignment in returned {
            self.wake.pool(&assignment.pool);
        }
    }
}

/// What follows for each assignment of a batch; gives back those that were returned.
fn sort_out(spans: Vec<Span>, outcomes: Vec<PublishOutcome>, end: &mut BatchEnd) -> Vec<Assignment> {
    let mut outcomes = outcomes.into_iter();
    let mut returned = Vec::new();
    for span in spans {
        let (publish, Span { assignment, tries, count }) = (span.publish(), span);
        let mut deliveries: Vec<Delivery> = outcomes.by_ref().take(count).map(|o| delivery(&o)).collect();
        let own = deliveries.pop().unwrap_or(Delivery::Unknown);
        let next = after_publish(own, &deliveries, tries, rand::random());
        narrate(&assignment, tries, own, next);
        match next {
            Next::Confirmed => end.confirmed.push(assignment.key()),
            Next::TellReturned => returned.push(assignment),
            Next::Resend { after } => {
                end.resends.push((Instant::now() + after, publish, tries));
            }
        }
    }
    returned
}

/// Attempts that ended before they were sent, or that another replica publishes now.
fn note_not_sent(count: usize) {
    if count > 0 {
        metrics::counter!("switchyard_publishes_fenced_total").increment(count as u64);
        tracing::debug!(
            count,
            "assignments are not sent: they have ended, or another replica publishes them"
        );
    }
}

const fn delivery(outcome: &PublishOutcome) -> Delivery {
    match outcome {
        PublishOutcome::Acked => Delivery::Acked,
        PublishOutcome::Returned { .. } => Delivery::Returned,
        PublishOutcome::Nacked => Delivery::Nacked,
        PublishOutcome::Lost(_) => Delivery::Unknown,
    }
}

fn narrate(assignment: &Assignment, tries: u32, own: Delivery, next: Next) {
    let (task_id, workspace_id) = (&assignment.task_id, &assignment.workspace_id);
    match next {
        Next::Confirmed if assignment.exclusive => {
            tracing::info!(%task_id, %workspace_id, attempt = assignment.attempt,
            agent = %assignment.agent, action = %assignment.step, "assignment published and confirmed")
        }
        Next::Confirmed => {
            tracing::debug!(%task_id, %workspace_id, attempt = assignment.attempt, agent = %assignment.agent,
            action = %assignment.step, "assignment published and confirmed")
        }
        Next::TellReturned => {
            tracing::warn!(%task_id, %workspace_id, attempt = assignment.attempt, agent = %assignment.agent,
            publish_no = assignment.publish_no, "assignment returned: the agent's queue is gone")
        }
        Next::Resend { after } => {
            tracing::warn!(%task_id, %workspace_id, attempt = assignment.attempt, agent = %assignment.agent,
            tries, ?own, after_ms = after.as_millis(), "assignment not confirmed; it will be published again")
        }
    }
}
