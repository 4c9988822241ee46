//! Panics to Sentry. What is sent is what a guard keeps of a panic, and nothing of the process's environment or configuration.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, header};
use sentry_types::Dsn;
use sentry_types::protocol::v7::{Envelope, Event, Exception, Level};
use tokio::sync::mpsc;

use super::post::post;
use super::start::ExportError;
use crate::config::mask_urls;
use crate::guard::{GuardedTask, PanicCapture, on_panic, spawn_guarded};

/// Panics that wait to be sent; what comes beyond it is not sent, but is in the log like every other.
const WAITING_MAX_COUNT: usize = 100;
/// What the client calls itself.
const CLIENT: &str = concat!("switchyard/", env!("CARGO_PKG_VERSION"));

/// The task that sends.
#[derive(Debug)]
pub(super) struct Sender {
    closing: mpsc::Sender<Option<PanicCapture>>,
    task: GuardedTask<()>,
}

/// Begins to send the panics of this process.
pub(super) fn start(dsn: &str, service: &'static str) -> Result<Sender, ExportError> {
    let dsn: Dsn = dsn.trim().parse().map_err(|_| ExportError::Sentry)?;
    let (captures, mut waiting) = mpsc::channel::<Option<PanicCapture>>(WAITING_MAX_COUNT);
    let closing = captures.clone();
    on_panic(move |capture| {
        // Never waits: this runs on the thread that panics.
        let _ = captures.try_send(Some(capture.clone()));
    });
    let task = spawn_guarded("sentry", async move {
        while let Some(Some(capture)) = waiting.recv().await {
            if let Err(why) = send(&dsn, service, &capture).await {
                tracing::warn!(why, "a panic was not sent to Sentry; it is in this log");
            }
        }
    });
    Ok(Sender { closing, task })
}

impl Sender {
    /// Sends what waits, bounded in time.
    pub(super) async fn finish(self, within: Duration) {
        let ending = async {
            let _ = self.closing.send(None).await;
            self.task.await
        };
        if tokio::time::timeout(within, ending).await.is_err() {
            tracing::warn!("the last panics were not sent to Sentry in time; they are in this log");
        }
    }
}

async fn send(dsn: &Dsn, service: &str, capture: &PanicCapture) -> Result<(), String> {
    let mut body = Vec::new();
    Envelope::from(event(service, capture)).to_writer(&mut body).map_err(|error| error.to_string())?;
    let request = Request::post(dsn.envelope_api_url().as_str())
        .header(header::CONTENT_TYPE, "application/x-sentry-envelope")
        .header("x-sentry-auth", dsn.to_auth(Some(CLIENT)).to_string())
        .body(Bytes::from(body))
        .map_err(|error| error.to_string())?;
    let answer = post(request).await.map_err(|error| error.to_string())?;
    if answer.status().is_success() { Ok(()) } else { Err(format!("Sentry answers {}", answer.status())) }
}

/// Values are masked where they look like addresses with a password; fields are those that the code attached by name.
fn event(service: &str, capture: &PanicCapture) -> Event<'static> {
    let mut event = Event {
        level: Level::Fatal,
        release: Some(CLIENT.into()),
        logger: Some(service.to_owned()),
        timestamp: SystemTime::now(),
        ..Event::default()
    };
    event.exception.values.push(Exception {
        ty: "panic".to_owned(),
        value: Some(mask_urls(&capture.message)),
        ..Exception::default()
    });
    event.tags.insert("task".to_owned(), capture.task_name.clone());
    let kept = [("location", capture.location.clone()), ("backtrace", Some(capture.backtrace.clone()))];
    let kept = kept.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let fields = capture.fields.iter().map(|(name, value)| (name.clone(), mask_urls(value)));
    event.extra.extend(kept.chain(fields).map(|(name, value)| (name, value.into())));
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_what_explains_the_panic_and_no_password() {
        let capture = PanicCapture {
            message: "cannot reach amqp://user:hunter2@broker/v: refused".to_owned(),
            location: Some("src/x.rs:1:2".to_owned()),
            backtrace: "0: x".to_owned(),
            task_name: "handler".to_owned(),
            thread: "t".to_owned(),
            fields: vec![("task_id".to_owned(), "t-1".to_owned())],
        };
        let text = serde_json::to_string(&event("agent", &capture)).unwrap();
        for wanted in ["cannot reach", "amqp://user:***@broker/v", "src/x.rs:1:2", "t-1", "handler"] {
            assert!(text.contains(wanted), "{wanted} is not in {text}");
        }
        assert!(!text.contains("hunter2"), "{text}");
    }
}
