//! What a batch of submissions needs to know, asked for in one go: each question that waits for the answer to the one before costs an
//! idle system a good part of a millisecond.

use std::collections::{BTreeMap, BTreeSet};

use switchyard_common::contract::ids::{PoolId, WorkspaceId};

use super::at_once::{OpenPool, open_pool};
use super::submit::{Candidate, Taken, taken};
use super::workspaces::{Workspace, find_workspaces, lock_workspaces};
use crate::intake::command::{Admitted, Command};
use crate::store::{StoreError, Transaction};

/// What was read.
pub(super) struct Ahead {
    /// The workspaces that there are; those of exclusive tasks are locked, and all stay in their pool.
    pub(super) workspaces: BTreeMap<WorkspaceId, Workspace>,
    pub(super) taken: Taken,
    /// The pool whose tasks may be assigned at once.
    pub(super) open: Option<OpenPool>,
}

/// Reads ahead for events that are all submissions; anything else may change what would be read.
pub(super) async fn read(
    transaction: &Transaction,
    events: &[Admitted],
    idle: &BTreeSet<PoolId>,
) -> Result<Option<Ahead>, StoreError> {
    let mut candidates = Vec::with_capacity(events.len());
    for (index, event) in events.iter().enumerate() {
        let Command::Submit(new) = &event.command else { return Ok(None) };
        candidates.push(Candidate { index, event, new });
    }
    let named: BTreeSet<WorkspaceId> = candidates.iter().map(|c| c.new.workspace.clone()).collect();
    let exclusive =
        candidates.iter().filter(|c| c.new.kind.exclusive).map(|c| c.new.workspace.clone()).collect();
    // In this order: the pool's lock ahead of the workspaces', and of these the stronger one first (protocol E1).
    let (open, (), workspaces, taken) = futures::try_join!(
        open_pool(transaction, only_pool(&candidates, idle)),
        lock_workspaces(transaction, &exclusive),
        find_workspaces(transaction, &named),
        taken(transaction, &candidates)
    )?;
    Ok(Some(Ahead { workspaces, taken, open }))
}

/// The pool that all of them are for, as far as they say, when nothing waited there. Those that name none are taken to be for the only
/// one that can be meant; whether they are is seen when their workspaces are.
fn only_pool<'a>(candidates: &[Candidate<'a>], idle: &'a BTreeSet<PoolId>) -> Option<&'a PoolId> {
    let mut named = candidates.iter().filter_map(|candidate| candidate.new.pool.as_ref());
    match named.next() {
        Some(pool) => named.all(|other| other == pool).then(|| idle.get(pool)).flatten(),
        None => idle.first().filter(|_| idle.len() == 1),
    }
}
