//! Everything that can be wrong with an event and be seen without a database.

use crate::contract::event::EventType;
use crate::contract::ids::IdError;
use crate::contract::limits::{
    COMMENT_MAX_CHARS, EVENT_BODY_MAX_BYTES, EVENT_DEPTH_MAX_LEVELS, FIELD_EXCERPT_MAX_CHARS,
    FUTURE_MAX_DAYS, LABEL_KEY_MAX_CHARS, LABEL_VALUE_MAX_CHARS, LABELS_MAX_COUNT, PERSON_MAX_CHARS,
    PRIORITY_MAX, SOURCE_MAX_CHARS,
};
use crate::failure::{FailureKind, bound};

/// What is wrong. Holds names of fields and limits, never values of the payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventProblem {
    /// Over the size limit.
    #[error("the event has {bytes} bytes: at most {EVENT_BODY_MAX_BYTES} are allowed")]
    Oversized {
        /// Size found, in bytes.
        bytes: usize,
    },
    /// Small as sent, but over the size limit as stored and sent on.
    #[error(
        "the event's data has {bytes} bytes once its numbers are written out: at most {EVENT_BODY_MAX_BYTES} are allowed"
    )]
    WrittenOut {
        /// Size found, in bytes.
        bytes: usize,
    },
    /// A content type that is not JSON, or a batch.
    #[error("the content type is neither application/cloudevents+json nor another single JSON document")]
    ContentType,
    /// Not UTF-8.
    #[error("the event is not UTF-8: byte {at} does not fit")]
    NotUtf8 {
        /// Zero-based position, in bytes.
        at: usize,
    },
    /// Not JSON.
    #[error("the event is not JSON: line {line}, column {column}")]
    NotJson {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// Over the depth limit.
    #[error("the event is nested deeper than {EVENT_DEPTH_MAX_LEVELS} levels")]
    TooDeep,
    /// NUL in a text or a key.
    #[error("a text in the event contains NUL (\\u0000), which PostgreSQL refuses")]
    Nul,
    /// Half of a surrogate pair.
    #[error("a text in the event contains half of a UTF-16 surrogate pair, which is not a character")]
    LoneSurrogate,
    /// A key that occurs twice: readers would differ in what they see.
    #[error("the key {key} occurs twice in one object")]
    DuplicateKey {
        /// The key, cut.
        key: String,
    },
    /// A number beyond a double.
    #[error("a number in the event is larger than a double (1.8e308) can hold")]
    NumberOutOfRange,
    /// JSON, but not an object.
    #[error("the event is JSON, but not an object")]
    NotAnObject,
    /// An attribute is missing or empty.
    #[error("the CloudEvents attribute `{name}` is missing or empty")]
    AttributeMissing {
        /// Which.
        name: &'static str,
    },
    /// An attribute is not a text.
    #[error("the CloudEvents attribute `{name}` is not a text")]
    AttributeNotText {
        /// Which.
        name: &'static str,
    },
    /// Another version of CloudEvents.
    #[error("the CloudEvents attribute `specversion` is not 1.0")]
    SpecVersion,
    /// A source that is not a URI reference.
    #[error(
        "the CloudEvents attribute `source` is not 1 to {SOURCE_MAX_CHARS} printable characters without blanks"
    )]
    Source,
    /// A type that is not known.
    #[error("the event type {found} is not known")]
    UnknownType {
        /// The type, cut.
        found: String,
    },
    /// The routing key is not the type.
    #[error("the routing key differs from the event's type {}", event_type.as_str())]
    RoutingKey {
        /// The event's type.
        event_type: EventType,
    },
    /// Nothing in it.
    #[error("the event has no `data`")]
    DataMissing,
    /// Data in base64.
    #[error("the event has `data_base64`: its data must be JSON")]
    DataBase64,
    /// The data is not an object.
    #[error("`data` is not an object")]
    DataNotAnObject,
    /// A required field is missing.
    #[error("the field `{field}` of the data is missing")]
    FieldMissing {
        /// Which.
        field: String,
    },
    /// A field that the type does not have.
    #[error("the data has a field {field} that {} does not have", event_type.as_str())]
    FieldUnknown {
        /// Which, cut.
        field: String,
        /// The event's type.
        event_type: EventType,
    },
    /// A field of the wrong JSON type.
    #[error("the field {field} of the data has the wrong type: expected {expected}")]
    FieldType {
        /// Which, cut.
        field: String,
        /// What was expected there.
        expected: String,
    },
    /// An id that breaks its rules.
    #[error("`{field}` {error}")]
    Id {
        /// Which.
        field: &'static str,
        /// How.
        error: IdError,
    },
    /// A time that is not RFC 3339.
    #[error("`{field}` is not an RFC 3339 time with a zone")]
    Time {
        /// Which.
        field: &'static str,
    },
    /// A time out of reach.
    #[error("`{field}` lies more than {FUTURE_MAX_DAYS} days in the future")]
    TooFar {
        /// Which.
        field: &'static str,
    },
    /// The deadline would pass before the task may start.
    #[error("`deadline` is not after `not_before`")]
    DeadlineBeforeStart,
    /// A priority outside its range.
    #[error("`priority` is not a whole number from 0 to {PRIORITY_MAX}")]
    Priority,
    /// A name of a person that is empty, blank, too long, or has control characters.
    #[error("`{field}` is not 1 to {PERSON_MAX_CHARS} characters without control characters")]
    Person {
        /// Which.
        field: &'static str,
    },
    /// A comment over its limit.
    #[error("`comment` has {chars} characters: at most {COMMENT_MAX_CHARS} are allowed")]
    Comment {
        /// Length found, in characters.
        chars: usize,
    },
    /// Too many labels.
    #[error("`labels` has {count} entries: at most {LABELS_MAX_COUNT} are allowed")]
    Labels {
        /// Found.
        count: usize,
    },
    /// A label over its limits.
    #[error(
        "a label is empty or too long: keys have 1 to {LABEL_KEY_MAX_CHARS} characters, values at most {LABEL_VALUE_MAX_CHARS}"
    )]
    Label,
}

