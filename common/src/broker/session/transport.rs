//! The connection's transport: TCP or TLS with a timeout, a second handle on the socket, and the [`FrameFilter`]
//! between the broker and the client library.
//!
//! The library is generic over its runtime, and the runtime names the type of its TCP streams. [`HardenedReactor`] is
//! Tokio's with another stream type; that is the one way to put something between the socket and the library.

use std::io;
use std::net::{Shutdown as SocketSide, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures::Stream;
use futures::io::{AsyncRead, AsyncWrite};
use futures_rustls::TlsConnector;
use futures_rustls::client::TlsStream;
use lapin::tcp::AsyncTcpStream;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties};

use super::super::settings::BrokerConfig;
use super::wire::FrameFilter;
use crate::tls::{TlsFiles, explained, explained_unheard};

/// How much is read from the socket at once.
const READ_BYTES: usize = 64 * 1024;

type Tcp = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

/// Connects and shakes hands. The TCP connection may take the connect timeout; the handshakes are the caller's to bound, with
/// [`SocketHandle::cut`] to end them.
pub(super) async fn connect(
    uri: AMQPUri,
    properties: ConnectionProperties,
    socket: SocketHandle,
    config: &BrokerConfig,
) -> lapin::Result<Connection> {
    let tokio = Tokio::current();
    let (timeout, files) = (config.connect_timeout, config.tls.clone());
    let runtime = Runtime::new(RuntimeParts::new(tokio.clone(), HardenedReactor(tokio.clone())));
    let transport = async move |uri: AMQPUri, _runtime: Runtime<_>| {
        let plain = Runtime::new(tokio.clone());
        let address = plain.to_socket_addrs((uri.authority.host.clone(), uri.authority.port));
        let connecting = Tcp::connect(&tokio, address);
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no TCP connection in time");
        let stream = tokio::time::timeout(timeout, connecting).await.map_err(late)??;
        if let AsyncTcpStream::Plain(plain) = &stream {
            socket.set(TcpStream::from(plain.get_ref().as_fd().try_clone_to_owned()?));
        }
        let stream = match uri.scheme {
            AMQPScheme::AMQP => Wire::Plain(Box::new(stream)),
            AMQPScheme::AMQPS => {
                Wire::Tls(Box::new(encrypted(stream, &uri.authority.host, files.clone()).await?))
            }
        };
        Ok(AsyncTcpStream::Plain(HardenedStream::new(stream)))
    };
    Connection::connector(uri, runtime, transport, properties).await
}

/// Shakes hands and verifies the server.
async fn encrypted(stream: Tcp, host: &str, files: TlsFiles) -> io::Result<Encrypted> {
    let wrong = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
    let name = TlsFiles::server_name(host).map_err(wrong)?;
    let connector = TlsConnector::from(files.client_config().map_err(wrong)?);
    let inner = connector.connect(name, stream).await.map_err(|error| explained(error, host, &files))?;
    Ok(Encrypted { inner, host: host.to_owned(), files, heard: false })
}

/// A TLS stream whose errors say what to do: in TLS 1.3 a server refuses a client certificate only after the handshake.
struct Encrypted {
    inner: TlsStream<Tcp>,
    host: String,
    files: TlsFiles,
    /// The server has said something since the handshake: it took our certificate.
    heard: bool,
}

impl Encrypted {
    fn told(&self, error: io::Error) -> io::Error {
        let explain = if self.heard { explained } else { explained_unheard };
        explain(error, &self.host, &self.files)
    }
}

/// What frames travel on.
enum Wire {
    Plain(Box<Tcp>),
    Tls(Box<Encrypted>),
}

impl Wire {
    /// The stream as one that writes.
    fn writer(&mut self) -> Pin<&mut (dyn AsyncWrite + Send + Unpin)> {
        match self {
            Self::Plain(stream) => Pin::new(&mut **stream),
            Self::Tls(stream) => Pin::new(&mut stream.inner),
        }
    }

    fn told(&self, error: io::Error) -> io::Error {
        match self {
            Self::Plain(_) => error,
            Self::Tls(stream) => stream.told(error),
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => Pin::new(&mut **stream).poll_read(cx, buffer),
            Self::Tls(stream) => {
                let read = ready!(Pin::new(&mut stream.inner).poll_read(cx, buffer));
                stream.heard |= matches!(read, Ok(1..));
                Poll::Ready(read.map_err(|error| stream.told(error)))
            }
        }
    }
}

/// A second handle on a connection's socket, to end it whatever the library is doing.
#[derive(Clone, Debug, Default)]
pub(super) struct SocketHandle(Arc<Mutex<Option<TcpStream>>>);

impl SocketHandle {
    fn slot(&self) -> MutexGuard<'_, Option<TcpStream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, socket: TcpStream) {
        *self.slot() = Some(socket);
    }

    /// Closes the socket in both directions.
    pub(super) fn cut(&self) {
        if let Some(socket) = self.slot().take() {
            // An error means that it is closed already.
            let _ = socket.shutdown(SocketSide::Both);
        }
    }
}

/// A stream whose reading side passes through the [`FrameFilter`].
pub(super) struct HardenedStream {
    inner: Wire,
    filter: FrameFilter,
    piece: Box<[u8]>,
}

impl HardenedStream {
    fn new(inner: Wire) -> Self {
        Self { inner, filter: FrameFilter::default(), piece: vec![0; READ_BYTES].into_boxed_slice() }
    }
}

impl AsyncRead for HardenedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        while this.filter.is_drained() {
            let count = ready!(this.inner.poll_read(cx, &mut this.piece))?;
            if count == 0 {
                return Poll::Ready(Ok(0));
            }
            let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
            this.filter.push(&this.piece[..count]).map_err(invalid)?;
        }
        Poll::Ready(Ok(this.filter.take(buffer)))
    }
}

impl AsyncWrite for HardenedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wire = &mut self.get_mut().inner;
        wire.writer().poll_write(cx, bytes).map_err(|error| wire.told(error))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wire = &mut self.get_mut().inner;
        wire.writer().poll_write_vectored(cx, pieces).map_err(|error| wire.told(error))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = &mut self.get_mut().inner;
        wire.writer().poll_flush(cx).map_err(|error| wire.told(error))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().inner.writer().poll_close(cx)
    }
}

/// Tokio's reactor with [`HardenedStream`] as its stream.
#[derive(Clone, Debug)]
pub(super) struct HardenedReactor(Tokio);

impl Reactor for HardenedReactor {
    type TcpStream = HardenedStream;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: io::Read + io::Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        async move { Ok(HardenedStream::new(Wire::Plain(Box::new(AsyncTcpStream::Plain(connecting.await?))))) }
    }
}
