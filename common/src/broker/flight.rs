//! Publishes in flight on one channel: written in order, matched with their confirms, given up together.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use lapin::options::BasicPublishOptions;
use lapin::{Channel, Confirmation};
use tokio::time::Instant;

use super::confirms::{ConfirmBook, Confirmed, PublishNo, Returned, Verdict};
use super::fault::{Fault, code};
use super::headers::HeaderValue;
use super::limits::BROKER_TEXT_MAX_BYTES;
use super::message::{Outgoing, from_library, to_library};
use super::publisher::{LostReason, PublishOutcome, Request};
use super::refusals::Refusals;
use super::session::{SessionEvent, SessionEvents};
use crate::text::bounded;

/// The header by which a returned message is recognised; receivers ignore it.
const PUBLISH_NO_HEADER: &str = "x-publish-no";

/// Waits for the broker's answer to one publish.
type Answer = Pin<Box<dyn Future<Output = (PublishNo, lapin::Result<Confirmation>)> + Send>>;

/// A publish that was written and not answered.
struct Pending {
    request: Request,
    written: Instant,
}

/// Until when a confirm is waited for. While the broker has blocked the connection, nothing is confirmed and nothing is wrong.
pub(super) struct ConfirmClock {
    timeout: Duration,
    /// Since when the broker reads; none while it does not.
    pub(super) reads_since: Option<Instant>,
}

impl ConfirmClock {
    pub(super) const fn new(timeout: Duration, now: Instant) -> Self {
        Self { timeout, reads_since: Some(now) }
    }

    pub(super) const fn blocked(&mut self) {
        self.reads_since = None;
    }

    pub(super) const fn unblocked(&mut self, now: Instant) {
        self.reads_since = Some(now);
    }

    pub(super) fn due(&self, written: Instant) -> Option<Instant> {
        Some(self.reads_since?.max(written) + self.timeout)
    }
}

/// Everything in flight on one channel.
pub(super) struct Flight {
    pub(super) channel: Channel,
    pub(super) next_no: PublishNo,
    pub(super) answers: FuturesUnordered<Answer>,
    /// By number, so the first is the one that waits longest.
    pending: BTreeMap<PublishNo, Pending>,
    book: ConfirmBook,
    pub(super) clock: ConfirmClock,
    pub(super) refusals: Refusals,
}

impl Flight {
    pub(super) fn new(channel: Channel, next_no: PublishNo, confirm_timeout: Duration) -> Self {
        Self {
            channel,
            next_no,
            answers: FuturesUnordered::new(),
            pending: BTreeMap::new(),
            book: ConfirmBook::default(),
            clock: ConfirmClock::new(confirm_timeout, Instant::now()),
            refusals: Refusals::default(),
        }
    }

    /// When the channel is to be made anew. While the broker has blocked the connection, it would not answer.
    pub(super) fn renewal_due(&self) -> Option<Instant> {
        self.clock.reads_since.and(self.refusals.renewal_due())
    }

    /// When the broker will have owed a confirm for too long. Whether it has the message cannot be known on this connection then, so
    /// the connection must end before anybody may send a copy (protocol B2).
    pub(super) fn confirm_due(&self) -> Option<Instant> {
        let (_, oldest) = self.pending.first_key_value()?;
        self.clock.due(oldest.written)
    }

    /// What is said of a confirm that did not come: which message it was for, because its queue may be the one that does not answer.
    pub(super) fn overdue(&self, role: &'static str) -> Fault {
        metrics::counter!("switchyard_broker_confirms_overdue_total", "role" => role).increment(1);
        let waited_ms = self.clock.timeout.as_millis();
        let of = self.pending.first_key_value().map_or_else(String::new, |(_, oldest)| {
            let (exchange, key) = (oldest.request.message.exchange(), oldest.request.message.routing_key());
            format!(" of a message to exchange `{exchange}` with key `{key}`")
        });
        Fault::local(format!(
            "no confirm within {waited_ms} ms{of}: its queue, or the broker, does not answer"
        ))
    }

