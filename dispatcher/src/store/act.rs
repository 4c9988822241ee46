//! What a person does to a task: the change, its audit row and its line in the timeline, in one transaction. However the wish came,
//! by command or by event, an act that happened is always known with who and why, and one that is known has happened.

use serde_json::{Value, json};
use switchyard_common::contract::ids::{Digest, TaskId};
use switchyard_common::task::{Input, Refusal, ResolveTo, Subject, Verdict};

use super::apply::{Applied, Applier, Named};
use super::db::{Db, Transaction};
use super::error::StoreError;
use super::operate;

/// What can be done to a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Let it go on with what waits.
    Approve {
        /// What is approved; none = what is current.
        digest: Option<Digest>,
    },
    /// End it instead of approving it.
    Discard,
    /// End it.
    Cancel {
        /// Even a non-repeatable step that runs.
        force: bool,
    },
    /// Do not wait for the next try, or for `not_before`.
    RetryNow,
    /// End an uncertain task by an operator's word.
    Resolve {
        /// To what.
        to: ResolveTo,
        /// Said by whoever takes the risk that its agent still runs.
        override_reason: Option<String>,
    },
}

/// One act, with whoever answers for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// The task.
    pub task_id: TaskId,
    /// What is done.
    pub act: Act,
    /// Who.
    pub by: String,
    /// What else is known of it: a comment, the event that asked. An object; nulls are left out of the timeline.
    pub detail: Value,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Acted {
    /// It happened, and is written down. The task as it is now.
    Changed(Box<Subject>),
    /// The task was so already; nothing is written.
    Unchanged(Box<Subject>),
    /// It is not allowed; nothing is written.
    Refused(Refusal),
    /// There is no such task.
    UnknownTask,
}

impl Act {
    /// The word of the audit log.
    #[must_use]
    pub fn audited_as(&self) -> &'static str {
        match self {
            Self::Approve { .. } => "approve",
            Self::Discard => "discard",
            Self::Cancel { .. } => "cancel",
            Self::RetryNow => "retry-now",
            Self::Resolve { .. } => "resolve",
        }
    }

    /// The word of the timeline. Where a column of the task tells the act as well, it is the same word, so that they become one line.
    #[must_use]
    pub fn told_as(&self) -> &'static str {
        match self {
            Self::Approve { .. } => "approved",
            Self::Discard => "discarded",
            Self::Cancel { force: false } => "cancel requested",
            Self::Cancel { force: true } => "cancel requested with force",
            Self::RetryNow => "retry asked for",
            Self::Resolve { .. } => "resolved",
        }
    }

    fn input(&self, by: &str, session_over: bool) -> Input {
        let by = by.to_owned();
        match self {
            Self::Approve { digest } => Input::Approve { by, digest: digest.clone() },
            Self::Discard => Input::Discard { by },
            Self::Cancel { force } => Input::Cancel { by, force: *force },
            Self::RetryNow => Input::RetryNow,
            Self::Resolve { to, override_reason } => {
                Input::Resolve { by, to: *to, session_over, override_reason: override_reason.clone() }
            }
        }
    }

    /// What whoever acts took upon themselves.
    fn risk(&self) -> Option<(&'static str, Value)> {
        match self {
            Self::Cancel { force: true } => Some(("force", json!(true))),
            Self::Resolve { override_reason: Some(reason), .. } => Some(("override", json!(reason))),
            Self::Approve { .. }
            | Self::Discard
            | Self::Cancel { force: false }
            | Self::RetryNow
            | Self::Resolve { override_reason: None, .. } => None,
        }
    }
}

/// Does it, in a transaction of its own.
pub async fn act(db: &Db, asked: &Asked) -> Result<Acted, StoreError> {
    db.transaction(|transaction| async move { act_in(db, &transaction, asked).await }).await
}

/// Does it in a transaction to which more belongs.
pub(crate) async fn act_in(db: &Db, transaction: &Transaction, asked: &Asked) -> Result<Acted, StoreError> {
    let mut named =
        Named { task_id: asked.task_id.clone(), attempt: None, input: asked.act.input(&asked.by, false) };
    let mut applier = Applier::load(db, transaction, std::slice::from_ref(&named)).await?;
    if matches!(asked.act, Act::Resolve { .. }) {
        // Asked under the task's lock: a session that is heard again in between must count.
        let session_over = operate::session_is_over(transaction, &asked.task_id).await?;
        named.input = asked.act.input(&asked.by, session_over);
    }
    let applied = applier.decide(&named);
    applier.finish().await?;
    let acted = Acted::from(applied);
    if let Acted::Changed(after) = &acted {
        write_down(transaction, asked, after).await?;
    }
    Ok(acted)
}

impl From<Applied> for Acted {
    fn from(applied: Applied) -> Self {
        let (Some(before), Some(decision)) = (applied.before, applied.decision) else {
            return Self::UnknownTask;
        };
        match decision.verdict {
            Verdict::Changed(after) => Self::Changed(after),
            Verdict::Unchanged => Self::Unchanged(Box::new(before)),
            Verdict::Refused(refusal) => Self::Refused(refusal),
        }
    }
}

/// The audit row and the line of the timeline.
async fn write_down(transaction: &Transaction, asked: &Asked, after: &Subject) -> Result<(), StoreError> {
    const NOTE: &str = "INSERT INTO task_notes (task_id, at, what, detail) VALUES ($1, now(), $2, $3)";
    let mut detail = asked.detail.clone();
    if let Value::Object(fields) = &mut detail {
        fields.extend(asked.act.risk().map(|(name, value)| (name.to_owned(), value)));
        if let (Act::Approve { .. }, Some(approval)) = (&asked.act, &after.task.approval) {
            fields.insert("digest".to_owned(), json!(approval.digest));
        }
        fields.insert("status".to_owned(), json!(after.task.status));
    }
    let subject = format!("task:{}", asked.task_id);
    operate::audit(transaction, &asked.by, asked.act.audited_as(), &subject, &detail).await?;
    if let Value::Object(fields) = &mut detail {
        fields.remove("status");
        fields.insert("by".to_owned(), json!(asked.by));
    }
    transaction.execute(NOTE, &[&asked.task_id.as_str(), &asked.act.told_as(), &detail]).await?;
    Ok(())
}
