//! What routing reads and writes: the content of an assignment, its publishes and confirms (protocol B1, B2).

use switchyard_common::contract::artifact::{ArtifactPart, Manifest};
use switchyard_common::contract::assignment::{AssignedApproval, Assignment, AttemptKey, InputPart};
use switchyard_common::contract::ids::TaskId;
use switchyard_common::contract::report::LeftPart;
use switchyard_dispatcher::settle::manifest::StoredFile;
use switchyard_dispatcher::store::route::{Dispatch, Publish};

use std::collections::BTreeMap;
use std::time::Duration;

use super::tables::{AttemptRow, Store, TaskRow};
use crate::sim::agenda::Millis;

impl Store {
    /// The content of an open attempt whose publisher is `replica` under this number; none otherwise.
    #[must_use]
    pub fn dispatch(&self, now: Millis, replica: usize, publish: &Publish) -> Option<Dispatch> {
        let key = &publish.key;
        let row = self.attempts.get(&(key.task_id.clone(), key.attempt))?;
        let task = self.tasks.get(&key.task_id)?;
        if !self.is_publisher(replica, publish) {
            return None;
        }
        let source = task.task.artifact.as_ref().filter(|_| row.attempt.step > 0);
        let source = source.map(|artifact| (key.task_id.clone(), artifact.attempt));
        let inputs =
            source.as_ref().and_then(|source| self.manifests.get(source)).cloned().unwrap_or_default();
        let assignment = self.assignment(task, row, inputs)?;
        let stored =
            source.filter(|_| !assignment.inputs.0.is_empty()).and_then(|source| self.parts.get(&source));
        let parts = stored.into_iter().flatten().map(|((name, part), bytes)| InputPart {
            key: key.clone(),
            session: assignment.session,
            part: ArtifactPart { name: name.clone(), part: *part, bytes: bytes.clone() },
        });
        let age = Duration::from_millis(now.saturating_sub(row.published_at));
        Some(Dispatch { parts: parts.collect(), assignment, age })
    }

    /// Whether an attempt is open and `replica` is the one that may publish it under this number.
    #[must_use]
    pub fn is_publisher(&self, replica: usize, publish: &Publish) -> bool {
        self.attempts.get(&(publish.key.task_id.clone(), publish.key.attempt)).is_some_and(|row| {
            row.attempt.end.is_none()
                && row.published_by == replica
                && row.attempt.publish_no == publish.publish_no
        })
    }

    fn assignment(&self, row: &TaskRow, open: &AttemptRow, inputs: Manifest) -> Option<Assignment> {
        let (task, attempt) = (&row.task, &open.attempt);
        let step = task.steps.get(attempt.step)?;
        let approval = task.approval.as_ref().map(|approval| AssignedApproval {
            approved_by: approval.by.clone(),
            approved_at: approval.at,
            digest: approval.digest.clone(),
        });
        Some(Assignment {
            epoch: self.epoch,
            task_id: task.id.clone(),
            attempt: attempt.number,
            lease: attempt.assignee.lease,
            session: attempt.assignee.session,
            pool: attempt.assignee.agent.pool.clone(),
            agent: attempt.assignee.agent.agent.clone(),
            workspace_id: task.workspace.clone(),
            kind: task.kind.clone(),
            step: step.name.clone(),
            handler: step.handler.clone(),
            exclusive: task.exclusive,
            repeatable: step.repeatable,
            run_timeout_ms: step.policy.run_timeout_ms,
            parameters: step.parameters.clone(),
            payload: row.payload.clone(),
            approval: if step.approval { Some(approval?) } else { None },
            inputs,
            publish_no: attempt.publish_no,
            traceparent: None,
        })
    }

