//! Approve, discard, cancel: inputs of the transition function, in the transaction of their event.

use switchyard_common::contract::answer::Accepted;
use switchyard_common::contract::event::{TaskApproved, TaskCancelRequested, TaskDiscarded};
use switchyard_common::contract::ids::TaskId;
use switchyard_common::failure::FailureKind;
use switchyard_common::task::{Input, Refusal, Subject, Verdict as Decided};

use super::Batch;
use crate::intake::command::{Admitted, Rejection, Verdict};
use crate::store::{Applier, Named, StoreError};

impl Batch<'_> {
    pub(super) async fn approve(
        &mut self,
        event: &Admitted,
        asked: &TaskApproved,
    ) -> Result<Verdict, StoreError> {
        let input = Input::Approve { by: asked.approved_by.clone(), digest: asked.artifact_digest.clone() };
        self.ask(event, &asked.task_id, input, asked.comment.as_deref()).await
    }

    pub(super) async fn discard(
        &mut self,
        event: &Admitted,
        asked: &TaskDiscarded,
    ) -> Result<Verdict, StoreError> {
        let input = Input::Discard { by: asked.discarded_by.clone() };
        self.ask(event, &asked.task_id, input, asked.comment.as_deref()).await
    }

    pub(super) async fn cancel(
        &mut self,
        event: &Admitted,
        asked: &TaskCancelRequested,
    ) -> Result<Verdict, StoreError> {
        let input = Input::Cancel { by: asked.requested_by.clone(), force: asked.force.unwrap_or(false) };
        self.ask(event, &asked.task_id, input, None).await
    }

    async fn ask(
        &mut self,
        event: &Admitted,
        task_id: &TaskId,
        input: Input,
        comment: Option<&str>,
    ) -> Result<Verdict, StoreError> {
        let named = Named { task_id: task_id.clone(), attempt: None, input };
        let mut applier = Applier::load(self.db, self.transaction, std::slice::from_ref(&named)).await?;
        let applied = applier.decide(&named);
        applier.finish().await?;
        let Some(decision) = &applied.decision else {
            return Ok(Verdict::Hold(unknown_task(task_id)));
        };
        Ok(match &decision.verdict {
            Decided::Changed(after) => {
                self.pools.insert(after.task.pool.clone());
                self.note(event, &named, comment).await?;
                Verdict::Accepted(accepted(event, after))
            }
            Decided::Unchanged => match &applied.before {
                Some(before) => Verdict::Accepted(accepted(event, before)),
                None => Verdict::Hold(unknown_task(task_id)),
            },
            Decided::Refused(refusal) => Verdict::Rejected(rejection(task_id, refusal)),
        })
    }

    async fn note(&self, event: &Admitted, named: &Named, comment: Option<&str>) -> Result<(), StoreError> {
        let (what, by) = match &named.input {
            Input::Approve { by, .. } => ("approved", by),
            Input::Discard { by } => ("discarded", by),
            Input::Cancel { by, force: false } => ("cancel requested", by),
            Input::Cancel { by, force: true } => ("cancel requested with force", by),
            Input::Due { .. }
            | Input::Promote
            | Input::Assign(_)
            | Input::Returned { .. }
            | Input::Ask { .. }
            | Input::Started { .. }
            | Input::Outcome { .. }
            | Input::SessionEnded { .. }
            | Input::NotListed
            | Input::Revoke { .. }
            | Input::DeadlinePassed
            | Input::QueueTimeout
            | Input::ApprovalExpired
            | Input::Resolve { .. }
            | Input::RetryNow => return Ok(()),
        };
        let detail = serde_json::json!({ "by": by, "comment": comment, "event": event.key.id, "source": event.key.source });
        self.transaction
            .execute(
                "INSERT INTO task_notes (task_id, at, what, detail) VALUES ($1, now(), $2, $3)",
                &[&named.task_id.as_str(), &what, &detail],
            )
            .await?;
        Ok(())
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
