//! Spans of the few things that are worth one: an event that is taken, an attempt that runs. They hang on the trace that the event brought.
//! Where nothing is exported, a span is nothing, and its context is that of its parent: what is passed on stays true either way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState,
    Tracer as _,
};
use opentelemetry::{Context, KeyValue, global};

use crate::telemetry::TraceParent;

/// The span of one event: from its delivery to the commit of what it asks for.
pub const EVENT: &str = "switchyard.event";
/// The span of one attempt: its handler, from start to end.
pub const ATTEMPT: &str = "switchyard.attempt";

static ENABLED: AtomicBool = AtomicBool::new(false);

/// From now on spans are kept.
pub(super) fn enable() {
    ENABLED.store(true, Ordering::Relaxed);
}

/// Whether spans are exported: where collecting what goes into them costs something.
#[must_use]
pub fn enabled() -> bool {
    ENABLED.load(Ordering::Relaxed)
}

/// Something that takes a while. It ends when it is dropped.
pub struct Span {
    parent: Option<TraceParent>,
    inner: Option<global::BoxedSpan>,
}

impl Span {
    /// Begins a span that began at `since`, under `parent`.
    #[must_use]
    pub fn begin(
        name: &'static str,
        parent: Option<TraceParent>,
        since: SystemTime,
        attributes: &[(&'static str, String)],
    ) -> Self {
        if !enabled() {
            return Self { parent, inner: None };
        }
        let tracer = global::tracer("switchyard");
        let attributes = attributes.iter().map(|(name, value)| KeyValue::new(*name, value.clone()));
        let builder = tracer
            .span_builder(name)
            .with_kind(SpanKind::Consumer)
            .with_start_time(since)
            .with_attributes(attributes);
        let context = parent
            .map_or_else(Context::new, |parent| Context::new().with_remote_span_context(remote(parent)));
        Self { parent, inner: Some(tracer.build_with_context(builder, &context)) }
    }

    /// What is to be passed on: this span's context, or its parent's where nothing is exported.
    #[must_use]
    pub fn context(&self) -> Option<TraceParent> {
        let own = self.inner.as_ref().map(|span| span.span_context()).filter(|context| context.is_valid());
        own.and_then(|context| {
            let (trace, span) = (context.trace_id(), context.span_id());
            format!("00-{trace}-{span}-{:02x}", context.trace_flags().to_u8()).parse().ok()
        })
        .or(self.parent)
    }

    /// Says that it ended badly, in one word.
    pub fn failed(&mut self, why: &'static str) {
        if let Some(span) = &mut self.inner {
            span.set_status(Status::error(why));
        }
    }
}

fn remote(parent: TraceParent) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(parent.trace_id_bytes()),
        SpanId::from_bytes(parent.span_id_bytes()),
        TraceFlags::new(parent.flags()),
        true,
        TraceState::default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nothing_is_exported_the_context_of_the_parent_is_passed_on() {
        let parent: TraceParent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
        let span = Span::begin(ATTEMPT, Some(parent), SystemTime::now(), &[]);
        assert_eq!(span.context(), Some(parent));
        assert_eq!(Span::begin(ATTEMPT, None, SystemTime::now(), &[]).context(), None);
    }
}
