//! One request to the management API: HTTP/1.1, one connection each, over TCP or TLS.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use switchyard_common::config::Secret;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Most bytes of an answer that are read.
const ANSWER_MAX_BYTES: u64 = 1024 * 1024;
/// The port of the management plugin without TLS.
const PORT_DEFAULT: u16 = 15_672;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// Post.
    Post,
    /// Delete.
    Delete,
}

impl Method {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The status code.
    pub(super) status: u16,
    /// Whatever follows the head.
    pub(super) body: String,
}

/// A URL in its parts.
#[derive(Debug, PartialEq, Eq)]
struct Place<'a> {
    user: &'a str,
    password: &'a str,
    host: &'a str,
    port: u16,
}

/// Asks once.
pub(super) async fn ask(url: &Secret, method: Method, path: &str, body: &str) -> io::Result<Answer> {
    let place = parse(url.expose()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "expected http://user:password@host:15672")
    })?;
    let stream = TcpStream::connect((place.host, place.port)).await?;
    exchange(stream, &request(&place, method, path, body)).await
}

fn parse(url: &str) -> Option<Place<'_>> {
    let rest = url.trim().strip_prefix("http://")?.trim_end_matches('/');
    let (userinfo, place) = rest.rsplit_once('@')?;
    let (user, password) = userinfo.split_once(':')?;
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (place, PORT_DEFAULT),
    };
    (!host.is_empty()).then_some(Place { user, password, host, port })
}

fn request(place: &Place<'_>, method: Method, path: &str, body: &str) -> String {
    let Place { user, password, host, port } = place;
    let credentials = STANDARD.encode(format!("{user}:{password}"));
    format!(
        "{} {path} HTTP/1.1\r\nhost: {host}:{port}\r\nauthorization: Basic {credentials}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        method.as_str(),
        body.len()
    )
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, request: &str) -> io::Result<Answer> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX_BYTES).read_to_end(&mut answer).await?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    let status =
        status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP"))?;
    Ok(Answer { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_user_password_host_and_perhaps_a_port() {
        let place = parse("http://u:p:w@h:99/").unwrap();
        assert_eq!(place, Place { user: "u", password: "p:w", host: "h", port: 99 });
        assert_eq!(parse("http://u:p@h").unwrap().port, PORT_DEFAULT);
        for wrong in ["h:99", "http://h", "http://u@h", "http://u:p@:99", "http://u:p@h:x"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn the_status_and_the_body_are_read() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let server = async {
            let mut asked = [0; 4];
            theirs.read_exact(&mut asked).await.unwrap();
            theirs.write_all(b"HTTP/1.1 404 Not Found\r\nx: y\r\n\r\n{}").await.unwrap();
            drop(theirs);
            asked
        };
        let (answer, asked) = tokio::join!(exchange(ours, "POST"), server);
        assert_eq!((answer.unwrap(), &asked), (Answer { status: 404, body: "{}".into() }, b"POST"));
    }
}
