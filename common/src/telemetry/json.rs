//! One JSON object per log event, flat.

use std::fmt;
use std::io::Write as _;

use chrono::{SecondsFormat, Utc};
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::text::bounded;

/// Longest text of one field; panics' backtraces fit.
const FIELD_TEXT_MAX_BYTES: usize = 20 * 1024;
/// The names that every line has; a field of the same name is written with an underscore in front.
const FIXED_NAMES: [&str; 4] = ["timestamp", "level", "target", "message"];

/// A tracing layer that writes flat JSON lines.
#[derive(Debug)]
pub struct JsonLayer<W> {
    writer: W,
}

impl<W> JsonLayer<W> {
    /// Writes to what `writer` makes, one write per line.
    #[must_use]
    pub fn new(writer: W) -> Self {
        Self { writer }
    }
}

/// The fields of a span, kept until it closes.
struct SpanFields(Map<String, Value>);

impl<S, W> Layer<S> for JsonLayer<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(SpanFields(fields.values));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        values.record(&mut fields);
        let mut extensions = span.extensions_mut();
        if let Some(SpanFields(known)) = extensions.get_mut() {
            known.extend(fields.values);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let mut line = Map::new();
        line.insert("timestamp".into(), Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true).into());
        line.insert("level".into(), metadata.level().as_str().into());
        line.insert("target".into(), metadata.target().into());
        line.insert("message".into(), fields.message.unwrap_or_default().into());
        let spans = context.event_scope(event).into_iter().flat_map(|scope| scope.from_root());
        for span in spans {
            if let Some(SpanFields(known)) = span.extensions().get() {
                line.extend(known.clone());
            }
        }
        line.extend(fields.values);
        self.write(&line);
    }
}

impl<W: for<'a> MakeWriter<'a>> JsonLayer<W> {
    fn write(&self, line: &Map<String, Value>) {
        // Nothing sensible is left to do when the log itself cannot be written.
        if let Ok(mut bytes) = serde_json::to_vec(line) {
            bytes.push(b'\n');
            let _ = self.writer.make_writer().write_all(&bytes);
        }
    }
}

/// Collects the fields of an event or a span.
#[derive(Default)]
struct Fields {
    message: Option<String>,
    values: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        let name = field.name();
        let name = name.strip_prefix("r#").unwrap_or(name);
        if FIXED_NAMES.contains(&name) {
            self.values.insert(format!("_{name}"), value);
        } else {
            self.values.insert(name.to_owned(), value);
        }
    }

    fn put_text(&mut self, field: &Field, text: &str) {
        let text = bounded(text, FIELD_TEXT_MAX_BYTES);
        if field.name() == "message" {
            self.message = Some(text);
        } else {
            self.put(field, text.into());
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put_text(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put_text(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.put(field, i64::try_from(value).map_or_else(|_| value.to_string().into(), Value::from));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.put(field, u64::try_from(value).map_or_else(|_| value.to_string().into(), Value::from));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn lines(log: impl FnOnce()) -> Vec<Value> {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::registry().with(JsonLayer::new(move || writer.clone()));
        tracing::subscriber::with_default(subscriber, log);
        let bytes = sink.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_line_has_the_fixed_names_and_flat_fields() {
        let lines = lines(|| tracing::warn!(task_id = "t-1", attempt = 3_u32, ok = true, "pass begins"));
        assert_eq!(lines[0]["level"], "WARN");
        assert_eq!(lines[0]["message"], "pass begins");
        assert_eq!(lines[0]["task_id"], "t-1");
        assert_eq!(lines[0]["attempt"], 3);
        assert_eq!(lines[0]["ok"], true);
        assert!(lines[0]["target"].as_str().unwrap().contains("telemetry"));
    }

    #[test]
    fn incident_62_timestamps_are_utc() {
        let lines = lines(|| tracing::info!("now"));
        let timestamp = lines[0]["timestamp"].as_str().unwrap();
        assert!(timestamp.ends_with('Z'), "{timestamp}");
        chrono::DateTime::parse_from_rfc3339(timestamp).unwrap();
    }

    #[test]
    fn fields_of_spans_are_flattened_and_the_innermost_wins() {
        let lines = lines(|| {
            let outer = tracing::info_span!("pass", pool = "p", step = "outer", late = tracing::field::Empty);
            outer.record("late", 7);
            let _outer = outer.enter();
            let _inner = tracing::info_span!("task", step = "inner").entered();
            tracing::info!("inside");
            tracing::info!(step = "event", "inside");
        });
        assert_eq!(
            (&lines[0]["pool"], &lines[0]["late"], &lines[0]["step"]),
            (&"p".into(), &7.into(), &"inner".into())
        );
        assert_eq!(lines[1]["step"], "event");
    }

    #[test]
    fn a_field_cannot_overwrite_a_fixed_name() {
        let lines = lines(|| tracing::info!(level = "fake", target = "fake", "real"));
        assert_eq!((&lines[0]["level"], &lines[0]["_level"]), (&"INFO".into(), &"fake".into()));
    }

    #[test]
    fn control_characters_cannot_forge_a_line() {
        let lines = lines(|| tracing::info!(text = "a\n{\"level\":\"ERROR\"}", "x"));
        assert_eq!(lines.len(), 1);
    }
}
