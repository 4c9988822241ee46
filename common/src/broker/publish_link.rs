//! The task behind a [`Publisher`](super::Publisher): connects, writes in order, matches confirms, reconnects.
//!
//! A single task writes, because the client library numbers a publish and queues its frames in two steps: two tasks
//! publishing on one channel could swap their confirms.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::confirms::{ConfirmBook, Confirmed, PublishNo, Returned, Verdict};
use super::fault::{Fault, code};
use super::headers::HeaderValue;
use super::limits::{BROKER_TEXT_MAX_BYTES, RENEWAL_WAIT_MAX_MILLIS};
use super::message::{Outgoing, from_library, to_library};
use super::publisher::{LostReason, PublishOutcome, Request};
use super::reconnect::Reconnect;
use super::refusals::Refusals;
use super::session::{Session, SessionEvent, SessionEvents};
use super::settings::BrokerConfig;
use super::state::{ConnectionState, StateSender};
use crate::guard::{catch_panic, spawn_guarded};
use crate::text::bounded;

/// The header by which a returned message is recognised; receivers ignore it.
const PUBLISH_NO_HEADER: &str = "x-publish-no";
/// Wait after the broker has said that an exchange does not exist: somebody has to declare it first, which no hurry brings about.
const MISSING_DELAY: Duration = Duration::from_secs(2);
/// The reply code of a channel that is closed in order.
const CLOSED_IN_ORDER: u16 = 200;
/// Most requests written before confirms are looked at again.
const WRITE_BURST_COUNT: usize = 64;

/// Waits for the broker's answer to one publish.
type Answer = Pin<Box<dyn Future<Output = (PublishNo, lapin::Result<Confirmation>)> + Send>>;

pub(super) struct PublishLink {
    config: BrokerConfig,
    role: &'static str,
    requests: mpsc::UnboundedReceiver<Request>,
    closing: CancellationToken,
    state: StateSender,
    next_no: PublishNo,
    generation: u64,
}

impl PublishLink {
    pub(super) fn new(
        config: BrokerConfig,
        role: &'static str,
        requests: mpsc::UnboundedReceiver<Request>,
        closing: CancellationToken,
    ) -> (Self, watch::Receiver<ConnectionState>) {
        let (state, receiver) = StateSender::new(role, config.masked_url());
        (Self { config, role, requests, closing, state, next_no: 0, generation: 0 }, receiver)
    }

    /// Connection after connection, until closed.
    pub(super) async fn run(mut self) {
        let mut reconnect = Reconnect::new(self.config.reconnect);
        loop {
            let fault = match catch_panic(self.one_connection(&mut reconnect)).await {
                Ok(Ok(())) => break,
                Ok(Err(fault)) => fault,
                Err(capture) => {
                    tracing::error!(role = self.role, %capture, "the publisher's connection task panicked");
                    Fault::local(capture.to_string())
                }
            };
            let mut delay = reconnect.next_delay(Instant::now(), &mut rand::rng());
            if fault.is(code::NOT_FOUND) {
                delay = delay.max(MISSING_DELAY);
            }
            self.state.down(&fault, delay);
            tokio::select! {
                () = self.closing.cancelled() => break,
                () = tokio::time::sleep(delay) => {}
            }
        }
        self.state.closed();
    }

    /// One connection from open to end. `Ok` when the publisher was closed.
    async fn one_connection(&mut self, reconnect: &mut Reconnect) -> Result<(), Fault> {
        let opened = tokio::select! {
            opened = open(&self.config, self.role, self.generation + 1) => opened?,
            () = self.closing.cancelled() => return Ok(()),
        };
        let (session, events, channel) = opened;
        self.generation = session.generation();
        reconnect.came_up(Instant::now());
        self.state.up(self.generation);
        let mut flight = Flight::new(channel, self.next_no, self.config.confirm_timeout);
        let ended = self.serve(&session, &mut flight, events).await;
        self.next_no = flight.next_no;
        match ended {
            Ok(()) => session.close().await,
            Err(fault) => {
                flight.lose_all(&fault);
                session.abandon(fault.clone());
                return Err(fault);
            }
        }
        Ok(())
    }

    async fn serve(
        &mut self,
        session: &Session,
        flight: &mut Flight,
        mut events: SessionEvents,
    ) -> Result<(), Fault> {
        loop {
            let due = flight.confirm_due();
            let renewal_due = flight.renewal_due();
            tokio::select! {
                biased;
                event = events.next() => self.hear(event, flight)?,
                batch = Answers(&mut flight.answers), if !flight.answers.is_empty() => flight.settle(batch)?,
                () = sleep_until(due), if due.is_some() => return Err(flight.overdue(self.role)),
                () = sleep_until(renewal_due), if renewal_due.is_some() => self.renew(session, flight, &mut events).await?,
                request = self.requests.recv() => match request {
                    Some(request) => {
                        flight.write(request);
                        for _ in 1..WRITE_BURST_COUNT {
                            let Ok(request) = self.requests.try_recv() else { break };
                            flight.write(request);
                        }
                    }
                    None if flight.answers.is_empty() => return Ok(()),
                    None => flight.settle_rest(&mut events).await?,
                },
                () = self.closing.cancelled(), if !self.requests.is_closed() => self.requests.close(),
            }
        }
    }

