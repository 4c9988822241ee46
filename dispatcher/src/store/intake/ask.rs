//! Approve, discard, cancel: inputs of the transition function, in the transaction of their event.

use serde_json::json;
use switchyard_common::contract::answer::Accepted;
use switchyard_common::contract::event::{TaskApproved, TaskCancelRequested, TaskDiscarded};
use switchyard_common::contract::ids::TaskId;
use switchyard_common::failure::FailureKind;
use switchyard_common::task::{Refusal, Subject};

use super::Batch;
use crate::intake::command::{Admitted, Rejection, Verdict};
use crate::store::StoreError;
use crate::store::act::{Act, Acted, Asked, act_in};

impl Batch<'_> {
    pub(super) async fn approve(
        &mut self,
        event: &Admitted,
        asked: &TaskApproved,
    ) -> Result<Verdict, StoreError> {
        let act = Act::Approve { digest: asked.artifact_digest.clone() };
        self.ask(event, &asked.task_id, act, &asked.approved_by, asked.comment.as_deref()).await
    }

    pub(super) async fn discard(
        &mut self,
        event: &Admitted,
        asked: &TaskDiscarded,
    ) -> Result<Verdict, StoreError> {
        self.ask(event, &asked.task_id, Act::Discard, &asked.discarded_by, asked.comment.as_deref()).await
    }

    pub(super) async fn cancel(
        &mut self,
        event: &Admitted,
        asked: &TaskCancelRequested,
    ) -> Result<Verdict, StoreError> {
        let act = Act::Cancel { force: asked.force.unwrap_or(false) };
        self.ask(event, &asked.task_id, act, &asked.requested_by, None).await
    }

    async fn ask(
        &mut self,
        event: &Admitted,
        task_id: &TaskId,
        act: Act,
        by: &str,
        comment: Option<&str>,
    ) -> Result<Verdict, StoreError> {
        let detail = json!({ "comment": comment, "event": event.key.id, "source": event.key.source });
        let asked = Asked { task_id: task_id.clone(), act, by: by.to_owned(), detail };
        let acted = act_in(self.db, self.transaction, &asked).await?;
        if let Acted::Changed(after) = &acted {
            self.pools.insert(after.task.pool.clone());
        }
        Ok(answer_to_act(event, task_id, &acted))
    }
}

/// What whoever asked for an act is told. Pure.
#[must_use]
pub fn answer_to_act(event: &Admitted, task_id: &TaskId, acted: &Acted) -> Verdict {
    match acted {
        Acted::Changed(subject) | Acted::Unchanged(subject) => Verdict::Accepted(accepted(event, subject)),
        Acted::Refused(refusal) => Verdict::Rejected(rejection(task_id, refusal)),
        Acted::UnknownTask => Verdict::Hold(unknown_task(task_id)),
    }
}

fn accepted(event: &Admitted, subject: &Subject) -> Accepted {
    let task = &subject.task;
    Accepted {
        event_id: event.key.id.clone(),
        task_id: Some(task.id.clone()),
        status: Some(task.status),
        artifact_digest: task.approval.as_ref().map(|approval| approval.digest.clone()),
        note: None,
    }
}

fn unknown_task(task_id: &TaskId) -> Rejection {
    Rejection::new(FailureKind::UnknownTask, format!("task {task_id} does not exist"), "check the task id")
}

/// What a refusal means to whoever asked.
fn rejection(task_id: &TaskId, refusal: &Refusal) -> Rejection {
    let what_to_do = match refusal {
        Refusal::NeedsForce => {
            "repeat with force = true when you accept that things may be left half changed"
        }
        Refusal::DigestMismatch { .. } => "look at what waits now, and approve its digest",
        Refusal::Uncertain => "resolve it with `dispatcher tasks resolve`",
        Refusal::NotAwaitingApproval { .. } => "wait for its notification `awaiting_approval`",
        Refusal::Terminal(_) | Refusal::AlreadyApproved { .. } | Refusal::AlreadyCancelled { .. } => {
            "nothing: look at the task to see what became of it"
        }
        Refusal::UnknownAttempt
        | Refusal::ForeignAgent
        | Refusal::WrongToken
        | Refusal::OtherSession
        | Refusal::PoolRevoked
        | Refusal::StaleEpoch
        | Refusal::Ended(_)
        | Refusal::Duplicate
        | Refusal::NeverAllowed
        | Refusal::NotUncertain { .. }
        | Refusal::SessionMayLive
        | Refusal::NotNow(_)
        | Refusal::NotApproved
        | Refusal::OtherPool => "look at the task to see what it waits for",
    };
    let digest_differs = matches!(refusal, Refusal::DigestMismatch { .. });
    let code = if digest_differs { FailureKind::InvalidValue } else { FailureKind::RejectedTransition };
    Rejection::new(code, format!("task {task_id}: {refusal}"), what_to_do)
}
