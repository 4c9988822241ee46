//! The server.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use switchyard_common::shutdown::Shutdown;
use switchyard_common::telemetry::Metrics;
use tokio::net::TcpListener;

use super::access::{self, Access};
use super::artifacts;
use super::tokens::Tokens;
use crate::readiness::Readiness;
use crate::store::Db;

/// What the server answers from.
#[derive(Clone)]
pub struct Api {
    /// The conditions of readiness.
    pub readiness: Readiness,
    /// The metrics of this process; none where no recorder is installed.
    pub metrics: Option<Metrics>,
    /// The store.
    pub db: Db,
    /// What requests under `/api` must carry; none where nothing is configured.
    pub tokens: Option<Arc<Tokens>>,
}

/// Listens on `address` and serves until shutdown.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn run(api: Api, address: SocketAddr, shutdown: Shutdown) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await.map_err(|error| {
        let told = format!("cannot listen on {address} (SWITCHYARD_HTTP_LISTEN): {error}");
        std::io::Error::new(error.kind(), told)
    })?;
    serve(api, listener, shutdown).await
}

/// Serves on a listener that the caller owns.
///
/// # Errors
/// When the listener fails.
pub async fn serve(api: Api, listener: TcpListener, shutdown: Shutdown) -> std::io::Result<()> {
    let address = listener.local_addr()?;
    tracing::info!(%address, "HTTP is served");
    let access = Access::of(address, api.tokens.clone());
    let token = shutdown.token();
    axum::serve(listener, router(api, access)).with_graceful_shutdown(token.cancelled_owned()).await
}

/// The routes.
pub fn router(api: Api, access: Access) -> Router {
    let guarded = Router::new()
        .route("/tasks/{task}/artifacts", get(artifacts::list))
        .route("/tasks/{task}/artifacts/{name}", get(artifacts::bytes))
        .layer(middleware::from_fn_with_state(access, access::guard));
    Router::new()
        .nest("/api/v1", guarded)
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(api)
}

/// The process runs and answers; nothing else is meant, so that a broker or database that is away restarts nothing.
async fn livez() -> &'static str {
    "ok\n"
}

async fn readyz(State(api): State<Api>) -> Response {
    let report = api.readiness.report();
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(report)).into_response()
}

async fn metrics(State(api): State<Api>) -> Response {
    match api.metrics {
        Some(metrics) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.render()).into_response()
        }
        None => (StatusCode::NOT_FOUND, "no metrics are recorded by this process\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::readiness::Condition;
    use crate::store::DbConfig;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn api(readiness: Readiness) -> Api {
        let url = "postgresql://u:p@127.0.0.1:1/never-connected".to_owned();
        let db = Db::new(&DbConfig {
            url,
            tls: switchyard_common::tls::TlsFiles::default(),
            connections_max: 1,
            replica: uuid::Uuid::nil(),
            plans: crate::store::Plans::Free,
            notifies: true,
        })
        .unwrap();
        Api { readiness, metrics: None, db, tokens: None }
    }

    #[tokio::test]
    async fn an_address_in_use_is_named_with_the_variable_that_sets_it() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let served = run(api(Readiness::default()), address, Shutdown::new(Duration::from_secs(1))).await;
        let told = served.unwrap_err().to_string();
        assert!(told.contains(&address.to_string()) && told.contains("SWITCHYARD_HTTP_LISTEN"), "{told}");
    }

    #[tokio::test]
    async fn alive_at_once_ready_only_when_everything_holds() {
        let readiness = Readiness::default();
        let shutdown = Shutdown::new(Duration::from_secs(1));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let api = api(readiness.clone());
        let client = async {
            assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
            let answer = get(address, "/readyz").await;
            assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
            assert!(answer.contains(r#""recovery":"not checked yet""#), "{answer}");
            Condition::ALL.into_iter().for_each(|condition| readiness.set(condition, Ok(())));
            assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
            assert!(get(address, "/metrics").await.starts_with("HTTP/1.1 404"));
            shutdown.trigger("test");
        };
        let (served, ()) = tokio::join!(serve(api, listener, shutdown.clone()), client);
        served.unwrap();
    }
}
