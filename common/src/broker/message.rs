//! Messages as they go out and come in, without types of the client library.

use std::fmt;

use lapin::BasicProperties;
use lapin::types::ShortString;

use super::headers::{self, Headers};
use super::limits::{BODY_MAX_BYTES, HEADERS_SENT_MAX_BYTES, SHORT_TEXT_MAX_BYTES};

/// The AMQP delivery mode of a message that survives a restart of the broker.
const PERSISTENT: u8 = 2;

/// The AMQP properties of a message. Absent ones are `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Properties {
    /// MIME type of the body.
    pub content_type: Option<String>,
    /// MIME encoding of the body.
    pub content_encoding: Option<String>,
    /// Application headers.
    pub headers: Headers,
    /// Written to disk by durable queues.
    pub persistent: bool,
    /// Priority; only classic queues declared for it look at it.
    pub priority: Option<u8>,
    /// Links an answer to its request.
    pub correlation_id: Option<String>,
    /// Where an answer should go.
    pub reply_to: Option<String>,
    /// Time to live in milliseconds, as text.
    pub expiration: Option<String>,
    /// The sender's id of the message.
    pub message_id: Option<String>,
    /// When it was sent, in seconds since 1970.
    pub timestamp_seconds: Option<u64>,
    /// The type of the message.
    pub kind: Option<String>,
    /// The broker user that sent it; RabbitMQ refuses a false one.
    pub user_id: Option<String>,
    /// The sending application.
    pub app_id: Option<String>,
}

impl Properties {
    /// Persistent, with this content type.
    #[must_use]
    pub fn persistent(content_type: &str) -> Self {
        Self { content_type: Some(content_type.to_owned()), persistent: true, ..Self::default() }
    }

    fn texts(&self) -> [(&'static str, Option<&String>); 9] {
        [
            ("content_type", self.content_type.as_ref()),
            ("content_encoding", self.content_encoding.as_ref()),
            ("correlation_id", self.correlation_id.as_ref()),
            ("reply_to", self.reply_to.as_ref()),
            ("expiration", self.expiration.as_ref()),
            ("message_id", self.message_id.as_ref()),
            ("type", self.kind.as_ref()),
            ("user_id", self.user_id.as_ref()),
            ("app_id", self.app_id.as_ref()),
        ]
    }
}

/// Why a message cannot be sent as it is. Nothing has been sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutgoingError {
    /// The body is over the limit.
    #[error("the body has {bytes} bytes, the limit is {BODY_MAX_BYTES}")]
    BodyTooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The headers are over the limit.
    #[error("the headers take about {bytes} bytes, the limit is {HEADERS_SENT_MAX_BYTES}")]
    HeadersTooLarge {
        /// Their size.
        bytes: usize,
    },
    /// A name or a text property is over the limit.
    #[error("`{what}` has {bytes} bytes, the limit is {SHORT_TEXT_MAX_BYTES}")]
    TextTooLong {
        /// Which one.
        what: &'static str,
        /// Its size.
        bytes: usize,
    },
}

/// A message to publish. Checked when made, so that publishing itself cannot fail for the message's form.
#[derive(Clone, PartialEq)]
pub struct Outgoing {
    exchange: ShortString,
    routing_key: ShortString,
    properties: Properties,
    body: Vec<u8>,
    mandatory: bool,
}

impl Outgoing {
    /// A message for `exchange` with `routing_key`. With `mandatory`, a message that no queue receives comes back as
    /// [`PublishOutcome::Returned`](super::PublishOutcome::Returned); without, the broker drops it and says "acked".
    ///
    /// # Errors
    /// When something is over its limit.
    pub fn new(
        exchange: &str,
        routing_key: &str,
        properties: Properties,
        body: Vec<u8>,
        mandatory: bool,
    ) -> Result<Self, OutgoingError> {
        if body.len() > BODY_MAX_BYTES {
            return Err(OutgoingError::BodyTooLarge { bytes: body.len() });
        }
        let bytes = headers::encoded_bytes(&properties.headers);
        if bytes > HEADERS_SENT_MAX_BYTES {
            return Err(OutgoingError::HeadersTooLarge { bytes });
        }
        if !headers::names_fit(&properties.headers) {
            return Err(OutgoingError::TextTooLong { what: "header name", bytes: SHORT_TEXT_MAX_BYTES + 1 });
        }
        for (what, text) in properties.texts() {
            short(what, text.map_or("", String::as_str))?;
        }
        let exchange = short("exchange", exchange)?;
        let routing_key = short("routing_key", routing_key)?;
        Ok(Self { exchange, routing_key, properties, body, mandatory })
    }