    /// Claims attempts for another publish by `replica`: the number grows before anything is sent (protocol B1). Fenced by the number
    /// of the publish that is given up.
    pub fn claim_resends(&mut self, now: Millis, replica: usize, given_up: &[Publish]) -> Vec<Publish> {
        let mut claimed = Vec::new();
        for publish in given_up {
            let Some(row) = self.attempts.get_mut(&(publish.key.task_id.clone(), publish.key.attempt)) else {
                continue;
            };
            let open = row.attempt.end.is_none() && row.confirmed_at.is_none();
            if open && row.attempt.publish_no == publish.publish_no {
                row.attempt.publish_no += 1;
                row.published_by = replica;
                row.published_at = now;
                claimed.push(Publish { key: publish.key.clone(), publish_no: row.attempt.publish_no });
            }
        }
        claimed
    }

    /// Open, unconfirmed attempts whose publisher's own row is stale: only then may another replica send them again (protocol B2).
    #[must_use]
    pub fn orphaned(&self, now: Millis, replica: usize, stale_after: Millis) -> Vec<Publish> {
        let fresh = |at: Millis| at + stale_after > now;
        let orphans = self.open_attempts().filter(|(_, row)| {
            row.confirmed_at.is_none()
                && row.published_by != replica
                && !fresh(row.published_at)
                && !self.replicas.get(&row.published_by).is_some_and(|at| fresh(*at))
        });
        orphans
            .map(|(key, row)| Publish { key: attempt_key(key), publish_no: row.attempt.publish_no })
            .collect()
    }

    /// Open attempts that `replica` published longer than `after` ago and whose confirm is not recorded.
    #[must_use]
    pub fn unconfirmed_own(&self, now: Millis, replica: usize, after: Millis) -> Vec<Publish> {
        let own = self.open_attempts().filter(|(_, row)| {
            row.confirmed_at.is_none() && row.published_by == replica && row.published_at + after < now
        });
        own.map(|(key, row)| Publish { key: attempt_key(key), publish_no: row.attempt.publish_no }).collect()
    }

    /// Records confirms of attempts that are still open.
    pub fn record_confirms(&mut self, now: Millis, keys: &[AttemptKey]) {
        for key in keys {
            let row = self.attempts.get_mut(&(key.task_id.clone(), key.attempt));
            if let Some(row) = row.filter(|row| row.attempt.end.is_none() && row.confirmed_at.is_none()) {
                row.confirmed_at = Some(now);
                row.attempt.confirmed = true;
            }
        }
    }

    /// Stores a part of what an attempt leaves, if its claim is proven.
    pub fn keep_part(&mut self, left: &LeftPart) {
        let key = (left.claim.task_id.clone(), left.claim.attempt);
        let proven =
            self.attempts.get(&key).is_some_and(|row| row.attempt.assignee.lease == left.claim.lease);
        if proven {
            let part = (left.part.name.clone(), left.part.part);
            self.parts.entry(key).or_default().entry(part).or_insert_with(|| left.part.bytes.clone());
        }
    }

    /// What is stored of an attempt's artifacts, by name.
    #[must_use]
    pub fn stored_files(&self, task: &TaskId, attempt: u32) -> BTreeMap<String, StoredFile> {
        let mut bytes: BTreeMap<String, (u32, Vec<u8>)> = BTreeMap::new();
        for ((name, _), part) in self.parts.get(&(task.clone(), attempt)).into_iter().flatten() {
            let file = bytes.entry(name.clone()).or_default();
            file.0 += 1;
            file.1.extend_from_slice(part);
        }
        let stored = |(parts, bytes): (u32, Vec<u8>)| StoredFile {
            parts,
            bytes: bytes.len() as u64,
            sha256: switchyard_common::contract::ids::Digest::of(&bytes),
        };
        bytes.into_iter().map(|(name, file)| (name, stored(file))).collect()
    }

    /// Keeps the manifest of what an attempt left.
    pub fn keep_manifest(&mut self, task: &TaskId, attempt: u32, manifest: &Manifest) {
        self.manifests.insert((task.clone(), attempt), manifest.clone());
    }
}

fn attempt_key(key: &(TaskId, u32)) -> AttemptKey {
    AttemptKey { task_id: key.0.clone(), attempt: key.1 }
}
