//! Admitted events for tests of the store: what intake would hand over.

use chrono::Utc;
use serde_json::{Value, json};
use switchyard_common::contract::cloudevent::CloudEvent;
use switchyard_common::contract::event::EventType;
use switchyard_common::contract::ids::TaskId;
use switchyard_common::contract::parse::parse_event;
use switchyard_common::task::Kinds;
use switchyard_dispatcher::intake::admit::admit;
use switchyard_dispatcher::intake::command::{Admitted, Rejection, Verdict};
use switchyard_dispatcher::store::Db;
use switchyard_dispatcher::store::intake::{IntakeRules, store};
use uuid::Uuid;

/// The rules that tests run under.
pub const RULES: IntakeRules = IntakeRules { allow_new_pools: true };

/// An event with a drawn id from the source `/tests`, through the production parser and admission.
///
/// # Panics
/// When it is not admitted.
#[must_use]
pub fn admitted(event_type: EventType, data: Value) -> Admitted {
    admitted_as(&Uuid::new_v4().to_string(), "/tests", event_type, data)
}

/// An event with an id and a source.
///
/// # Panics
/// When it is not admitted.
#[must_use]
pub fn admitted_as(id: &str, source: &str, event_type: EventType, data: Value) -> Admitted {
    let event = CloudEvent::new(id, source, event_type.as_str(), data);
    let body = serde_json::to_vec(&event).expect("an event is JSON");
    let parsed =
        parse_event(event_type.as_str(), None, &std::collections::BTreeMap::new(), &body, Utc::now());
    let parsed = parsed.unwrap_or_else(|error| panic!("the event is not right: {error}"));
    let fresh = TaskId::new(Uuid::new_v4().to_string()).expect("a drawn id");
    admit(parsed, &Kinds::with_built_in([]).expect("the built-in kinds"), fresh).expect("admitted")
}

/// A submission; `more` adds or replaces fields.
#[must_use]
pub fn submission(task_id: &str, workspace: &str, kind: &str, more: Value) -> Admitted {
    let mut data = json!({ "task_id": task_id, "workspace_id": workspace, "kind": kind, "payload": {}, "pool": "default" });
    if let (Value::Object(fields), Value::Object(more)) = (&mut data, more) {
        fields.extend(more);
    }
    admitted(EventType::TaskSubmitted, data)
}

/// Stores one event and gives its verdict.
///
/// # Panics
/// When the store fails.
pub async fn store_one(db: &Db, event: Admitted) -> Verdict {
    let mut stored = store(db, &[event], RULES).await.expect("stored");
    stored.verdicts.pop().expect("one verdict")
}

/// Stores one event that must be rejected.
///
/// # Panics
/// When it is not rejected.
pub async fn rejected(db: &Db, event: Admitted) -> Rejection {
    match store_one(db, event).await {
        Verdict::Rejected(rejection) | Verdict::Hold(rejection) => rejection,
        Verdict::Accepted(accepted) => panic!("accepted: {accepted:?}"),
    }
}
