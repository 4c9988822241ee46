//! What a letter keeps of a message: its identity, its names, its headers and its payload, for any bytes whatever.

use serde_json::Value;
use switchyard_common::broker::Message;
use switchyard_common::broker::headers::HeaderValue;
use switchyard_common::contract::cloudevent::BINARY_HEADER_PREFIX;
use switchyard_common::contract::ids::Digest;
use switchyard_common::contract::limits::EVENT_BODY_MAX_BYTES;

use super::event_ids::EventIds;
use super::scrub;

/// Largest payload that a letter keeps, in bytes: an event at its limit is kept whole, so that it can be replayed.
pub const LETTER_PAYLOAD_MAX_BYTES: usize = EVENT_BODY_MAX_BYTES;
/// The other prefix of CloudEvents attributes in AMQP headers.
const OTHER_BINARY_PREFIX: &str = "cloudEvents_";

/// What a message is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// An event whose source and id can be read.
    Event {
        /// Its source.
        source: String,
        /// Its id in that source.
        id: String,
    },
    /// Anything else, by the digest of its body and properties.
    Message {
        /// The digest, in hexadecimal.
        hash: String,
    },
}

impl Identity {
    /// The key under which failure and broker copy meet. Source and id cannot run into each other: `#` in the source is escaped.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Event { source, id } => {
                format!("event:{}#{id}", source.replace('%', "%25").replace('#', "%23"))
            }
            Self::Message { hash } => format!("message:{hash}"),
        }
    }
}

/// A payload, or as much of it as is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    form: Form,
    /// Size of the whole, in bytes.
    pub size: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    Text(String),
    Bytes(Vec<u8>),
    LeftOut,
}

impl Payload {
    /// Text where PostgreSQL takes it as text (valid UTF-8 without NUL), else bytes; cut to [`LETTER_PAYLOAD_MAX_BYTES`].
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let cut = &bytes[..bytes.len().min(LETTER_PAYLOAD_MAX_BYTES)];
        let valid = match std::str::from_utf8(cut) {
            Ok(text) => Some(text),
            // A character cut in two at the limit does not make text into bytes.
            Err(error) if error.error_len().is_none() && cut.len() < bytes.len() => {
                std::str::from_utf8(&cut[..error.valid_up_to()]).ok()
            }
            Err(_) => None,
        };
        let form = match valid.filter(|text| !text.contains('\0')) {
            Some(text) => Form::Text(text.to_owned()),
            None => Form::Bytes(cut.to_vec()),
        };
        Self { form, size: size(bytes.len()) }
    }

    /// A payload of which only the size is kept.
    #[must_use]
    pub const fn left_out(size: i64) -> Self {
        Self { form: Form::LeftOut, size }
    }

    /// The same as bytes, which PostgreSQL never refuses.
    #[must_use]
    pub fn as_bytes_only(&self) -> Self {
        let form = match &self.form {
            Form::Text(text) => Form::Bytes(text.as_bytes().to_vec()),
            Form::Bytes(bytes) => Form::Bytes(bytes.clone()),
            Form::LeftOut => Form::LeftOut,
        };
        Self { form, size: self.size }
    }

    /// The text, when it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        if let Form::Text(text) = &self.form { Some(text) } else { None }
    }

    /// The bytes, when it is not text.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        if let Form::Bytes(bytes) = &self.form { Some(bytes) } else { None }
    }
}

/// What is kept of a message.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// What it is known by.
    pub identity: Identity,
    /// Source and id as far as they can be read: of an event that cannot be identified by them, too.
    pub ids: EventIds,
    /// The exchange that it was published to.
    pub exchange: String,
    /// The routing key that it was published with.
    pub routing_key: String,
    /// Its message id.
    pub message_id: Option<String>,
    /// Its W3C trace context.
    pub traceparent: Option<String>,
    /// Its other headers, bounded, without credentials.
    pub headers: Option<Value>,
    /// Its payload.
    pub payload: Payload,
}

impl Kept {
    /// Of an event: the payload is kept as it is, so that it can be replayed.
    #[must_use]
    pub fn of_event(message: &Message) -> Self {
        let ids = EventIds::of(message);
        let identity = ids.identity().unwrap_or_else(|| hashed(message));
        let kept = Self::of(message, &message.body);
        // The newest hop's, from the headers; else the event's own.
        let traceparent = kept.traceparent.or_else(|| ids.traceparent.map(|trace| trace.to_string()));
        Self { identity, ids, traceparent, ..kept }
    }

    /// Of any other message: lease tokens are taken out of the payload.
    #[must_use]
    pub fn of_other(message: &Message) -> Self {
        let cut = &message.body[..message.body.len().min(LETTER_PAYLOAD_MAX_BYTES)];
        let mut kept = Self::of(message, &scrub::without_leases(cut));
        kept.payload.size = size(message.body.len());
        kept
    }

    fn of(message: &Message, body: &[u8]) -> Self {
        let properties = &message.properties;
        let traceparent = properties.headers.get("traceparent").and_then(HeaderValue::as_text);
        Self {
            identity: hashed(message),
            ids: EventIds::default(),
            exchange: message.exchange.clone(),
            routing_key: message.routing_key.clone(),
            message_id: properties.message_id.clone(),
            traceparent: traceparent.map(ToOwned::to_owned),
            headers: scrub::headers(&properties.headers),
            payload: Payload::of(body),
        }
    }
}

fn size(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// An attribute that travels in the headers (CloudEvents binary mode).
#[must_use]
pub fn binary_attribute<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    let headers = &message.properties.headers;
    [BINARY_HEADER_PREFIX, OTHER_BINARY_PREFIX]
        .iter()
        .find_map(|prefix| headers.get(&format!("{prefix}{name}"))?.as_text())
}

