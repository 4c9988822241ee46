//! Admission: what can be decided about an event without a database. Pure.

use switchyard_common::contract::event::{EventData, TaskSubmitted};
use switchyard_common::contract::ids::TaskId;
use switchyard_common::contract::parse::{EventError, ParsedEvent};
use switchyard_common::failure::FailureKind;
use switchyard_common::task::Kinds;

use super::command::{Admitted, Command, EventKey, NewTask, Rejection};

/// Resolves an event against the configured kinds. `fresh` is the id of a task that brings none.
pub fn admit(event: ParsedEvent, kinds: &Kinds, fresh: TaskId) -> Result<Admitted, Rejection> {
    let command = match event.data {
        EventData::WorkspaceRegistered(registered) => Command::Register(registered),
        EventData::TaskSubmitted(submitted) => Command::Submit(Box::new(new_task(*submitted, kinds, fresh)?)),
        EventData::TaskApproved(approved) => Command::Approve(approved),
        EventData::TaskDiscarded(discarded) => Command::Discard(discarded),
        EventData::TaskCancelRequested(cancel) => Command::Cancel(cancel),
    };
    Ok(Admitted {
        key: EventKey { source: event.source, id: event.id },
        event_type: event.event_type.as_str(),
        body_hash: event.body_hash,
        traceparent: event.traceparent,
        command,
    })
}

fn new_task(submitted: TaskSubmitted, kinds: &Kinds, fresh: TaskId) -> Result<NewTask, Rejection> {
    let Some(kind) = kinds.get(&submitted.kind) else {
        return Err(Rejection::new(
            FailureKind::UnknownKind,
            format!("kind {} is not known", submitted.kind),
            format!("use one of: {}; or configure it in the dispatcher", kinds.names().join(", ")),
        ));
    };
    let auto_approve = submitted.auto_approve.unwrap_or(false);
    if auto_approve && !kind.auto_approve_allowed {
        return Err(Rejection::new(
            FailureKind::InvalidValue,
            format!("kind {} does not allow auto_approve", kind.name),
            "leave auto_approve out, or allow it for the kind in the dispatcher's configuration",
        ));
    }
    // The form was checked already: a priority fits, see contract::parse.
    let priority = submitted.priority.and_then(|priority| u8::try_from(priority).ok());
    Ok(NewTask {
        id_is_drawn: submitted.task_id.is_none(),
        task_id: submitted.task_id.unwrap_or(fresh),
        workspace: submitted.workspace_id,
        pool: submitted.pool,
        kind: kind.clone(),
        payload: submitted.payload,
        priority: priority.unwrap_or(kind.default_priority),
        not_before: submitted.not_before,
        deadline: submitted.deadline,
        auto_approve,
        idempotency_key: submitted.idempotency_key,
        replay_of: submitted.replay_of,
    })
}

impl From<EventError> for Rejection {
    fn from(error: EventError) -> Self {
        Self::new(error.kind, error.message, error.what_to_do)
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use serde_json::json;
    use std::collections::BTreeMap;
    use switchyard_common::contract::cloudevent::CloudEvent;
    use switchyard_common::contract::event::EventType;
    use switchyard_common::contract::parse::parse_event;

    use super::*;

    fn submitted(data: serde_json::Value) -> Result<Admitted, Rejection> {
        let event = CloudEvent::new("e-1", "/tests", EventType::TaskSubmitted.as_str(), data);
        let body = serde_json::to_vec(&event).unwrap();
        let parsed = parse_event(&event.event_type, None, &BTreeMap::new(), &body, DateTime::UNIX_EPOCH)?;
        admit(parsed, &Kinds::with_built_in([]).unwrap(), TaskId::new("fresh").unwrap())
    }

    #[test]
    fn an_unknown_kind_is_rejected_with_the_list_of_known_ones() {
        let rejection =
            submitted(json!({ "workspace_id": "w", "kind": "destroy", "payload": {} })).unwrap_err();
        assert_eq!(rejection.code, FailureKind::UnknownKind);
        assert!(rejection.what_to_do.contains("drift_check, plan, plan_and_apply"));
    }

    #[test]
    fn a_task_without_an_id_or_a_priority_gets_them() {
        let admitted = submitted(json!({ "workspace_id": "w", "kind": "plan", "payload": {} })).unwrap();
        let Command::Submit(new) = admitted.command else { panic!("not a submission") };
        assert_eq!((new.task_id.as_str(), new.id_is_drawn, new.priority), ("fresh", true, 1));
    }

    #[test]
    fn auto_approve_is_refused_where_the_kind_does_not_allow_it() {
        let data = json!({ "workspace_id": "w", "kind": "plan", "payload": {}, "auto_approve": true });
        assert_eq!(submitted(data).unwrap_err().code, FailureKind::InvalidValue);
    }

    #[test]
    fn incident_65_a_submission_without_a_payload_is_rejected_and_never_given_an_empty_one() {
        let rejection = submitted(json!({ "workspace_id": "w", "kind": "plan" })).unwrap_err();
        assert_eq!(rejection.code, FailureKind::MalformedEvent);
        assert!(rejection.message.contains("payload"));
    }
}
