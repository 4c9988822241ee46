//! Optional export of what the process does and of what goes wrong in it: spans to an OpenTelemetry collector, panics to Sentry. Both are
//! off until their variable is set (`OTEL_EXPORTER_OTLP_ENDPOINT`, `SENTRY_DSN`), and neither is ever waited for.
//!
//! - [`start`](start()): reads the variables and begins; [`Exports`] ends it
//! - [`span`]: the spans themselves
//! - `otlp`, `sentry`: how they leave; `post`: the one HTTP client of both, with the TLS that everything else here uses

mod otlp;
mod post;
mod sentry;
pub mod span;
mod start;

pub use start::{ExportError, Exports, start};