    /// Queues the message's frames, unless its caller has given up or its time to be written has passed.
    pub(super) fn write(&mut self, request: Request) {
        if request.write_by < Instant::now() || !request.stage.claim_for_writing() {
            return;
        }
        self.next_no += 1;
        let no = self.next_no;
        let mut answer = answer_to(self.channel.clone(), no, &request.message);
        // The first poll numbers the publish and queues its frames: it must happen here, in order. Its waker does
        // not matter, because the future is polled again when it is first in the set.
        let first = answer.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if let Poll::Ready(answered) = first {
            answer = Box::pin(std::future::ready(answered));
        }
        self.answers.push(answer);
        self.pending.insert(no, Pending { request, written: Instant::now() });
    }

    /// Enters a batch of answers: all that have come so far.
    pub(super) fn settle(
        &mut self,
        batch: Vec<(PublishNo, lapin::Result<Confirmation>)>,
    ) -> Result<(), Fault> {
        let mut failed = None;
        for (no, answer) in batch {
            let mandatory = self.pending.get(&no).is_some_and(|pending| pending.request.message.mandatory());
            match answer {
                Ok(Confirmation::Ack(carried)) => self.enter(no, mandatory, true, carried),
                Ok(Confirmation::Nack(carried)) => self.enter(no, mandatory, false, carried),
                Ok(Confirmation::NotRequested) => failed = Some(Fault::local("confirms are not enabled")),
                Err(error) => failed = Some(Fault::from(error)),
            }
        }
        for (no, verdict) in self.book.settle(self.answers.len()) {
            self.finish(no, outcome_of(verdict));
        }
        failed.map_or(Ok(()), Err)
    }

    fn enter(
        &mut self,
        no: PublishNo,
        mandatory: bool,
        ack: bool,
        carried: Option<lapin::message::BasicReturnMessage>,
    ) {
        let carried = carried.map(|message| {
            let (properties, _) = from_library(&message.delivery.properties);
            let number = properties.headers.get(PUBLISH_NO_HEADER).and_then(HeaderValue::as_int);
            let text = bounded(message.reply_text.as_str(), BROKER_TEXT_MAX_BYTES);
            // A number that is not ours belongs to nobody; 0 is never given out.
            let number = number.and_then(|n| PublishNo::try_from(n).ok()).unwrap_or(0);
            (number, Returned { code: message.reply_code, text })
        });
        self.book.resolved(Confirmed { no, mandatory, ack, carried });
    }

    fn finish(&mut self, no: PublishNo, outcome: PublishOutcome) {
        let Some(pending) = self.pending.remove(&no) else { return };
        let (exchange, key) = (pending.request.message.exchange(), pending.request.message.routing_key());
        match &outcome {
            PublishOutcome::Acked => self.refusals.taken(exchange, key),
            PublishOutcome::Nacked => self.refusals.refused(exchange, key, Instant::now()),
            PublishOutcome::Returned { .. } | PublishOutcome::Lost(_) => {}
        }
        metrics::counter!("switchyard_broker_publishes_total", "outcome" => outcome.label()).increment(1);
        metrics::histogram!("switchyard_broker_confirm_seconds")
            .record(pending.written.elapsed().as_secs_f64());
        // A caller that has gone does not want to know.
        let _ = pending.request.reply.send(outcome);
    }

    /// After the publisher was closed: waits for what is in flight.
    pub(super) async fn settle_rest(&mut self, events: &mut SessionEvents) -> Result<(), Fault> {
        while !self.answers.is_empty() {
            tokio::select! {
                biased;
                event = events.next() => if let SessionEvent::Lost(fault) = event { return Err(fault) },
                batch = Answers(&mut self.answers) => self.settle(batch)?,
            }
        }
        Ok(())
    }

