//! Who sent an event and under which id, as far as its bytes tell: for whoever looks for it in the logs of its publisher. Nothing else
//! reads them from a rejected event, so that its failure, the broker's copy and the answer to its publisher agree.

use std::fmt;

use serde::de::{Deserializer as _, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use switchyard_common::broker::Message;
use switchyard_common::contract::limits::{EVENT_BODY_MAX_BYTES, ID_MAX_CHARS, SOURCE_MAX_CHARS};
use switchyard_common::telemetry::TraceParent;

use super::kept::{Identity, binary_attribute};

/// Source and id of an event, each where it can be read and is fit to be repeated.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventIds {
    /// CloudEvents `source`.
    pub source: Option<String>,
    /// CloudEvents `id`.
    pub id: Option<String>,
    /// The W3C trace context that the event carries in itself.
    pub traceparent: Option<TraceParent>,
    /// Whether the event could be read to its end: only then do source and id identify it.
    whole: bool,
}

impl EventIds {
    /// Reads them: from the headers (binary mode), else from the body, also from one that is too large or breaks off.
    #[must_use]
    pub fn of(message: &Message) -> Self {
        let attribute = |name| binary_attribute(message, name).map(ToOwned::to_owned);
        let in_headers = Self {
            source: attribute("source"),
            id: attribute("id"),
            traceparent: attribute("traceparent").and_then(|text| text.parse().ok()),
            whole: true,
        };
        let found = if in_headers.source.is_some() || in_headers.id.is_some() {
            in_headers
        } else {
            Self::in_body(&message.body)
        };
        Self {
            source: found.source.filter(|source| is_fit(source, SOURCE_MAX_CHARS)),
            id: found.id.filter(|id| is_fit(id, ID_MAX_CHARS)),
            traceparent: found.traceparent,
            whole: found.whole,
        }
    }

    /// What identifies the event, when both are known for certain.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        let (source, id) = (self.source.clone()?, self.id.clone()?);
        self.whole.then_some(Identity::Event { source, id })
    }

    fn in_body(body: &[u8]) -> Self {
        let mut ids = Self::default();
        let start = &body[..body.len().min(EVENT_BODY_MAX_BYTES)];
        let mut reader = serde_json::Deserializer::from_slice(start);
        let read = reader.deserialize_map(Reader(&mut ids)).and_then(|()| reader.end());
        ids.whole = read.is_ok();
        ids
    }
}

fn is_fit(text: &str, max_chars: usize) -> bool {
    !text.is_empty() && text.chars().nth(max_chars).is_none() && !text.chars().any(char::is_control)
}

/// Puts what it reads where it stays when the rest cannot be read.
struct Reader<'a>(&'a mut EventIds);

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = (false, false);
        while let Some(name) = map.next_key::<String>()? {
            let (place, seen) = match name.as_str() {
                "source" => (&mut self.0.source, &mut seen.0),
                "id" => (&mut self.0.id, &mut seen.1),
                "traceparent" => {
                    let value = map.next_value::<&RawValue>()?;
                    let text: Option<String> = serde_json::from_str(value.get()).ok();
                    self.0.traceparent = text.and_then(|text| text.parse().ok());
                    continue;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if std::mem::replace(seen, true) {
                // Two of them: neither is certain.
                *place = None;
                return Err(A::Error::custom("a name is there twice"));
            }
            // Not text: the other one may still be.
            *place = match map.next_value::<&RawValue>() {
                Ok(value) => serde_json::from_str(value.get()).ok(),
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use switchyard_common::broker::Properties;

    use super::*;

    fn ids(body: impl Into<Vec<u8>>) -> (Option<String>, Option<String>, bool) {
        let ids = EventIds::of(&message(body));
        let identified = ids.identity().is_some();
        (ids.source, ids.id, identified)
    }

    fn message(body: impl Into<Vec<u8>>) -> Message {
        Message {
            exchange: "switchyard.events".into(),
            routing_key: "switchyard.task.submitted.v1".into(),
            redelivered: false,
            properties: Properties::default(),
            headers_truncated: false,
            body: body.into(),
        }
    }

    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn each_is_read_where_it_is_fit_whatever_the_other_and_the_rest_are() {
        let long = "x".repeat(ID_MAX_CHARS + 1);
        for (body, source, id, identified) in [
            (r#"{"id":"e","source":"s","data":{}}"#.to_owned(), text("s"), text("e"), true),
            (r#"{"id":"e","data":{}}"#.to_owned(), None, text("e"), false),
            (r#"{"source":"s","id":7}"#.to_owned(), text("s"), None, false),
            (r#"{"id":null,"source":"s"}"#.to_owned(), text("s"), None, false),
            (format!(r#"{{"id":"{long}","source":"s"}}"#), text("s"), None, false),
            (r#"{"id":"a\u0000","source":"s"}"#.to_owned(), text("s"), None, false),
            // It breaks off, or goes on after its end.
            (r#"{"id":"e","source":"s","data":{"#.to_owned(), text("s"), text("e"), false),
            (r#"{"id":"e","source":"s"} {}"#.to_owned(), text("s"), text("e"), false),
            (r#"{"id":"e","id":"f","source":"s"}"#.to_owned(), None, None, false),
            ("not JSON".to_owned(), None, None, false),
            (r#"["id","source"]"#.to_owned(), None, None, false),
            (String::new(), None, None, false),
        ] {
            assert_eq!(ids(body.clone()), (source, id, identified), "{}", &body[..body.len().min(60)]);
        }
    }

    #[test]
    fn an_event_that_is_too_large_tells_them_when_they_come_first() {
        let large = |head: &str| format!(r#"{{{head}"data":"{}"}}"#, "x".repeat(EVENT_BODY_MAX_BYTES));
        assert_eq!(ids(large(r#""id":"e","source":"s","#)), (text("s"), text("e"), false));
        assert_eq!(ids(large("")), (None, None, false));
    }

    #[test]
    fn in_the_headers_each_stands_for_itself() {
        let mut binary = message(r#"{"id":"of the data","source":"of the data"}"#);
        binary.properties.headers.insert("cloudEvents:id".into(), "e".into());
        let ids = EventIds::of(&binary);
        assert_eq!((ids.source.clone(), ids.id.clone(), ids.identity()), (None, text("e"), None));
    }
}
