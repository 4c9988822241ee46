//! One POST per connection: enough for batches every few seconds, and nothing to keep alive.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::guard::spawn_guarded;
use crate::tls::TlsFiles;

/// Longest time for one POST.
const POST_MAX: Duration = Duration::from_secs(10);
/// Longest answer that is read.
const ANSWER_MAX_BYTES: usize = 64 * 1024;

/// Why a POST has no answer. Nothing of the request is in it.
#[derive(Debug, thiserror::Error)]
pub(super) enum PostError {
    #[error("the address has no host, or is neither http nor https")]
    Address,
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Tls(#[from] crate::tls::TlsError),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("the answer cannot be read: {0}")]
    Answer(String),
    #[error("no answer within {POST_MAX:?}")]
    Late,
}

/// Sends a request whose address is absolute.
pub(super) async fn post(request: Request<Bytes>) -> Result<Response<Bytes>, PostError> {
    tokio::time::timeout(POST_MAX, exchange(request)).await.unwrap_or(Err(PostError::Late))
}

async fn exchange(request: Request<Bytes>) -> Result<Response<Bytes>, PostError> {
    let uri = request.uri().clone();
    let host = uri.host().ok_or(PostError::Address)?.to_owned();
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let secure = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        Some(_) | None => return Err(PostError::Address),
    };
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let stream = TcpStream::connect((bare.as_str(), port)).await?;
    let request = with_relative_path(request, &uri)?;
    if secure {
        let config = TlsFiles::default().client_config()?;
        let stream = TlsConnector::from(config).connect(TlsFiles::server_name(&bare)?, stream).await?;
        send(stream, request).await
    } else {
        send(stream, request).await
    }
}

/// As HTTP/1.1 wants it: the path in the first line, the host in a header.
fn with_relative_path(request: Request<Bytes>, uri: &Uri) -> Result<Request<Full<Bytes>>, PostError> {
    let (mut parts, body) = request.into_parts();
    let authority = uri.authority().ok_or(PostError::Address)?;
    // Credentials in the address are not part of the host.
    let host = authority.as_str().rsplit('@').next().unwrap_or_default();
    parts.headers.insert(header::HOST, host.parse().map_err(|_| PostError::Address)?);
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    parts.uri = path.parse().map_err(|_| PostError::Address)?;
    Ok(Request::from_parts(parts, Full::new(body)))
}

async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, PostError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It ends when the sender is dropped; what goes wrong in it goes wrong in the request as well.
    let _connection = spawn_guarded("export-connection", connection);
    let (parts, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, ANSWER_MAX_BYTES).collect().await;
    let body = body.map_err(|error| PostError::Answer(error.to_string()))?.to_bytes();
    Ok(Response::from_parts(parts, body))
}
