//! The task behind a [`ConsumeConnection`](super::ConsumeConnection): connects, runs the setup, reconnects.

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::consumer::Setup;
use super::fault::Fault;
use super::reconnect::Reconnect;
use super::session::{Session, SessionEvent, SessionEvents};
use super::settings::BrokerConfig;
use super::state::{ConnectionState, StateSender};
use crate::guard::catch_panic;

pub(super) struct ConsumeLink {
    config: BrokerConfig,
    role: &'static str,
    setup: Setup,
    closing: CancellationToken,
    state: StateSender,
    sessions: watch::Sender<Option<Session>>,
    generation: u64,
}

impl ConsumeLink {
    pub(super) fn new(
        config: BrokerConfig,
        role: &'static str,
        setup: Setup,
        closing: CancellationToken,
    ) -> (Self, watch::Receiver<Option<Session>>, watch::Receiver<ConnectionState>) {
        let (state, states) = StateSender::new(role, config.masked_url());
        let (sessions, received) = watch::channel(None);
        (Self { config, role, setup, closing, state, sessions, generation: 0 }, received, states)
    }

    /// Connection after connection, until closed.
    pub(super) async fn run(mut self) {
        let mut reconnect = Reconnect::new(self.config.reconnect);
        loop {
            let ended = catch_panic(self.one_connection(&mut reconnect)).await;
            self.sessions.send_replace(None);
            let fault = match ended {
                Ok(Ok(())) => break,
                Ok(Err(fault)) => fault,
                Err(capture) => {
                    tracing::error!(role = self.role, %capture, "the consumer's connection task panicked");
                    Fault::local(capture.to_string())
                }
            };
            let delay = reconnect.next_delay(Instant::now(), &mut rand::rng());
            self.state.down(&fault, delay);
            tokio::select! {
                () = self.closing.cancelled() => break,
                () = tokio::time::sleep(delay) => {}
            }
        }
        self.state.closed();
    }

    /// One connection from open to end. `Ok` when it was closed on purpose.
    async fn one_connection(&mut self, reconnect: &mut Reconnect) -> Result<(), Fault> {
        let (session, mut events) = tokio::select! {
            opened = Session::open_numbered(&self.config, self.role, self.generation + 1) => opened?,
            () = self.closing.cancelled() => return Ok(()),
        };
        let closing = self.closing.clone();
        let lived = tokio::select! {
            lived = self.live(&session, &mut events, reconnect) => lived,
            () = closing.cancelled() => Ok(()),
        };
        self.sessions.send_replace(None);
        match lived {
            // The subscriptions end first: each sends its last acks and closes its channel.
            Ok(()) => session.close().await,
            Err(fault) => {
                session.abandon(fault.clone());
                return Err(fault);
            }
        }
        Ok(())
    }

    /// Sets the connection up, hands it to the subscriptions, and waits for its end.
    async fn live(
        &mut self,
        session: &Session,
        events: &mut SessionEvents,
        reconnect: &mut Reconnect,
    ) -> Result<(), Fault> {
        loop {
            tokio::select! {
                biased;
                event = events.next() => if let SessionEvent::Lost(fault) = event { return Err(fault) },
                ready = self.set_up(session, reconnect) => { ready?; break }
            }
        }
        self.generation = session.generation();
        reconnect.came_up(Instant::now());
        self.state.up(self.generation);
        self.sessions.send_replace(Some(session.clone()));
        loop {
            // A blocked connection matters to publishers only: acks pass, or wait without harm.
            if let SessionEvent::Lost(fault) = events.next().await {
                return Err(fault);
            }
        }
    }

    /// Runs the setup until it succeeds; each try uses the same connection, so that a lock that somebody else holds
    /// does not make us reconnect for nothing.
    async fn set_up(&mut self, session: &Session, reconnect: &mut Reconnect) -> Result<(), Fault> {
        loop {
            let error = match (self.setup)(session.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let delay = reconnect.next_delay(Instant::now(), &mut rand::rng());
            self.state.down(&Fault::local(format!("setup failed: {error}")), delay);
            tokio::time::sleep(delay).await;
            if !session.is_alive() {
                return Err(Fault::local(format!("the connection ended during setup: {error}")));
            }
        }
    }
}
