//! What a sweep leaves in the timeline of a task. Pure.

use serde_json::json;
use switchyard_common::task::{Input, RevokeReason, Subject};

use crate::store::Applied;
use crate::store::notes::Note;

/// The note of an input that changed its task; none where the change speaks for itself.
pub(super) fn note(applied: &Applied) -> Option<Note> {
    let after = applied.after()?;
    let (what, detail) = match &applied.named.input {
        Input::SessionEnded { session, reason } => {
            ("agent lost", json!({ "agent": agent(applied), "session": session, "reason": reason.as_str() }))
        }
        Input::NotListed => ("not listed by its agent", json!({ "agent": agent(applied) })),
        Input::Revoke { reason } => ("stop requested", stop(applied, *reason)),
        Input::DeadlinePassed => match after.attempt.as_ref().and_then(|attempt| attempt.revoke) {
            Some(revoke) => ("stop requested", stop(applied, revoke.reason)),
            None => return None,
        },
        Input::Promote => ("promoted by the sweep", json!({})),
        Input::Due { .. }
        | Input::QueueTimeout
        | Input::ApprovalExpired
        | Input::Assign(_)
        | Input::Returned { .. }
        | Input::Ask { .. }
        | Input::Started { .. }
        | Input::Outcome { .. }
        | Input::Approve { .. }
        | Input::Discard { .. }
        | Input::Cancel { .. }
        | Input::Resolve { .. }
        | Input::RetryNow => return None,
    };
    let attempt = before_attempt(applied).map(|attempt| attempt.number);
    Some(Note { task_id: after.task.id.clone(), attempt, what, detail })
}

fn stop(applied: &Applied, reason: RevokeReason) -> serde_json::Value {
    json!({ "agent": agent(applied), "reason": reason.as_str() })
}

fn agent(applied: &Applied) -> Option<String> {
    before_attempt(applied).map(|attempt| attempt.assignee.agent.to_string())
}

fn before_attempt(applied: &Applied) -> Option<&switchyard_common::task::Attempt> {
    applied.before.as_ref().and_then(|Subject { attempt, .. }| attempt.as_ref())
}
