//! What a batch of submissions needs to know, asked for in one go: each question that waits for the answer to the one before costs an
//! idle system a good part of a millisecond.

use std::collections::{BTreeMap, BTreeSet};

use switchyard_common::contract::ids::WorkspaceId;

use super::submit::{Candidate, Taken, taken};
use super::workspaces::{Workspace, find_workspaces, lock_workspaces};
use crate::intake::command::{Admitted, Command};
use crate::store::{StoreError, Transaction};

/// What was read.
pub(super) struct Ahead {
    /// The workspaces that there are; those of exclusive tasks are locked, and all stay in their pool.
    pub(super) workspaces: BTreeMap<WorkspaceId, Workspace>,
    pub(super) taken: Taken,
}

/// Reads ahead for events that are all submissions; anything else may change what would be read.
pub(super) async fn read(
    transaction: &Transaction,
    events: &[Admitted],
) -> Result<Option<Ahead>, StoreError> {
    let mut candidates = Vec::with_capacity(events.len());
    for (index, event) in events.iter().enumerate() {
        let Command::Submit(new) = &event.command else { return Ok(None) };
        candidates.push(Candidate { index, event, new });
    }
    let named: BTreeSet<WorkspaceId> = candidates.iter().map(|c| c.new.workspace.clone()).collect();
    let exclusive =
        candidates.iter().filter(|c| c.new.kind.exclusive).map(|c| c.new.workspace.clone()).collect();
    // In this order: the stronger lock of a workspace first (protocol E1).
    let ((), workspaces, taken) = futures::try_join!(
        lock_workspaces(transaction, &exclusive),
        find_workspaces(transaction, &named),
        taken(transaction, &candidates)
    )?;
    Ok(Some(Ahead { workspaces, taken }))
}
