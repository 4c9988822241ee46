//! One live connection to the broker, from its handshake to its end. It never recovers: whoever owns it opens the
//! next one.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use lapin::{Channel, Connection, ConnectionProperties, Event};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::fault::Fault;
use super::limits::CLOSE_MAX_MILLIS;
use super::settings::{BrokerConfig, BrokerConfigError};
use transport::{SocketHandle, connect};

pub mod raw;
mod transport;
mod wire;

/// How often a connection is looked at, should the library not have announced its end.
const STATUS_CHECK_MILLIS: u64 = 250;

/// Why a session could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The settings are wrong; another try cannot help.
    #[error(transparent)]
    Config(#[from] BrokerConfigError),
    /// The broker could not be reached, or refused.
    #[error("{0}")]
    Fault(Fault),
}

impl From<OpenError> for Fault {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Config(error) => Self::local(error.to_string()),
            OpenError::Fault(fault) => fault,
        }
    }
}

/// A live connection. Clones are the same connection.
#[derive(Clone, Debug)]
pub struct Session {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    connection: Connection,
    socket: SocketHandle,
    request_timeout: Duration,
    generation: u64,
    lost: CancellationToken,
    fault: OnceLock<Fault>,
}

/// What happens on a connection besides requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SessionEvent {
    /// The broker has stopped reading from this connection (memory or disk alarm).
    Blocked(String),
    /// It reads again.
    Unblocked,
    /// The connection has ended.
    Lost(Fault),
}

/// The events of one session, for its owner.
pub(super) struct SessionEvents {
    session: Session,
    events: Pin<Box<dyn Stream<Item = Event> + Send>>,
    check: Interval,
}

impl Session {
    /// Connects once, without supervision or retry: for command-line tools, and for the supervised connections to
    /// build on. `role` is added to the connection's name.
    ///
    /// # Errors
    /// When the settings are wrong or the broker cannot be reached.
    pub async fn open(config: &BrokerConfig, role: &str) -> Result<Self, OpenError> {
        Ok(Self::open_numbered(config, role, 1).await?.0)
    }

    /// As [`open`](Self::open), with a number that tells this session from earlier ones of the same owner.
    pub(super) async fn open_numbered(
        config: &BrokerConfig,
        role: &str,
        generation: u64,
    ) -> Result<(Self, SessionEvents), OpenError> {
        let uri = config.uri()?;
        let name = format!("{} ({role})", config.connection_name);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let socket = SocketHandle::default();
        let connecting = connect(uri, properties, socket.clone(), config);
        let connection = match tokio::time::timeout(config.connect_timeout * 2, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(OpenError::Fault(Fault::from(error))),
            Err(_) => {
                // The library has no handshake timeout; without this its thread would wait for ever.
                socket.cut();
                return Err(OpenError::Fault(Fault::local("no answer to the AMQP handshake in time")));
            }
        };
        let events = Box::pin(connection.events_listener());
        let inner = Inner {
            connection,
            socket,
            request_timeout: config.request_timeout,
            generation,
            lost: CancellationToken::new(),
            fault: OnceLock::new(),
        };
        let session = Self { inner: Arc::new(inner) };
        let mut check = tokio::time::interval(Duration::from_millis(STATUS_CHECK_MILLIS));
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok((session.clone(), SessionEvents { session, events, check }))
    }

    /// The number of this session among those of its owner.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.inner.generation
    }

    /// Opens a channel.
    ///
    /// # Errors
    /// When the connection has ended or does not answer.
    pub async fn channel(&self) -> Result<Channel, Fault> {
        self.request(self.inner.connection.create_channel()).await
    }

    /// Awaits a request of the client library, but not for ever.
    ///
    /// # Errors
    /// The library's error, or that no answer came within the request timeout.
    pub async fn request<T>(&self, request: impl Future<Output = lapin::Result<T>>) -> Result<T, Fault> {
        self.request_within(self.inner.request_timeout, request).await
    }

    /// As [`request`](Self::request), with a limit of its own where that is shorter.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub(super) async fn request_within<T>(
        &self,
        limit: Duration,
        request: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, Fault> {
        let limit = limit.min(self.inner.request_timeout);
        tokio::select! {
            biased;
            answer = request => answer.map_err(Fault::from),
            () = self.inner.lost.cancelled() => Err(self.fault()),
            () = tokio::time::sleep(limit) => Err(Fault::no_answer(limit)),
        }
    }

    /// Completes when the connection has ended, with the reason.
    pub async fn lost(&self) -> Fault {
        self.inner.lost.cancelled().await;
        self.fault()
    }

    /// True while the connection is usable.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.inner.lost.is_cancelled() && self.inner.connection.status().connected()
    }

    /// Closes the connection, with the broker's consent if it gives that soon.
    pub async fn close(&self) {
        let closing = self.inner.connection.close(200, "closed by the client".into());
        if let Err(fault) = self.request_within(Duration::from_millis(CLOSE_MAX_MILLIS), closing).await {
            tracing::debug!(%fault, "the connection did not close cleanly");
        }
        self.end(Fault::local("closed by the client"));
    }

    /// Gives the connection up without asking the broker.
    pub(super) fn abandon(&self, fault: Fault) {
        self.end(fault);
    }

    fn fault(&self) -> Fault {
        self.inner.fault.get().cloned().unwrap_or_else(|| Fault::local("the connection has ended"))
    }

    /// Marks the connection as ended and cuts its socket. The first reason stays.
    fn end(&self, fault: Fault) {
        let _ = self.inner.fault.set(fault);
        self.inner.lost.cancel();
        self.inner.socket.cut();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.lost.cancel();
    }
}

impl SessionEvents {
    /// The next event. Cancellation-safe. After [`SessionEvent::Lost`] the same is returned again.
    pub(super) async fn next(&mut self) -> SessionEvent {
        loop {
            if self.session.inner.lost.is_cancelled() {
                return SessionEvent::Lost(self.session.fault());
            }
            let event = tokio::select! {
                event = self.events.next() => event,
                () = self.session.inner.lost.cancelled() => continue,
                _ = self.check.tick() => {
                    if self.session.inner.connection.status().connected() {
                        continue;
                    }
                    None
                }
            };
            match event {
                Some(Event::ConnectionBlocked(reason)) => return SessionEvent::Blocked(reason),
                Some(Event::ConnectionUnblocked) => return SessionEvent::Unblocked,
                Some(Event::Error(error)) if !self.session.inner.connection.status().connected() => {
                    self.session.end(Fault::from(error));
                }
                // Errors of single channels are seen where the channel is used; the rest needs no answer.
                Some(_) => {}
                None => self.session.end(Fault::local("the connection has ended")),
            }
        }
    }
}
