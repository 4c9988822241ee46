//! The task behind a [`Publisher`](super::Publisher): connects, writes in order, matches confirms, reconnects.
//!
//! A single task writes, because the client library numbers a publish and queues its frames in two steps: two tasks
//! publishing on one channel could swap their confirms.

use std::time::Duration;

use lapin::Channel;
use lapin::options::ConfirmSelectOptions;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::confirms::PublishNo;
use super::fault::{Fault, code};
use super::flight::{Answers, Flight};
use super::limits::RENEWAL_WAIT_MAX_MILLIS;
use super::publisher::Request;
use super::reconnect::Reconnect;
use super::session::{Session, SessionEvent, SessionEvents};
use super::settings::BrokerConfig;
use super::state::{ConnectionState, StateSender};
use crate::guard::{catch_panic, spawn_guarded};

/// Wait after the broker has said that an exchange does not exist: somebody has to declare it first, which no hurry brings about.
const MISSING_DELAY: Duration = Duration::from_secs(2);
/// The reply code of a channel that is closed in order.
const CLOSED_IN_ORDER: u16 = 200;
/// Most requests written before confirms are looked at again.
const WRITE_BURST_COUNT: usize = 64;

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

    /// Goes on with a new channel of the same connection, because this one is refused what another may not be (see [`super::refusals`]). What is
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