    /// The exchange.
    #[must_use]
    pub fn exchange(&self) -> &str {
        self.exchange.as_str()
    }

    /// The routing key.
    #[must_use]
    pub fn routing_key(&self) -> &str {
        self.routing_key.as_str()
    }

    /// The properties.
    #[must_use]
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Whether it comes back when no queue receives it.
    #[must_use]
    pub fn mandatory(&self) -> bool {
        self.mandatory
    }

    /// The names in the form of the client library.
    pub(super) fn address(&self) -> (ShortString, ShortString) {
        (self.exchange.clone(), self.routing_key.clone())
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing")
            .field("exchange", &self.exchange())
            .field("routing_key", &self.routing_key())
            .field("message_id", &self.properties.message_id)
            .field("body_bytes", &self.body.len())
            .field("mandatory", &self.mandatory)
            .finish_non_exhaustive()
    }
}

fn short(what: &'static str, text: &str) -> Result<ShortString, OutgoingError> {
    ShortString::try_new(text).map_err(|_| OutgoingError::TextTooLong { what, bytes: text.len() })
}

/// A message as it was delivered. Its `Debug` form shows no header and no body: they may carry secrets.
#[derive(Clone, PartialEq)]
pub struct Message {
    /// The exchange it was published to; empty for the default exchange.
    pub exchange: String,
    /// The routing key it was published with.
    pub routing_key: String,
    /// Whether the broker has tried to deliver it before.
    pub redelivered: bool,
    /// Its properties.
    pub properties: Properties,
    /// True when headers were over the read limits and some were left out.
    pub headers_truncated: bool,
    /// Its body.
    pub body: Vec<u8>,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("exchange", &self.exchange)
            .field("routing_key", &self.routing_key)
            .field("message_id", &self.properties.message_id)
            .field("redelivered", &self.redelivered)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

impl Message {
    /// Takes a delivery apart.
    pub(super) fn from_delivery(delivery: lapin::message::Delivery) -> Self {
        let (mut properties, headers_truncated) = from_library(&delivery.properties);
        // The broker counts redeliveries only: what a first delivery says of itself is its publisher's word, and is not believed.
        if !delivery.redelivered {
            properties.headers.remove(headers::DELIVERY_COUNT);
        }
        Self {
            exchange: delivery.exchange.into(),
            routing_key: delivery.routing_key.into(),
            redelivered: delivery.redelivered,
            properties,
            headers_truncated,
            body: delivery.data,
        }
    }
}

type Setter = fn(BasicProperties, ShortString) -> BasicProperties;

/// To the client library's form.
pub(super) fn to_library(properties: &Properties) -> BasicProperties {
    let mut out = BasicProperties::default().with_headers(headers::to_table(&properties.headers));
    if properties.persistent {
        out = out.with_delivery_mode(PERSISTENT);
    }
    if let Some(priority) = properties.priority {
        out = out.with_priority(priority);
    }
    if let Some(seconds) = properties.timestamp_seconds {
        out = out.with_timestamp(seconds);
    }
    // Lengths were checked by `Outgoing::new`; a text that does not fit is left out rather than a panic.
    let fit = |text: &Option<String>| text.as_ref().and_then(|text| ShortString::try_new(text.as_str()).ok());
    let setters: [(_, Setter); 9] = [
        (&properties.content_type, BasicProperties::with_content_type),
        (&properties.content_encoding, BasicProperties::with_content_encoding),
        (&properties.correlation_id, BasicProperties::with_correlation_id),
        (&properties.reply_to, BasicProperties::with_reply_to),
        (&properties.expiration, BasicProperties::with_expiration),
        (&properties.message_id, BasicProperties::with_message_id),
        (&properties.kind, BasicProperties::with_type),
        (&properties.user_id, BasicProperties::with_user_id),
        (&properties.app_id, BasicProperties::with_app_id),
    ];
    for (text, set) in setters {
        if let Some(text) = fit(text) {
            out = set(out, text);
        }
    }
    out
}

/// From the client library's form. The flag is true when headers were left out.
pub(super) fn from_library(properties: &BasicProperties) -> (Properties, bool) {
    let text = |text: &Option<ShortString>| text.as_ref().map(|text| text.as_str().to_owned());
    let (headers, truncated) = properties.headers().as_ref().map(headers::from_table).unwrap_or_default();
    let read = Properties {
        content_type: text(properties.content_type()),
        content_encoding: text(properties.content_encoding()),
        headers,
        persistent: *properties.delivery_mode() == Some(PERSISTENT),
        priority: *properties.priority(),
        correlation_id: text(properties.correlation_id()),
        reply_to: text(properties.reply_to()),
        expiration: text(properties.expiration()),
        message_id: text(properties.message_id()),
        timestamp_seconds: *properties.timestamp(),
        kind: text(properties.kind()),
        user_id: text(properties.user_id()),
        app_id: text(properties.app_id()),
    };
    (read, truncated)
}

#[cfg(test)]
mod tests {
    use super::super::headers::HeaderValue;
    use super::*;

