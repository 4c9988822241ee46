//! Who may read what is somebody's: everything under `/api`. Probes and metrics are open to whoever reaches the port.
//!
//! With tokens configured, every request must carry one; to change something, an operator's. Without any, only an address of loopback serves `/api` at all, and only to
//! requests that name a loopback host: a web page that a browser on this machine shows must not be able to read it by a name that
//! resolves to 127.0.0.1.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::tokens::{Caller, Role, Tokens};

/// The rule of one listener.
#[derive(Debug, Clone)]
pub enum Access {
    /// Whoever carries one of the tokens.
    Token(Arc<Tokens>),
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
    /// The token is a viewer's, and the request would change something.
    Role,
    /// The host that the request names is not this machine.
    Host,
    /// No token is configured.
    Closed,
}

impl Access {
    /// The rule for a listener on `address`.
    #[must_use]
    pub fn of(address: SocketAddr, tokens: Option<Arc<Tokens>>) -> Self {
        match tokens {
            Some(tokens) => Self::Token(tokens),
            None if address.ip().is_loopback() => Self::Loopback,
            None => Self::Closed,
        }
    }

    /// Whether a request with this method and these headers may pass, and who makes it.
    ///
    /// # Errors
    /// Why it may not.
    pub fn check(&self, method: &Method, headers: &HeaderMap) -> Result<Caller, Refused> {
        let text = |name| headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
        match self {
            Self::Token(tokens) => {
                let given = text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
                let caller = given.and_then(|given| tokens.caller(given)).ok_or(Refused::Token)?;
                if caller.role >= needed(method) { Ok(caller) } else { Err(Refused::Role) }
            }
            Self::Loopback if text(header::HOST).is_some_and(is_this_machine) => {
                Ok(Caller { name: "loopback".to_owned(), role: Role::Operator })
            }
            Self::Loopback => Err(Refused::Host),
            Self::Closed => Err(Refused::Closed),
        }
    }
}

/// The role that a method needs: whatever is not known to only read may change something.
fn needed(method: &Method) -> Role {
    if method.is_safe() { Role::Viewer } else { Role::Operator }
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
pub(super) async fn guard(State(access): State<Access>, mut request: Request, next: Next) -> Response {
    let refused = match access.check(request.method(), request.headers()) {
        Ok(caller) => {
            // Whoever changes something writes the caller's name to the audit log.
            request.extensions_mut().insert(caller);
            return next.run(request).await;
        }
        Err(refused) => refused,
    };
    metrics::counter!("switchyard_http_refused_total").increment(1);
    match refused {
        Refused::Token => (
            StatusCode::UNAUTHORIZED,
            [(header::WWW_AUTHENTICATE, "Bearer")],
            "send a token of SWITCHYARD_HTTP_TOKENS_FILE: Authorization: Bearer ...\n",
        )
            .into_response(),
        Refused::Role => {
            (StatusCode::FORBIDDEN, "this token is a viewer's: to change something takes an operator's\n")
                .into_response()
        }
        Refused::Host => {
            (StatusCode::FORBIDDEN, "name this machine by localhost or 127.0.0.1\n").into_response()
        }
        Refused::Closed => (
            StatusCode::FORBIDDEN,
            "this address can be reached from elsewhere: /api needs SWITCHYARD_HTTP_TOKENS_FILE\n",
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
        let tokens = Tokens::new(Some(&switchyard_common::config::Secret::new("sesame")), None).unwrap();
        let access = Access::of("127.0.0.1:1".parse().unwrap(), Some(Arc::new(tokens)));
        let with = |value: &str| {
            access.check(&Method::GET, &headers(&[(header::AUTHORIZATION, value)])).map(|caller| caller.role)
        };
        assert_eq!(with("Bearer sesame"), Ok(Role::Viewer));
        let change = access.check(&Method::POST, &headers(&[(header::AUTHORIZATION, "Bearer sesame")]));
        assert_eq!(change, Err(Refused::Role));
        for wrong in ["Bearer sesam", "Bearer ", "sesame", "Basic sesame", "Bearer sesame2"] {
            assert_eq!(with(wrong), Err(Refused::Token), "{wrong}");
        }
        assert_eq!(access.check(&Method::GET, &headers(&[(header::HOST, "localhost")])), Err(Refused::Token));
        assert!(!format!("{access:?}").contains("sesame"));
    }

    #[test]
    fn without_a_token_only_this_machine_by_its_own_name_passes() {
        let access = Access::of("127.0.0.1:9080".parse().unwrap(), None);
        let host = |name: &str| {
            access.check(&Method::GET, &headers(&[(header::HOST, name)])).map(|caller| caller.role)
        };
        for own in ["localhost:9080", "127.0.0.1", "127.0.0.1:9080", "[::1]:9080", "[::1]"] {
            assert_eq!(host(own), Ok(Role::Operator), "{own}");
        }
        for other in ["evil.example:9080", "10.0.0.1", "127.0.0.1.evil.example"] {
            assert_eq!(host(other), Err(Refused::Host), "{other}");
        }
        assert_eq!(access.check(&Method::GET, &HeaderMap::new()), Err(Refused::Host));
        let open = Access::of("0.0.0.0:9080".parse().unwrap(), None);
        assert_eq!(open.check(&Method::GET, &headers(&[(header::HOST, "localhost")])), Err(Refused::Closed));
    }
}
