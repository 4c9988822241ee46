//! The contract as documents for people and programs outside Rust: a JSON Schema per message and one AsyncAPI document.
//!
//! Pure and deterministic: the same types give the same bytes. `make contract` writes them to `docs/contract/`, and a test holds
//! what is checked in there against this code. Draft 7 is the JSON Schema that AsyncAPI 3.0 builds on.

mod asyncapi;

use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::assignment::AgentMessage;
use super::cloudevent::{CloudEvent, SPEC_VERSION};
use super::control::Control;
use super::event::{
    EventType, TaskApproved, TaskCancelRequested, TaskDiscarded, TaskSubmitted, WorkspaceRegistered,
};
use super::limits::{ID_MAX_CHARS, SOURCE_MAX_CHARS};
use super::notification::Notification;
use super::report::Report;
use crate::task::Status;

/// File of the messages on an agent's own queue.
pub const AGENT_MESSAGE_FILE: &str = "agent-message.schema.json";
/// File of the control messages.
pub const CONTROL_FILE: &str = "control.schema.json";
/// File of the reports.
pub const REPORT_FILE: &str = "report.schema.json";
/// File of the answers to publishers.
pub const ANSWER_FILE: &str = "answer.schema.json";
/// File of the notifications.
pub const NOTIFICATION_FILE: &str = "notification.schema.json";
/// File of the AsyncAPI document.
pub const ASYNCAPI_FILE: &str = "asyncapi.json";

/// File of an event's schema.
#[must_use]
pub fn event_file(event_type: EventType) -> String {
    format!("{}.schema.json", event_type.as_str())
}

/// Every document: file name to text.
pub fn documents() -> Result<BTreeMap<String, String>, serde_json::Error> {
    let mut documents = BTreeMap::new();
    for (name, schema) in schemas() {
        documents.insert(name, pretty(schema.as_value())?);
    }
    documents.insert(ASYNCAPI_FILE.to_owned(), pretty(&asyncapi::document())?);
    Ok(documents)
}

/// Every schema: file name to schema.
#[must_use]
pub fn schemas() -> BTreeMap<String, Schema> {
    let events = EventType::ALL.map(|event_type| (event_file(event_type), event_schema(event_type)));
    let messages = [
        (AGENT_MESSAGE_FILE, read::<AgentMessage>()),
        (CONTROL_FILE, read::<Control>()),
        (REPORT_FILE, read::<Report>()),
        (ANSWER_FILE, written::<Answer>()),
        (NOTIFICATION_FILE, notification_schema()),
    ];
    events.into_iter().chain(messages.map(|(name, schema)| (name.to_owned(), schema))).collect()
}

/// The CloudEvents types that notifications have.
fn notification_types() -> Vec<String> {
    let tasks = Status::ALL.map(|status| format!("switchyard.task.{status}.v1"));
    tasks.into_iter().chain(["switchyard.dead_letter.v1".to_owned()]).collect()
}

/// Schema of a message that Switchyard reads.
fn read<T: JsonSchema>() -> Schema {
    finished(settings().into_generator().into_root_schema_for::<T>())
}

/// Schema of a message that Switchyard writes. Its readers must ignore fields that they do not know.
fn written<T: JsonSchema>() -> Schema {
    finished(settings().for_serialize().into_generator().into_root_schema_for::<T>())
}

fn settings() -> SchemaSettings {
    SchemaSettings::draft07()
}

fn event_schema(event_type: EventType) -> Schema {
    let mut generator = settings().into_generator();
    let data = match event_type {
        EventType::WorkspaceRegistered => generator.subschema_for::<WorkspaceRegistered>(),
        EventType::TaskSubmitted => generator.subschema_for::<TaskSubmitted>(),
        EventType::TaskApproved => generator.subschema_for::<TaskApproved>(),
        EventType::TaskDiscarded => generator.subschema_for::<TaskDiscarded>(),
        EventType::TaskCancelRequested => generator.subschema_for::<TaskCancelRequested>(),
    };
    envelope(generator, event_type.as_str(), &json!({ "const": event_type.as_str() }), data)
}

fn notification_schema() -> Schema {
    let mut generator = settings().for_serialize().into_generator();
    let data = generator.subschema_for::<Notification>();
    envelope(generator, "Notification", &json!({ "enum": notification_types() }), data)
}

/// The CloudEvents envelope around `data`, with what the reader checks beyond the Rust type.
fn envelope(generator: SchemaGenerator, title: &str, event_type: &Value, data: Schema) -> Schema {
    const PRINTABLE: &str = "^[!-~]([ -~]*[!-~])?$";
    let mut schema = generator.into_root_schema_for::<CloudEvent>();
    schema.insert("title".to_owned(), title.into());
    schema.insert("required".to_owned(), json!(["specversion", "id", "source", "type", "data"]));
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        refine(properties, "specversion", &json!({ "const": SPEC_VERSION }));
        refine(properties, "id", &json!({ "minLength": 1, "maxLength": ID_MAX_CHARS, "pattern": PRINTABLE }));
        let source = json!({ "minLength": 1, "maxLength": SOURCE_MAX_CHARS, "pattern": "^[!-~]+$" });
        refine(properties, "source", &source);
        refine(properties, "type", event_type);
        properties.insert("data".to_owned(), data.into());
    }
    finished(schema)
}

/// Adds keywords to a property.
fn refine(properties: &mut Map<String, Value>, name: &str, keywords: &Value) {
    if let (Some(Value::Object(property)), Value::Object(keywords)) = (properties.get_mut(name), keywords) {
        property.extend(keywords.clone());
    }
}

/// Takes out what only Rust's own documentation understands.
fn finished(mut schema: Schema) -> Schema {
    RecursiveTransform(|schema: &mut Schema| {
        if let Some(Value::String(text)) = schema.get_mut("description") {
            *text = text.replace("[`", "`").replace("`]", "`").replace('\n', " ");
        }
    })
    .transform(&mut schema);
    schema
}

fn pretty(value: &Value) -> Result<String, serde_json::Error> {
    let mut text = serde_json::to_string_pretty(&sorted(value))?;
    text.push('\n');
    Ok(text)
}

/// Sorts keys itself, as the hash of events does: the order must not depend on a feature of a dependency.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
        Value::Array(items) => items.iter().map(sorted).collect(),
        Value::Object(object) => {
            let entries: BTreeMap<_, _> = object.iter().collect();
            entries.into_iter().map(|(key, item)| (key.clone(), sorted(item))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_are_the_same_each_time_and_end_with_a_newline() {
        let documents = documents().unwrap();
        assert_eq!(documents, super::documents().unwrap());
        assert_eq!(documents.len(), EventType::ALL.len() + 6);
        assert!(documents.values().all(|text| text.ends_with("}\n")));
    }

    #[test]
    fn every_schema_has_a_title_and_a_description_and_no_rust_links() {
        for (name, schema) in schemas() {
            assert!(schema.get("title").is_some(), "{name}");
            assert!(schema.get("description").is_some(), "{name}");
            assert!(!schema.as_value().to_string().contains("[`"), "{name}");
        }
    }

    #[test]
    fn the_schema_of_an_assignment_requires_every_field() {
        let schemas = schemas();
        let message = schemas[AGENT_MESSAGE_FILE].as_value();
        let assignment = message["oneOf"]
            .as_array()
            .unwrap()
            .iter()
            .find(|variant| variant["properties"]["type"]["const"] == "assignment")
            .unwrap();
        let fields: std::collections::BTreeSet<_> =
            assignment["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        let required: std::collections::BTreeSet<_> =
            assignment["required"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert_eq!(fields, required);
    }
}
