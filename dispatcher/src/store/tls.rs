//! TLS to the database: on when a CA or client certificate is named or the URL asks for it, and then always verified, name and all.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use switchyard_common::tls::{TlsFiles, explained};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::StoreError;

/// The options of a URL, with the modes of libpq that ask for TLS read as what they are here: verified TLS.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "an enum of the library, which may grow: what it adds is treated like what is unsafe"
)]
pub(super) fn options(url: &str, files: &TlsFiles) -> Result<tokio_postgres::Config, StoreError> {
    let wrong = |text: &str| StoreError::Statement(text.into());
    let url =
        url.replace("sslmode=verify-full", "sslmode=require").replace("sslmode=verify-ca", "sslmode=require");
    let mut options: tokio_postgres::Config = url.parse().map_err(|_| {
        wrong("the database URL cannot be read: expected postgresql://user:password@host:port/name")
    })?;
    match options.get_ssl_mode() {
        SslMode::Require => {}
        SslMode::Disable if files.any() => {
            return Err(wrong(
                "the database URL says sslmode=disable, but certificates are named in SWITCHYARD_DATABASE_..._FILE: \
                 take one of the two away",
            ));
        }
        _ if files.any() => {
            options.ssl_mode(SslMode::Require);
        }
        // "prefer" would encrypt without knowing to whom, and go without where somebody in between says no.
        _ => {
            options.ssl_mode(SslMode::Disable);
        }
    }
    Ok(options)
}

/// Makes TLS connections with the files as they are at that moment.
#[derive(Debug, Clone)]
pub(super) struct DatabaseTls {
    /// The files.
    pub(super) files: TlsFiles,
}

impl<S> MakeTlsConnect<S> for DatabaseTls
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = DatabaseStream<S>;
    type TlsConnect = Connect;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> Result<Connect, io::Error> {
        Ok(Connect { files: self.files.clone(), host: host.to_owned() })
    }
}

/// One handshake that is about to be made.
pub(super) struct Connect {
    files: TlsFiles,
    host: String,
}

impl<S> TlsConnect<S> for Connect
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = DatabaseStream<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<DatabaseStream<S>, io::Error>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let wrong = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
            let name = TlsFiles::server_name(&self.host).map_err(wrong)?;
            let connector = TlsConnector::from(self.files.client_config().map_err(wrong)?);
            let connected = connector.connect(name, stream).await;
            let inner = connected.map_err(|error| explained(error, &self.host, &self.files))?;
            Ok(DatabaseStream { inner, files: self.files, host: self.host })
        })
    }
}

/// A TLS stream whose errors say what to do: in TLS 1.3 a server refuses a client certificate only after the handshake.
pub(super) struct DatabaseStream<S> {
    inner: TlsStream<S>,
    files: TlsFiles,
    host: String,
}

impl<S: AsyncRead + AsyncWrite + Unpin> tokio_postgres::tls::TlsStream for DatabaseStream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        // The certificate was verified against a CA and the host's name, which says as much.
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for DatabaseStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        Pin::new(&mut this.inner)
            .poll_read(cx, buffer)
            .map_err(|error| explained(error, &this.host, &this.files))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for DatabaseStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_on_when_it_is_asked_for_and_never_without_verification() {
        let none = TlsFiles::default();
        let some = TlsFiles { ca: Some("/ca".into()), ..TlsFiles::default() };
        let mode = |query: &str, files: &TlsFiles| {
            options(&format!("postgres://u:p@h/d{query}"), files).map(|options| options.get_ssl_mode())
        };
        assert_eq!(mode("", &none).unwrap(), SslMode::Disable);
        assert_eq!(mode("?sslmode=prefer", &none).unwrap(), SslMode::Disable);
        for asked in ["?sslmode=require", "?sslmode=verify-full", "?sslmode=verify-ca"] {
            assert_eq!(mode(asked, &none).unwrap(), SslMode::Require);
        }
        assert_eq!(mode("", &some).unwrap(), SslMode::Require);
        assert!(mode("?sslmode=disable", &some).is_err());
    }
}