    fn hear(&mut self, event: SessionEvent, flight: &mut Flight) -> Result<(), Fault> {
        match event {
            SessionEvent::Blocked(reason) => {
                flight.clock.blocked();
                self.state.blocked(self.generation, reason);
            }
            SessionEvent::Unblocked => {
                flight.clock.unblocked(Instant::now());
                self.state.unblocked(self.generation);
            }
            SessionEvent::Lost(fault) => return Err(fault),
        }
        Ok(())
    }

    /// Goes on with a new channel of the same connection, because this one is refused what another may not be (see [`Refusals`]). What is
    /// in flight is answered first, so no message loses its answer and their order stays; where that takes long, because another queue
    /// does not answer, or the broker blocks the connection meanwhile, everything goes on as before and it is tried again later.
    async fn renew(
        &mut self,
        session: &Session,
        flight: &mut Flight,
        events: &mut SessionEvents,
    ) -> Result<(), Fault> {
        let refused = flight.refusals.renewal();
        let give_up_at = Instant::now() + Duration::from_millis(RENEWAL_WAIT_MAX_MILLIS);
        while !flight.answers.is_empty() {
            let due = flight.confirm_due();
            tokio::select! {
                biased;
                event = events.next() => self.hear(event, flight)?,
                batch = Answers(&mut flight.answers) => flight.settle(batch)?,
                () = sleep_until(due), if due.is_some() => return Err(flight.overdue(self.role)),
                () = tokio::time::sleep_until(give_up_at) => return Ok(()),
            }
        }
        let opening = confirming_channel(session);
        tokio::pin!(opening);
        let fresh = loop {
            if flight.clock.reads_since.is_none() {
                return Ok(());
            }
            tokio::select! {
                biased;
                event = events.next() => self.hear(event, flight)?,
                fresh = &mut opening => break fresh?,
            }
        };
        metrics::counter!("switchyard_broker_channels_renewed_total", "role" => self.role).increment(1);
        tracing::warn!(
            role = self.role,
            ?refused,
            "the broker refuses publishes: a new channel is opened, which helps when a queue has a new leader and not when it is full"
        );
        let stale = std::mem::replace(&mut flight.channel, fresh);
        let session = session.clone();
        // Nobody waits for the old one: it may be what does not answer.
        drop(spawn_guarded("stale-channel", async move {
            let closing = session.request(stale.close(CLOSED_IN_ORDER, "made anew".into()));
            if let Err(fault) = closing.await {
                tracing::debug!(%fault, "a channel that was made anew did not close");
            }
        }));
        Ok(())
    }
}

/// Sleeps until a time; for a branch that is off without one.
async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

async fn open(
    config: &BrokerConfig,
    role: &str,
    generation: u64,
) -> Result<(Session, SessionEvents, Channel), Fault> {
    let (session, events) = Session::open_numbered(config, role, generation).await?;
    let channel = confirming_channel(&session).await?;
    Ok((session, events, channel))
}

async fn confirming_channel(session: &Session) -> Result<Channel, Fault> {
    let channel = session.channel().await?;
    session.request(channel.confirm_select(ConfirmSelectOptions::default())).await?;
    Ok(channel)
}

/// A publish that was written and not answered.
struct Pending {
    request: Request,
    written: Instant,
}

/// Until when a confirm is waited for. While the broker has blocked the connection, nothing is confirmed and nothing is wrong.
struct ConfirmClock {
    timeout: Duration,
    /// Since when the broker reads; none while it does not.
    reads_since: Option<Instant>,
}

impl ConfirmClock {
    const fn new(timeout: Duration, now: Instant) -> Self {
        Self { timeout, reads_since: Some(now) }
    }

    const fn blocked(&mut self) {
        self.reads_since = None;
    }

    const fn unblocked(&mut self, now: Instant) {
        self.reads_since = Some(now);
    }

    fn due(&self, written: Instant) -> Option<Instant> {
        Some(self.reads_since?.max(written) + self.timeout)
    }
}

/// Everything in flight on one channel.
struct Flight {
    channel: Channel,
    next_no: PublishNo,
    answers: FuturesUnordered<Answer>,
    /// By number, so the first is the one that waits longest.
    pending: BTreeMap<PublishNo, Pending>,
    book: ConfirmBook,
    clock: ConfirmClock,
    refusals: Refusals,
}

impl Flight {
    fn new(channel: Channel, next_no: PublishNo, confirm_timeout: Duration) -> Self {
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
    fn renewal_due(&self) -> Option<Instant> {
        self.clock.reads_since.and(self.refusals.renewal_due())
    }

    /// When the broker will have owed a confirm for too long. Whether it has the message cannot be known on this connection then, so
    /// the connection must end before anybody may send a copy (protocol B2).
    fn confirm_due(&self) -> Option<Instant> {
        let (_, oldest) = self.pending.first_key_value()?;
        self.clock.due(oldest.written)
    }

    /// What is said of a confirm that did not come: which message it was for, because its queue may be the one that does not answer.
    fn overdue(&self, role: &'static str) -> Fault {
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
    fn write(&mut self, request: Request) {
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
    fn settle(&mut self, batch: Vec<(PublishNo, lapin::Result<Confirmation>)>) -> Result<(), Fault> {
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
    async fn settle_rest(&mut self, events: &mut SessionEvents) -> Result<(), Fault> {
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
    fn lose_all(&mut self, fault: &Fault) {
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
struct Answers<'a>(&'a mut FuturesUnordered<Answer>);

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
