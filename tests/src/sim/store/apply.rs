//! Lock, load, decide, write, promote: the same steps in the same order as the production store, with the same functions.

use std::collections::{BTreeMap, BTreeSet};

use switchyard_common::contract::ids::{TaskId, WorkspaceId};
use switchyard_common::task::{
    Attempt, Context, Effect, Input, Place, Status, Subject, Task, Verdict, occupies_workspace,
    releases_workspace, transition,
};
use switchyard_dispatcher::store::{Applied, Named};

use super::letters::attempt_key;
use super::tables::{AttemptRow, Store, clock};
use crate::sim::agenda::Millis;
use crate::sim::dice::Dice;

/// One transaction of inputs.
struct Batch<'a> {
    store: &'a mut Store,
    dice: &'a mut Dice,
    now: Millis,
    /// The replica that stamps new attempts.
    replica: usize,
    /// As the workspaces were when the batch began.
    places: BTreeMap<WorkspaceId, Place>,
    released: BTreeSet<WorkspaceId>,
    changed: BTreeSet<TaskId>,
}

impl Store {
    /// Applies `inputs` in order, in one transaction of `replica`, and promotes waiters.
    pub fn apply(&mut self, now: Millis, replica: usize, dice: &mut Dice, inputs: &[Named]) -> Vec<Applied> {
        let places = self.places_of(inputs);
        let (released, changed) = (BTreeSet::new(), BTreeSet::new());
        let mut batch = Batch { store: self, dice, now, replica, places, released, changed };
        let mut outcomes: Vec<Applied> = inputs.iter().map(|named| batch.decide(named)).collect();
        outcomes.extend(batch.promote());
        let changed = batch.changed;
        self.check_constraints(&changed);
        outcomes
    }

    /// For tasks that become due: what their workspace says.
    fn places_of(&self, inputs: &[Named]) -> BTreeMap<WorkspaceId, Place> {
        let due = inputs.iter().filter(|named| matches!(named.input, Input::Due { .. }));
        let tasks = due.filter_map(|named| self.tasks.get(&named.task_id)).map(|row| &row.task);
        let placeless = tasks.filter(|task| task.exclusive && task.position.is_none());
        placeless.map(|task| (task.workspace.clone(), self.place(&task.workspace))).collect()
    }

    /// What a workspace says to the next task that takes a place in it.
    pub(super) fn place(&self, workspace: &WorkspaceId) -> Place {
        let is_head =
            !self.tasks.values().any(|row| row.task.workspace == *workspace && occupies_workspace(&row.task));
        let position = self.workspaces.get(workspace).map_or(1, |row| row.next_position);
        Place { position, is_head }
    }

    fn subject(&self, task_id: &TaskId, attempt: Option<u32>) -> Option<Subject> {
        let task = self.tasks.get(task_id)?.task.clone();
        let attempt = match attempt {
            Some(number) => self.attempts.get(&(task_id.clone(), number)),
            None => self.open_attempt(task_id),
        };
        Some(Subject { task, attempt: attempt.map(|row| row.attempt.clone()) })
    }
}

impl Batch<'_> {
    fn decide(&mut self, named: &Named) -> Applied {
        let Some(before) = self.store.subject(&named.task_id, named.attempt) else {
            return Applied { named: named.clone(), before: None, decision: None };
        };
        let input = self.with_place(&before.task, &named.input);
        let context = Context::new(clock(self.now), self.dice.unit());
        let decision = transition(&before, &input, &context);
        if let Verdict::Changed(after) = &decision.verdict {
            self.store.check_fence(&before, after, &input);
            self.keep(&before, after);
        }
        for effect in &decision.effects {
            if let Effect::Letter { failure, broker_copy } = effect {
                let attempt = before.attempt.as_ref().map(|attempt| attempt.number);
                let key = attempt.map_or_else(
                    || format!("task:{}", named.task_id),
                    |attempt| attempt_key(&named.task_id, attempt),
                );
                self.store.record_failure(self.now, key, failure, *broker_copy);
            }
        }
        Applied { named: named.clone(), before: Some(before), decision: Some(decision) }
    }

    fn with_place(&self, task: &Task, input: &Input) -> Input {
        if *input == (Input::Due { place: None }) && task.exclusive && task.position.is_none() {
            return Input::Due { place: self.places.get(&task.workspace).copied() };
        }
        input.clone()
    }

    fn keep(&mut self, before: &Subject, after: &Subject) {
        let task = &after.task;
        if before.task.position.is_none()
            && let Some(position) = task.position
            && let Some(place) = self.places.get_mut(&task.workspace)
        {
            *place = Place { position: position + 1, is_head: false };
            if let Some(row) = self.store.workspaces.get_mut(&task.workspace) {
                row.next_position = position + 1;
            }
        }
        if releases_workspace(&before.task, task) {
            self.released.insert(task.workspace.clone());
        }
        if let Some(attempt) = &after.attempt {
            self.keep_attempt(task, before.attempt.as_ref(), attempt);
        }
        self.changed.insert(task.id.clone());
        if let Some(row) = self.store.tasks.get_mut(&task.id) {
            row.task = task.clone();
        }
    }

    fn keep_attempt(&mut self, task: &Task, before: Option<&Attempt>, attempt: &Attempt) {
        let key = (task.id.clone(), attempt.number);
        if let Some(row) = self.store.attempts.get_mut(&key) {
            if row.attempt.end.is_some() && before != Some(attempt) {
                // The production update matches open attempts only.
                self.store.violated(format!("invariant 7: ended attempt {}#{} was written", key.0, key.1));
                return;
            }
            row.attempt = attempt.clone();
            return;
        }
        let row = AttemptRow {
            attempt: attempt.clone(),
            exclusive: task.exclusive,
            published_by: self.replica,
            published_at: self.now,
            confirmed_at: None,
            unlisted: 0,
            revoke_sent_at: None,
            revoke_sends: 0,
        };
        self.store.attempts.insert(key, row);
    }

    /// The next in line of every released workspace.
    fn promote(&mut self) -> Vec<Applied> {
        let mut outcomes = Vec::new();
        for workspace in std::mem::take(&mut self.released) {
            let waiters = self.store.tasks.values().map(|row| &row.task);
            let blocked =
                waiters.filter(|task| task.workspace == workspace && task.status == Status::Blocked);
            let first = blocked.min_by_key(|task| task.position).map(|task| task.id.clone());
            if let Some(task_id) = first {
                outcomes.push(self.decide(&Named { task_id, attempt: None, input: Input::Promote }));
            }
        }
        outcomes
    }
}
