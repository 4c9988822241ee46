//! Acting on tasks: `approve`, `discard`, `cancel`, `retry-now`, `resolve`.

use std::process::ExitCode;

use anyhow::bail;
use switchyard_common::task::ResolveTo;

use super::{Approve, By, Cancel, Resolve};
use crate::cli::connect::actor;
use crate::cli::output;
use crate::store::act::{self, Act, Acted, Asked};
use crate::store::{Db, operate};

pub(super) async fn approve(db: &Db, approve: &Approve) -> anyhow::Result<ExitCode> {
    run(db, &approve.by, Act::Approve { digest: approve.digest.clone() }).await
}

pub(super) async fn discard(db: &Db, by: &By) -> anyhow::Result<ExitCode> {
    run(db, by, Act::Discard).await
}

pub(super) async fn cancel(db: &Db, cancel: &Cancel) -> anyhow::Result<ExitCode> {
    run(db, &cancel.by, Act::Cancel { force: cancel.force }).await
}

pub(super) async fn retry_now(db: &Db, by: &By) -> anyhow::Result<ExitCode> {
    run(db, by, Act::RetryNow).await
}

pub(super) async fn resolve(db: &Db, resolve: &Resolve) -> anyhow::Result<ExitCode> {
    let to = if resolve.to == "succeeded" { ResolveTo::Succeeded } else { ResolveTo::Failed };
    run(db, &resolve.by, Act::Resolve { to, override_reason: resolve.override_reason.clone() }).await
}

/// Acts, wakes the dispatchers, and says what came of it.
async fn run(db: &Db, by: &By, act: Act) -> anyhow::Result<ExitCode> {
    let task_id = &by.task_id;
    let asked = Asked {
        task_id: task_id.clone(),
        act,
        by: actor(by.by.as_deref())?,
        detail: serde_json::json!({ "comment": by.comment }),
    };
    match act::act(db, &asked).await? {
        Acted::Changed(after) => {
            // A lost wake-up costs the period of passes; the act is committed.
            operate::wake(db, &after.task.pool).await?;
            let bound = after.task.approval.as_ref().filter(|_| matches!(asked.act, Act::Approve { .. }));
            let digest = bound.map(|approval| format!(", approved: {}", approval.digest));
            output::line(&format!("task {task_id}: {}{}", after.task.status, digest.unwrap_or_default()));
            Ok(ExitCode::SUCCESS)
        }
        Acted::Unchanged(before) => {
            output::line(&format!("task {task_id}: {}, nothing to change", before.task.status));
            Ok(ExitCode::SUCCESS)
        }
        Acted::Refused(refusal) => bail!("task {task_id}: {refusal}"),
        Acted::UnknownTask => bail!("task {task_id} does not exist"),
    }
}