fn hashed(message: &Message) -> Identity {
    Identity::Message { hash: hex::encode(fingerprint(message).as_bytes()) }
}

/// What tells a message from every other without reading it: its body, and the properties that the broker leaves alone when it
/// delivers again or dead-letters.
#[must_use]
pub fn fingerprint(message: &Message) -> Digest {
    let properties = &message.properties;
    let mut text: Vec<u8> = Vec::new();
    let mut push = |part: &[u8]| {
        text.extend_from_slice(&(part.len() as u64).to_be_bytes());
        text.extend_from_slice(part);
    };
    push(Digest::of(&message.body).as_bytes());
    for part in [
        &properties.content_type,
        &properties.message_id,
        &properties.correlation_id,
        &properties.kind,
        &properties.app_id,
    ] {
        push(part.as_deref().unwrap_or_default().as_bytes());
    }
    for (name, value) in &properties.headers {
        // The broker adds headers of its own (`x-death`, `x-first-death-queue`, `x-delivery-count`).
        if let (false, Some(value)) = (name.starts_with("x-"), value.as_text()) {
            push(name.as_bytes());
            push(value.as_bytes());
        }
    }
    Digest::of(&text)
}

#[cfg(test)]
mod tests {
    use switchyard_common::broker::Properties;
    use switchyard_common::contract::limits::ID_MAX_CHARS;

    use super::*;

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

    #[test]
    fn an_event_is_known_by_source_and_id_in_both_modes() {
        let structured = message(r#"{"id":"e1","source":"ci#a","type":"t","data":{}}"#);
        assert_eq!(Kept::of_event(&structured).identity.key(), "event:ci%23a#e1");
        let mut binary = message("{}");
        for (name, value) in [("cloudEvents:id", "e1"), ("cloudEvents_source", "ci#a")] {
            binary.properties.headers.insert(name.into(), value.into());
        }
        assert_eq!(Kept::of_event(&binary).identity.key(), "event:ci%23a#e1");
    }

    #[test]
    fn deep_nesting_does_not_hide_the_ids() {
        let deep =
            format!(r#"{{"data":{}{},"id":"e","source":"s"}}"#, "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(Kept::of_event(&message(deep)).identity.key(), "event:s#e");
    }

    #[test]
    fn whatever_cannot_be_read_is_known_by_its_hash() {
        let long_id = format!(r#"{{"id":"{}","source":"s"}}"#, "x".repeat(ID_MAX_CHARS + 1));
        let bodies: [Vec<u8>; 7] = [
            Vec::new(),
            b"not json".to_vec(),
            vec![0xff, 0xfe, 0x00],
            br#"{"id":7,"source":"s"}"#.to_vec(),
            br#"{"id":"a\u0000","source":"s"}"#.to_vec(),
            br#"{"id":"\ud800","source":"s"}"#.to_vec(),
            long_id.into_bytes(),
        ];
        for body in bodies {
            let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
            let kept = Kept::of_event(&message(body));
            assert!(matches!(kept.identity, Identity::Message { .. }), "{shown}");
        }
    }

    #[test]
    fn the_hash_is_the_same_after_the_broker_added_its_headers() {
        let mut nacked = message("junk");
        let before = Kept::of_event(&nacked).identity;
        nacked.properties.headers.insert("x-first-death-queue".into(), "switchyard.events".into());
        nacked.properties.headers.insert("x-delivery-count".into(), HeaderValue::Int(3));
        assert_eq!(Kept::of_event(&nacked).identity, before);
        nacked.properties.message_id = Some("other".into());
        assert_ne!(Kept::of_event(&nacked).identity, before);
    }

    #[test]
    fn a_payload_is_text_where_postgresql_takes_it_and_bytes_elsewhere() {
        assert_eq!(Payload::of("pläne".as_bytes()).text(), Some("pläne"));
        // An escaped lone surrogate is text to PostgreSQL; a raw one is not UTF-8.
        assert!(Payload::of(br#"{"a":"\ud800"}"#).text().is_some());
        for bytes in [&b"a\0b"[..], &[0xed, 0xa0, 0x80], &[0xff]] {
            let payload = Payload::of(bytes);
            assert_eq!((payload.text(), payload.bytes()), (None, Some(bytes)));
        }
    }

    #[test]
    fn a_payload_at_the_limit_is_whole_and_one_byte_over_is_cut_with_its_size_said() {
        let whole = Payload::of(&vec![b'x'; LETTER_PAYLOAD_MAX_BYTES]);
        assert_eq!(whole.text().map(str::len), Some(LETTER_PAYLOAD_MAX_BYTES));
        let over = Payload::of(&vec![b'x'; LETTER_PAYLOAD_MAX_BYTES + 1]);
        assert_eq!(over.text().map(str::len), Some(LETTER_PAYLOAD_MAX_BYTES));
        assert_eq!(over.size, 1_048_577);
        // A character of two bytes across the limit is left out, and the rest is still text.
        let mut split = vec![b'x'; LETTER_PAYLOAD_MAX_BYTES - 1];
        split.extend_from_slice("é".as_bytes());
        assert_eq!(Payload::of(&split).text().map(str::len), Some(LETTER_PAYLOAD_MAX_BYTES - 1));
    }

    #[test]
    fn a_report_is_kept_without_its_lease_and_with_its_true_size() {
        let body = r#"{"claim":{"lease":"0b9c9d0e-61f4-4d5a-9f0f-1c8a5d1f2a3b"}}"#;
        let kept = Kept::of_other(&message(body));
        assert_eq!(kept.payload.text(), Some(r#"{"claim":{"lease":"***"}}"#));
        assert_eq!(kept.payload.size, size(body.len()));
        assert_eq!(kept.identity, Kept::of_event(&message(body)).identity);
    }
}
