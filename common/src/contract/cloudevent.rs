//! The CloudEvents 1.0 envelope, structured mode (JSON event format) and the attributes of binary mode (AMQP headers).

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `content_type` of a structured event.
pub const STRUCTURED_CONTENT_TYPE: &str = "application/cloudevents+json";
/// The only version of the specification that is read and written.
pub const SPEC_VERSION: &str = "1.0";
/// Prefix of the AMQP headers that carry attributes in binary mode; `cloudEvents_` is accepted too.
pub const BINARY_HEADER_PREFIX: &str = "cloudEvents:";

/// An envelope. `id` with `source` identifies the event: a second copy changes nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CloudEvent {
    /// Always `1.0`.
    pub specversion: String,
    /// Unique in its source.
    pub id: String,
    /// Who published it, as a URI reference.
    pub source: String,
    /// Such as `switchyard.task.submitted.v1`; equals the routing key.
    #[serde(rename = "type")]
    pub event_type: String,
    /// When it happened, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<DateTime<Utc>>,
    /// What it is about, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// `application/json` when present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datacontenttype: Option<String>,
    /// W3C trace context (CloudEvents distributed tracing extension).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The data of the event's type.
    #[serde(default)]
    pub data: Value,
    /// Extension attributes: carried, not read.
    #[serde(flatten)]
    pub extensions: BTreeMap<String, Value>,
}

impl CloudEvent {
    /// An envelope around `data`, without optional attributes.
    #[must_use]
    pub fn new(
        id: impl Into<String>,
        source: impl Into<String>,
        event_type: impl Into<String>,
        data: Value,
    ) -> Self {
        Self {
            specversion: SPEC_VERSION.to_owned(),
            id: id.into(),
            source: source.into(),
            event_type: event_type.into(),
            time: None,
            subject: None,
            datacontenttype: Some("application/json".to_owned()),
            traceparent: None,
            data,
            extensions: BTreeMap::new(),
        }
    }
}