    fn outgoing(properties: Properties, body: Vec<u8>) -> Result<Outgoing, OutgoingError> {
        Outgoing::new("exchange", "key", properties, body, true)
    }

    #[test]
    fn properties_survive_the_way_to_the_library_and_back() {
        let properties = Properties {
            content_type: Some("application/json".into()),
            content_encoding: Some("gzip".into()),
            headers: [("traceparent".to_owned(), HeaderValue::from("00-1-2-01"))].into(),
            persistent: true,
            priority: Some(4),
            correlation_id: Some("c".into()),
            reply_to: Some("r".into()),
            expiration: Some("1000".into()),
            message_id: Some("m".into()),
            timestamp_seconds: Some(1_700_000_000),
            kind: Some("switchyard.task.submitted.v1".into()),
            user_id: Some("u".into()),
            app_id: Some("a".into()),
        };
        assert_eq!(from_library(&to_library(&properties)), (properties, false));
    }

    #[test]
    fn the_body_limit_is_exact() {
        assert!(outgoing(Properties::default(), vec![0; BODY_MAX_BYTES]).is_ok());
        let error = outgoing(Properties::default(), vec![0; BODY_MAX_BYTES + 1]).unwrap_err();
        assert_eq!(error, OutgoingError::BodyTooLarge { bytes: BODY_MAX_BYTES + 1 });
    }

    #[test]
    fn long_names_and_headers_are_refused_instead_of_panicking_in_the_library() {
        let long = "x".repeat(SHORT_TEXT_MAX_BYTES + 1);
        let named = Properties { message_id: Some(long.clone()), ..Properties::default() };
        assert!(matches!(
            outgoing(named, vec![]),
            Err(OutgoingError::TextTooLong { what: "message_id", bytes: 256 })
        ));
        let exact = "x".repeat(SHORT_TEXT_MAX_BYTES);
        assert!(Outgoing::new("e", &exact, Properties::default(), vec![], false).is_ok());
        assert!(Outgoing::new("e", &long, Properties::default(), vec![], false).is_err());
        let header = Properties { headers: [(long, HeaderValue::Null)].into(), ..Properties::default() };
        assert!(outgoing(header, vec![]).is_err());
        let text = HeaderValue::from("x".repeat(HEADERS_SENT_MAX_BYTES));
        let heavy = Properties { headers: [("h".to_owned(), text)].into(), ..Properties::default() };
        assert!(matches!(outgoing(heavy, vec![]), Err(OutgoingError::HeadersTooLarge { .. })));
    }

    #[test]
    fn debug_output_shows_no_body_and_no_headers() {
        let secret = Properties {
            headers: [("lease".to_owned(), HeaderValue::from("lease-secret"))].into(),
            ..Properties::default()
        };
        let shown = format!("{:?}", outgoing(secret, b"body-secret".to_vec()).unwrap());
        assert!(!shown.contains("secret"), "{shown}");
    }
}
