//! The server. It serves until the agent has ended, so that a drain can be watched.

use std::net::SocketAddr;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics::{describe_counter, describe_gauge, gauge};
use switchyard_common::guard::{GuardedTask, spawn_guarded};
use switchyard_common::telemetry::Metrics;
use tokio::net::TcpListener;

use super::vitals::{Report, Vitals};
use crate::shell::boot_now;

/// What the server answers from.
#[derive(Debug, Clone)]
pub struct Health {
    /// How the agent is.
    pub vitals: Vitals,
    /// The metrics of this process; none where the recorder belongs to somebody else.
    pub metrics: Option<Metrics>,
}

impl Health {
    /// Listens on `address` and serves in a task of its own, until that is aborted.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn start(self, address: SocketAddr) -> std::io::Result<GuardedTask<std::io::Result<()>>> {
        let listener = TcpListener::bind(address).await?;
        tracing::info!(address = %listener.local_addr()?, "HTTP is served");
        describe();
        let router = self.router();
        Ok(spawn_guarded("agent-http", async move { axum::serve(listener, router).await }))
    }

    fn router(self) -> Router {
        Router::new()
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/metrics", get(rendered))
            .with_state(self)
    }
}

/// The driver turns; a broker that is away is no reason to start the process anew.
async fn livez(State(health): State<Health>) -> (StatusCode, &'static str) {
    match health.vitals.report(boot_now()).alive {
        true => (StatusCode::OK, "ok\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "the agent's loop does not turn\n"),
    }
}

async fn readyz(State(health): State<Health>) -> Response {
    let report = health.vitals.report(boot_now());
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(report)).into_response()
}

async fn rendered(State(health): State<Health>) -> Response {
    let Some(metrics) = health.metrics else {
        return (StatusCode::NOT_FOUND, "no metrics are recorded by this process\n").into_response();
    };
    set(&health.vitals.report(boot_now()));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.render()).into_response()
}

/// Gauges are set when they are asked for: between two scrapes nobody sees them.
fn set(report: &Report) {
    let count = |count: usize| u32::try_from(count).map_or(f64::INFINITY, f64::from);
    gauge!("switchyard_agent_in_hand").set(count(report.in_hand));
    gauge!("switchyard_agent_slots").set(f64::from(report.slots));
    gauge!("switchyard_agent_ready").set(f64::from(u8::from(report.ready)));
    gauge!("switchyard_agent_consuming").set(f64::from(u8::from(report.broker_connected)));
    if let Some(age) = report.heartbeat_age_seconds {
        gauge!("switchyard_agent_heartbeat_age_seconds").set(age);
    }
}

fn describe() {
    describe_gauge!("switchyard_agent_in_hand", "Attempts in hand, from delivery to the confirmed outcome.");
    describe_gauge!("switchyard_agent_slots", "Handlers that run at the same time at most.");
    describe_gauge!("switchyard_agent_ready", "1 while the agent can be given work.");
    describe_gauge!("switchyard_agent_consuming", "1 while the agent's own queue is consumed.");
    describe_gauge!(
        "switchyard_agent_heartbeat_age_seconds",
        "Time since the newest confirmed heartbeat of this session was sent."
    );
    describe_counter!("switchyard_agent_handlers_ended_total", "Handlers that ended, by how.");
}