impl EventProblem {
    /// The reason under which it is stored and counted.
    #[must_use]
    pub const fn kind(&self) -> FailureKind {
        match self {
            Self::Oversized { .. } | Self::WrittenOut { .. } => FailureKind::OversizedEvent,
            Self::UnknownType { .. } => FailureKind::UnknownType,
            Self::ContentType
            | Self::NotUtf8 { .. }
            | Self::NotJson { .. }
            | Self::TooDeep
            | Self::Nul
            | Self::LoneSurrogate
            | Self::DuplicateKey { .. }
            | Self::NumberOutOfRange
            | Self::NotAnObject
            | Self::AttributeMissing { .. }
            | Self::AttributeNotText { .. }
            | Self::SpecVersion
            | Self::RoutingKey { .. }
            | Self::DataMissing
            | Self::DataBase64
            | Self::DataNotAnObject
            | Self::FieldMissing { .. }
            | Self::FieldUnknown { .. }
            | Self::FieldType { .. } => FailureKind::MalformedEvent,
            Self::Source
            | Self::Id { .. }
            | Self::Time { .. }
            | Self::TooFar { .. }
            | Self::DeadlineBeforeStart
            | Self::Priority
            | Self::Person { .. }
            | Self::Comment { .. }
            | Self::Labels { .. }
            | Self::Label => FailureKind::InvalidValue,
        }
    }

    /// What its publisher is to do.
    #[must_use]
    pub fn what_to_do(&self) -> String {
        match self {
            Self::Oversized { .. } => {
                "leave large data in an object store and put a reference into the payload"
            }
            Self::WrittenOut { .. } => "send numbers with large exponents as texts",
            Self::ContentType => {
                "publish one CloudEvents 1.0 document with the content type application/cloudevents+json"
            }
            Self::NotUtf8 { .. } => "encode the event as UTF-8",
            Self::NotJson { .. } | Self::NotAnObject | Self::SpecVersion => {
                "publish a CloudEvents 1.0 JSON object; docs/contract has a schema for each type"
            }
            Self::TooDeep => "flatten the payload, or send the deep part as a text",
            Self::Nul => "remove it, or send the text in base64",
            Self::LoneSurrogate => "send both halves of the pair, or the character itself",
            Self::DuplicateKey { .. } => "send the key once",
            Self::NumberOutOfRange => "send it as a text",
            Self::AttributeMissing { .. } | Self::AttributeNotText { .. } => {
                "set it as a text: in the JSON object, or in binary mode as the header cloudEvents:<name>"
            }
            Self::Source => "use a short URI reference such as /billing",
            Self::UnknownType { .. } => return known_types(),
            Self::RoutingKey { event_type } => {
                return format!("publish it with the routing key {}", event_type.as_str());
            }
            Self::DataMissing | Self::DataBase64 | Self::DataNotAnObject => "put a JSON object into `data`",
            Self::FieldMissing { .. } | Self::FieldUnknown { .. } | Self::FieldType { .. } => {
                "compare the data with the schema of its type in docs/contract"
            }
            Self::Id { .. } => "use an id that fits; the schemas in docs/contract give each id's pattern",
            Self::Time { .. } => "write it as 2026-01-31T12:00:00Z",
            Self::TooFar { .. } => "choose an earlier time",
            Self::DeadlineBeforeStart => "choose a later deadline or an earlier not_before",
            Self::Priority => "leave it out, or choose 0 to 9; 9 goes first",
            Self::Person { .. } => "name the person or service that acts",
            Self::Comment { .. } => "shorten it",
            Self::Labels { .. } | Self::Label => "register fewer or shorter labels",
        }
        .to_owned()
    }
}

fn known_types() -> String {
    let known: Vec<&str> = EventType::ALL.into_iter().map(EventType::as_str).collect();
    format!("use one of: {}", known.join(", "))
}

/// Why an event is rejected by its form alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EventError {
    /// The reason, from the closed list.
    pub kind: FailureKind,
    /// What is wrong; names fields and limits, never values.
    pub message: String,
    /// What to do about it.
    pub what_to_do: String,
    /// The same, for programs.
    pub problem: Box<EventProblem>,
}

impl From<EventProblem> for EventError {
    fn from(problem: EventProblem) -> Self {
        Self {
            kind: problem.kind(),
            message: problem.to_string(),
            what_to_do: problem.what_to_do(),
            problem: Box::new(problem),
        }
    }
}

/// A name that came with the event, fit to stand in a message: quoted, escaped and cut.
pub(super) fn excerpt(name: &str) -> String {
    let cut = bound(name, FIELD_EXCERPT_MAX_CHARS);
    let escaped: String = cut.chars().flat_map(char::escape_debug).collect();
    format!("`{}`", bound(&escaped, FIELD_EXCERPT_MAX_CHARS))
}
