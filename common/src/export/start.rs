//! Begins and ends the exports.

use std::time::Duration;

use opentelemetry_sdk::trace::SdkTracerProvider;

use super::{otlp, sentry};
use crate::guard::{TaskEnd, spawn_blocking_guarded};

/// Longest time for what is still to be sent at the end.
const FLUSH_MAX: Duration = Duration::from_secs(5);

/// Why an export cannot be begun. The addresses are not repeated: they may carry credentials.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// `OTEL_EXPORTER_OTLP_ENDPOINT` or another of its variables.
    #[error(
        "spans cannot be exported by OTEL_EXPORTER_OTLP_ENDPOINT: expected http://host:port or https://host:port"
    )]
    Otlp,
    /// `SENTRY_DSN`.
    #[error("SENTRY_DSN is not a DSN: expected https://key@host/project")]
    Sentry,
}

/// The exports of this process.
#[must_use = "finish() sends what is still to be sent"]
#[derive(Debug, Default)]
pub struct Exports {
    spans: Option<SdkTracerProvider>,
    panics: Option<sentry::Sender>,
}

/// Begins what the environment asks for; nothing where it asks for nothing. Once per process, within a Tokio runtime.
///
/// # Errors
/// When a variable is set and has no meaning.
pub fn start(service: &'static str) -> Result<Exports, ExportError> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let spans = match variable("OTEL_EXPORTER_OTLP_ENDPOINT") {
        Some(endpoint) => Some(otlp::start(&endpoint, service)?),
        None => None,
    };
    let panics = match variable("SENTRY_DSN") {
        Some(dsn) => Some(sentry::start(&dsn, service)?),
        None => None,
    };
    if spans.is_some() || panics.is_some() {
        tracing::info!(spans = spans.is_some(), panics = panics.is_some(), "telemetry is exported");
    }
    Ok(Exports { spans, panics })
}

impl Exports {
    /// Sends what is still to be sent, bounded in time.
    pub async fn finish(self) {
        if let Some(panics) = self.panics {
            panics.finish(FLUSH_MAX).await;
        }
        let Some(spans) = self.spans else { return };
        let flushing = spawn_blocking_guarded("otlp-flush", move || spans.shutdown_with_timeout(FLUSH_MAX));
        match tokio::time::timeout(FLUSH_MAX, flushing).await {
            Ok(TaskEnd::Finished(Ok(()))) => {}
            Ok(TaskEnd::Finished(Err(error))) => tracing::warn!(%error, "the last spans were not exported"),
            Ok(TaskEnd::Panicked(_) | TaskEnd::Aborted) | Err(_) => {
                tracing::warn!("the last spans were not exported in time");
            }
        }
    }
}
