//! Sets up the process's log.

use std::io::IsTerminal as _;

use tracing::Metadata;
use tracing_subscriber::filter::{EnvFilter, FilterFn, ParseError};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{Layer as _, Registry};

use super::json::JsonLayer;

/// What is logged when `RUST_LOG` is not set.
const DEFAULT_FILTER: &str = "info";

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Text for people, coloured on a terminal.
    Human,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `SWITCHYARD_LOG` has another value.
    #[error("SWITCHYARD_LOG is `{0}`; it must be `json` or `human`")]
    Format(String),
    /// `RUST_LOG` is not a filter.
    #[error("RUST_LOG is not a log filter: {0}")]
    Filter(#[from] ParseError),
    /// There is a global subscriber already.
    #[error("logging is set up already: {0}")]
    Twice(#[from] TryInitError),
}

impl LogFormat {
    /// From the value of `SWITCHYARD_LOG`; without one, by whether stderr is a terminal.
    ///
    /// # Errors
    /// When the value is neither `json` nor `human`.
    pub fn choose(value: Option<&str>, stderr_is_terminal: bool) -> Result<Self, TelemetryError> {
        match value {
            Some("json") => Ok(Self::Json),
            Some("human") => Ok(Self::Human),
            Some(other) => Err(TelemetryError::Format(other.to_owned())),
            None if stderr_is_terminal => Ok(Self::Human),
            None => Ok(Self::Json),
        }
    }
}

/// Sets up logging to stderr by `SWITCHYARD_LOG` and `RUST_LOG`, once per process, and routes panics outside guards
/// into the log.
///
/// # Errors
/// When one of the variables has no meaning, or logging was set up before.
pub fn init() -> Result<(), TelemetryError> {
    let wanted = std::env::var("SWITCHYARD_LOG").ok();
    let format = LogFormat::choose(wanted.as_deref(), std::io::stderr().is_terminal())?;
    let rust_log = std::env::var("RUST_LOG").unwrap_or_default();
    let directives = if rust_log.trim().is_empty() { DEFAULT_FILTER } else { rust_log.as_str() };
    let filter = EnvFilter::builder().parse(directives)?;
    let library = library_filter(names_library(directives));
    let output = match format {
        LogFormat::Json => JsonLayer::new(std::io::stderr).boxed(),
        LogFormat::Human => tracing_subscriber::fmt::layer::<Registry>()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .boxed(),
    };
    Registry::default().with(output.with_filter(filter).with_filter(library)).try_init()?;
    crate::guard::install_panic_hook();
    Ok(())
}

fn names_library(directives: &str) -> bool {
    directives.contains("lapin")
}

/// Keeps the AMQP library quiet unless `RUST_LOG` names it. It logs as errors what is reported in better words here,
/// and at the finer levels whole frames: bodies, lease tokens and credentials. Those are never let through.
fn library_filter(library_is_named: bool) -> FilterFn<impl Fn(&Metadata<'_>) -> bool + Clone> {
    FilterFn::new(move |metadata| admits(metadata, library_is_named))
}

fn admits(metadata: &Metadata<'_>, library_is_named: bool) -> bool {
    let target = metadata.target();
    let is_of = |crates: &[&str]| {
        let within = |name: &&str| {
            target.strip_prefix(*name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        crates.iter().any(within)
    };
    // Finer than this they write the parameters of statements: payloads, lease tokens.
    if is_of(&["tokio_postgres", "postgres_protocol", "rustls", "tokio_rustls", "hyper"]) {
        return *metadata.level() <= tracing::Level::INFO;
    }
    let library = is_of(&["lapin", "amq_protocol", "async_rs", "tcp_stream"]);
    if !library {
        return true;
    }
    // `returned_messages` prints each returned message with its body.
    library_is_named && !target.contains("returned_messages") && *metadata.level() <= tracing::Level::INFO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_follows_the_variable_and_then_the_terminal() {
        assert_eq!(LogFormat::choose(None, true).unwrap(), LogFormat::Human);
        assert_eq!(LogFormat::choose(None, false).unwrap(), LogFormat::Json);
        assert_eq!(LogFormat::choose(Some("json"), true).unwrap(), LogFormat::Json);
        assert_eq!(LogFormat::choose(Some("human"), false).unwrap(), LogFormat::Human);
        assert!(LogFormat::choose(Some("xml"), false).is_err());
    }

    #[test]
    fn libraries_never_log_message_bodies_or_parameters_of_statements() {
        use std::sync::atomic::{AtomicU32, Ordering};
        static PASSED: AtomicU32 = AtomicU32::new(0);
        struct Count;
        impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Count {
            fn on_event(&self, _: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
                PASSED.fetch_add(1, Ordering::SeqCst);
            }
        }
        let run = |directives: &str| {
            PASSED.store(0, Ordering::SeqCst);
            let subscriber =
                Registry::default().with(Count.with_filter(library_filter(names_library(directives))));
            tracing::subscriber::with_default(subscriber, || {
                tracing::warn!(target: "lapin::returned_messages", "a body");
                tracing::debug!(target: "lapin::channels", "a frame");
                tracing::trace!(target: "amq_protocol", "a frame");
                tracing::debug!(target: "tokio_postgres::query", "the parameters of a statement");
                tracing::error!(target: "lapin::channel", "closed");
                tracing::debug!(target: "lapinette", "somebody else");
            });
            PASSED.load(Ordering::SeqCst)
        };
        assert_eq!(run("trace"), 1);
        assert_eq!(run("lapin=trace"), 2);
    }
}