    /// The channel is gone: what was written and not decided may or may not have arrived.
    pub(super) fn lose_all(&mut self, fault: &Fault) {
        let why = format!("the connection failed before the confirm: {fault}");
        let open: Vec<PublishNo> = self.pending.keys().copied().collect();
        let lost = if fault.is(code::NOT_FOUND) { LostReason::NoExchange } else { LostReason::Unconfirmed };
        if !open.is_empty() && !fault.is(code::NOT_FOUND) {
            tracing::warn!(count = open.len(), reason = %fault, "publishes in flight were lost, their fate is unknown");
        }
        for no in open {
            self.finish(no, PublishOutcome::Lost(lost(why.clone())));
        }
    }
}

fn outcome_of(verdict: Verdict) -> PublishOutcome {
    match verdict {
        Verdict::Acked => PublishOutcome::Acked,
        Verdict::Nacked => PublishOutcome::Nacked,
        Verdict::Returned(Returned { code, text }) => PublishOutcome::Returned { code, text },
    }
}

fn answer_to(channel: Channel, no: PublishNo, message: &Outgoing) -> Answer {
    let (exchange, routing_key) = message.address();
    let mut properties = message.properties().clone();
    if message.mandatory() {
        let number = HeaderValue::Int(i64::try_from(no).unwrap_or(i64::MAX));
        properties.headers.insert(PUBLISH_NO_HEADER.to_owned(), number);
    }
    let properties = to_library(&properties);
    let options = BasicPublishOptions { mandatory: message.mandatory(), immediate: false };
    let body = message.body().to_vec();
    Box::pin(async move {
        let written = channel.basic_publish(exchange, routing_key, options, &body, properties).await;
        // The library has its own copy; the confirm may be long in coming.
        drop(body);
        let answered = match written {
            Ok(confirm) => confirm.await,
            Err(error) => Err(error),
        };
        (no, answered)
    })
}

/// Completes with every answer that has come so far, at least one. That none is left behind is what
/// [`ConfirmBook`] rests on: so it goes on polling until the set says that nothing more was woken.
pub(super) struct Answers<'a>(pub(super) &'a mut FuturesUnordered<Answer>);

impl Future for Answers<'_> {
    type Output = Vec<(PublishNo, lapin::Result<Confirmation>)>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let wakes = Arc::new(Wakes { seen: AtomicBool::new(false), parent: cx.waker().clone() });
        let waker = Waker::from(Arc::clone(&wakes));
        let mut batch = Vec::new();
        loop {
            wakes.seen.store(false, Ordering::SeqCst);
            match self.0.poll_next_unpin(&mut Context::from_waker(&waker)) {
                Poll::Ready(Some(answer)) => batch.push(answer),
                Poll::Ready(None) => break,
                // The set pauses now and then although some are ready; it wakes its task when it does.
                Poll::Pending if wakes.seen.load(Ordering::SeqCst) => {}
                Poll::Pending => break,
            }
        }
        if batch.is_empty() { Poll::Pending } else { Poll::Ready(batch) }
    }
}

/// Remembers that it was woken, and passes it on.
struct Wakes {
    seen: AtomicBool,
    parent: Waker,
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.seen.store(true, Ordering::SeqCst);
        self.parent.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_in_which_the_broker_does_not_read_is_not_held_against_it() {
        let (begun, timeout) = (Instant::now(), Duration::from_secs(30));
        let mut clock = ConfirmClock::new(timeout, begun);
        let written = begun + Duration::from_secs(1);
        assert_eq!(clock.due(written), Some(written + timeout));
        clock.blocked();
        assert_eq!(clock.due(written), None);
        let unblocked = begun + Duration::from_secs(3_600);
        clock.unblocked(unblocked);
        assert_eq!(clock.due(written), Some(unblocked + timeout));
        let later = unblocked + Duration::from_secs(1);
        assert_eq!(clock.due(later), Some(later + timeout));
    }
}
