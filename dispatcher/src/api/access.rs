//! Who may read what is somebody's: everything under `/api`. Probes and metrics are open to whoever reaches the port.
//!
//! With a token configured, every request must carry it. Without one, only an address of loopback serves `/api` at all, and only to
//! requests that name a loopback host: a web page that a browser on this machine shows must not be able to read it by a name that
//! resolves to 127.0.0.1.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use switchyard_common::config::Secret;
use switchyard_common::contract::ids::Digest;

/// The rule of one listener.
#[derive(Debug, Clone)]
pub enum Access {
    /// Whoever carries the token whose digest this is.
    Token(Arc<Digest>),
    /// Whoever is on this machine.
    Loopback,
    /// Nobody: the listener can be reached from elsewhere, and no token is configured.
    Closed,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The token is missing or wrong.
    Token,
    /// The host that the request names is not this machine.
    Host,
    /// No token is configured.
    Closed,
}

impl Access {
    /// The rule for a listener on `address`.
    #[must_use]
    pub fn of(address: SocketAddr, token: Option<&Secret>) -> Self {
        match token {
            // Digests are compared, not tokens: how long a comparison takes then says nothing about the token.
            Some(token) => Self::Token(Arc::new(Digest::of(token.expose().as_bytes()))),
            None if address.ip().is_loopback() => Self::Loopback,
            None => Self::Closed,
        }
    }

    /// Whether a request with these headers may pass.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Refused> {
        let text = |name| headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
        match self {
            Self::Token(wanted) => {
                let given = text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
                let matches = given.is_some_and(|given| Digest::of(given.trim().as_bytes()) == **wanted);
                if matches { Ok(()) } else { Err(Refused::Token) }
            }
            Self::Loopback if text(header::HOST).is_some_and(is_this_machine) => Ok(()),
            Self::Loopback => Err(Refused::Host),
            Self::Closed => Err(Refused::Closed),
        }
    }
}

/// Whether a Host header names loopback.
fn is_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) | None => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The layer in front of `/api`.
pub(super) async fn guard(State(access): State<Access>, request: Request, next: Next) -> Response {
    let Err(refused) = access.check(request.headers()) else { return next.run(request).await };
    metrics::counter!("switchyard_http_refused_total").increment(1);
    match refused {
        Refused::Token => (
            StatusCode::UNAUTHORIZED,
            [(header::WWW_AUTHENTICATE, "Bearer")],
            "send the token of SWITCHYARD_HTTP_TOKEN: Authorization: Bearer ...\n",
        )
            .into_response(),
        Refused::Host => (StatusCode::FORBIDDEN, "name this machine by localhost or 127.0.0.1\n").into_response(),
        Refused::Closed => (
            StatusCode::FORBIDDEN,
            "this address can be reached from elsewhere: /api needs SWITCHYARD_HTTP_TOKEN or SWITCHYARD_HTTP_TOKEN_FILE\n",
        )
            .into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn with_a_token_only_that_token_passes() {
        let access = Access::of("127.0.0.1:1".parse().unwrap(), Some(&Secret::new("sesame")));
        let with = |value: &str| access.check(&headers(&[(header::AUTHORIZATION, value)]));
        assert_eq!(with("Bearer sesame"), Ok(()));
        for wrong in ["Bearer sesam", "Bearer ", "sesame", "Basic sesame", "Bearer sesame2"] {
            assert_eq!(with(wrong), Err(Refused::Token), "{wrong}");
        }
        assert_eq!(access.check(&headers(&[(header::HOST, "localhost")])), Err(Refused::Token));
        assert!(!format!("{access:?}").contains("sesame"));
    }

    #[test]
    fn without_a_token_only_this_machine_by_its_own_name_passes() {
        let access = Access::of("127.0.0.1:9080".parse().unwrap(), None);
        let host = |name: &str| access.check(&headers(&[(header::HOST, name)]));
        for own in ["localhost:9080", "127.0.0.1", "127.0.0.1:9080", "[::1]:9080", "[::1]"] {
            assert_eq!(host(own), Ok(()), "{own}");
        }
        for other in ["evil.example:9080", "10.0.0.1", "127.0.0.1.evil.example"] {
            assert_eq!(host(other), Err(Refused::Host), "{other}");
        }
        assert_eq!(access.check(&HeaderMap::new()), Err(Refused::Host));
        let open = Access::of("0.0.0.0:9080".parse().unwrap(), None);
        assert_eq!(open.check(&headers(&[(header::HOST, "localhost")])), Err(Refused::Closed));
    }
}
