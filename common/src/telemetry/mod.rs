//! Logs, metrics and trace context.
//!
//! - [`init`]: structured logs to stderr. JSON by default when stderr is not a terminal, one object per line, with
//!   stable flat names: `timestamp` (UTC, RFC 3339), `level`, `target`, `message`, then the fields of the enclosing
//!   spans (outermost first), then the fields of the event itself.
//! - [`Metrics`]: the process-wide Prometheus recorder.
//! - [`TraceParent`]: W3C trace context, as it travels in message headers.

mod json;
mod logs;
mod metrics;
mod trace_context;

pub use json::JsonLayer;
pub use logs::{LogFormat, TelemetryError, init};
pub use metrics::{Metrics, MetricsError};
pub use trace_context::{TRACEPARENT_HEADER, TraceParent, TraceParentError};
