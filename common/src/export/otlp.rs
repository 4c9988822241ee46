//! Spans to an OpenTelemetry collector, as protobuf over HTTP.

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use opentelemetry::{KeyValue, global};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Handle;

use super::post::post;
use super::start::ExportError;
use crate::guard::{TaskEnd, spawn_guarded};

/// Begins to export to the collector at `endpoint`; `/v1/traces` is added, as the standard has it.
pub(super) fn start(endpoint: &str, service: &'static str) -> Result<SdkTracerProvider, ExportError> {
    let address = format!("{}/v1/traces", endpoint.trim().trim_end_matches('/'));
    let uri: http::Uri = address.parse().map_err(|_| ExportError::Otlp)?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
        return Err(ExportError::Otlp);
    }
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Client(Handle::current()))
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(address)
        .build()
        .map_err(|_| ExportError::Otlp)?;
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(
            Resource::builder()
                .with_service_name(service)
                .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
                .build(),
        )
        .build();
    global::set_tracer_provider(provider.clone());
    super::span::enable();
    Ok(provider)
}

/// Sends from the exporter's own thread by this process's runtime.
#[derive(Debug)]
struct Client(Handle);

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let sending = {
            let _entered = self.0.enter();
            spawn_guarded("otlp-export", post(request))
        };
        match sending.await {
            TaskEnd::Finished(answer) => Ok(answer?),
            TaskEnd::Panicked(_) | TaskEnd::Aborted => Err("the export has ended".into()),
        }
    }
}
