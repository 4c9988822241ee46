//! A server that shows a certificate of the test's choice and does nothing else.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use switchyard_common::guard::spawn_guarded;
use switchyard_tests::harness::certificates::Issued;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// What precedes TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Greeting {
    /// Nothing.
    None,
    /// PostgreSQL's question whether TLS is spoken, which is answered with yes.
    Postgres,
}

/// Bytes of PostgreSQL's question.
const QUESTION_BYTES: usize = 8;

/// Listens on a free port until the test's runtime ends.
pub(crate) async fn impostor(shown: &Issued, greeting: Greeting) -> anyhow::Result<u16> {
    let chain = vec![CertificateDer::from_pem_slice(shown.cert.as_bytes())?];
    let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes())?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    drop(spawn_guarded("impostor", async move {
        while let Ok((stream, _)) = listener.accept().await {
            // The client turns away; there is nothing to do with the error.
            let _ = serve(&acceptor, stream, greeting).await;
        }
    }));
    Ok(port)
}

async fn serve(acceptor: &TlsAcceptor, mut stream: TcpStream, greeting: Greeting) -> std::io::Result<()> {
    if greeting == Greeting::Postgres {
        stream.read_exact(&mut [0; QUESTION_BYTES]).await?;
        stream.write_all(b"S").await?;
    }
    let mut stream = acceptor.accept(stream).await?;
    stream.read_exact(&mut [0; 1]).await.map(drop)
}
