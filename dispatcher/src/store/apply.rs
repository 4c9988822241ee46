//! The one way to change tasks: lock, load, decide, write (protocol E1).
//!
//! A batch of inputs runs through the pure transition function in order, against rows that are locked: workspaces of exclusive
//! tasks, then tasks, then attempts. Whatever the decisions ask for in the database is written with them: dead letters, notes,
//! notifications, and the promotion of waiters of every workspace that was released (incident 6). What they ask for on the broker
//! is returned, to be done after the commit.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use switchyard_common::contract::ids::{TaskId, WorkspaceId};
use switchyard_common::task::{
    Attempt, Context, Decision, Effect, Input, Place, Status, Subject, Task, Verdict, occupies_workspace,
    releases_workspace, transition,
};
use tokio_postgres::Row;

use super::db::{Db, Transaction};
use super::error::StoreError;
use super::letters::{self, AttemptLetter};
use super::locks;
use super::reports::{self, Facts};
use super::route::Said;
use super::rows::{self, TASK_COLUMNS};
use super::save::{self, ChangedAttempt, ChangedTask};

/// An input for a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// The task.
    pub task_id: TaskId,
    /// The attempt that a claim names; none = the open one.
    pub attempt: Option<u32>,
    /// What happens to it.
    pub input: Input,
}

/// What came of an input.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// The input.
    pub named: Named,
    /// The task and attempt before it; none when there is no such task.
    pub before: Option<Subject>,
    /// The decision; none when there is no such task.
    pub decision: Option<Decision>,
}

impl Applied {
    /// The task and attempt after it, where it changed them.
    #[must_use]
    pub fn after(&self) -> Option<&Subject> {
        match &self.decision.as_ref()?.verdict {
            Verdict::Changed(subject) => Some(subject),
            Verdict::Unchanged | Verdict::Refused(_) => None,
        }
    }

    /// The effects to carry out after the commit.
    pub fn effects(&self) -> impl Iterator<Item = &Effect> {
        self.decision.iter().flat_map(|decision| &decision.effects)
    }
}

/// Applies `inputs` in order, in one transaction of its own, and promotes waiters.
pub async fn apply(db: &Db, inputs: &[Named]) -> Result<Vec<Applied>, StoreError> {
    if inputs.is_empty() {
        return Ok(Vec::new());
    }
    db.transaction(|transaction| async move {
        let mut applier = Applier::load(db, &transaction, inputs).await?;
        let applied = inputs.iter().map(|named| applier.decide(named)).collect();
        applier.finish().await?;
        Ok(applied)
    })
    .await
}

/// Locked tasks and attempts in memory, between load and write. Use [`apply`] unless other statements belong to the same transaction.
pub struct Applier<'a> {
    db: &'a Db,
    transaction: &'a Transaction,
    /// The transaction's time, by the database clock.
    pub now: DateTime<Utc>,
    loaded: HashMap<TaskId, Task>,
    current: HashMap<TaskId, Task>,
    attempts: HashMap<(TaskId, u32), Attempt>,
    open: HashMap<TaskId, u32>,
    touched_attempts: BTreeSet<(TaskId, u32)>,
    new_attempts: BTreeSet<(TaskId, u32)>,
    places: BTreeMap<WorkspaceId, Place>,
    /// Whether the workspaces of exclusive tasks are locked: without it nothing may be promoted (protocol E2).
    workspaces_locked: bool,
    released: BTreeSet<WorkspaceId>,
    letters: Vec<AttemptLetter>,
    facts: HashMap<(TaskId, u32), Facts>,
}

impl<'a> Applier<'a> {
    /// Locks and loads everything that `inputs` concern.
    pub async fn load(
        db: &'a Db,
        transaction: &'a Transaction,
        inputs: &[Named],
    ) -> Result<Self, StoreError> {
        let concerned: Vec<_> = inputs.iter().map(|named| (&named.task_id, named.attempt)).collect();
        let mut applier = Self::load_named(db, transaction, &concerned).await?;
        applier.load_places(inputs).await?;
        Ok(applier)
    }

    /// The same for assignments. They take nothing from their workspaces that another task may have, and release nothing, so the rows of
    /// workspaces are left to those that do: intake and settle would wait for every pass (protocol E2). With what each assignment says
    /// beyond the state of its task.
    pub(crate) async fn load_to_assign(
        db: &'a Db,
        transaction: &'a Transaction,
        tasks: impl Iterator<Item = &TaskId>,
    ) -> Result<(Self, HashMap<TaskId, Option<Said>>), StoreError> {
        let concerned: Vec<_> = tasks.map(|task_id| (task_id, None)).collect();
        let ids = distinct(&concerned);
        let (now, tasks, attempts) = futures::try_join!(
            transaction.now(),
            locks::tasks_to_assign(transaction, &ids),
            locks::attempts(transaction, &concerned)
        )?;
        let applier = Self::of_rows(db, transaction, now, (&tasks, &attempts))?;
        let said = tasks.iter().map(rows::said).collect::<Result<_, _>>()?;
        Ok((applier, said))
    }

    /// The same for inputs that are still to be made, of tasks and the attempts that are named (none = the open one); of tasks that
    /// become due, their places are not read.
    pub(crate) async fn load_named(
        db: &'a Db,
        transaction: &'a Transaction,
        concerned: &[(&TaskId, Option<u32>)],
    ) -> Result<Self, StoreError> {
        let ids = distinct(concerned);
        // In this order: workspaces, tasks, attempts (protocol E1).
        let ((), now, tasks, attempts) = futures::try_join!(
            locks::workspaces(transaction, &ids),
            transaction.now(),
            locks::tasks(transaction, &ids),
            locks::attempts(transaction, concerned)
        )?;
        let applier = Self::of_rows(db, transaction, now, (&tasks, &attempts))?;
        Ok(Self { workspaces_locked: true, ..applier })
    }

    fn of_rows(
        db: &'a Db,
        transaction: &'a Transaction,
        now: DateTime<Utc>,
        (tasks, attempts): (&[Row], &[Row]),
    ) -> Result<Self, StoreError> {
        let mut applier = Self {
            db,
            transaction,
            now,
            loaded: HashMap::new(),
            current: HashMap::new(),
            attempts: HashMap::new(),
            open: HashMap::new(),
            touched_attempts: BTreeSet::new(),
            new_attempts: BTreeSet::new(),
            places: BTreeMap::new(),
            workspaces_locked: false,
            released: BTreeSet::new(),
            letters: Vec::new(),
            facts: HashMap::new(),
        };
        for row in tasks {
            applier.take_task(rows::task(row, &db.steps)?);
        }
        for row in attempts {
            let task_id: TaskId = rows::parsed("task_id", row.get::<_, &str>("task_id").parse())?;
            let attempt = rows::attempt(row)?;
            if attempt.end.is_none() {
                applier.open.insert(task_id.clone(), attempt.number);
            }
            applier.attempts.insert((task_id, attempt.number), attempt);
        }
        Ok(applier)
    }

    fn take_task(&mut self, task: Task) {
        self.loaded.insert(task.id.clone(), task.clone());
        self.current.insert(task.id.clone(), task);
    }

    /// For tasks that become due: what their workspace says, under its lock.
    async fn load_places(&mut self, inputs: &[Named]) -> Result<(), StoreError> {
        let placeless = |named: &&Named| {
            matches!(named.input, Input::Due { .. })
                && self
                    .current
                    .get(&named.task_id)
                    .is_some_and(|task| task.exclusive && task.position.is_none())
        };
        let workspaces: BTreeSet<WorkspaceId> = inputs
            .iter()
            .filter(placeless)
            .filter_map(|named| Some(self.current.get(&named.task_id)?.workspace.clone()))
            .collect();
        self.places = locks::places(self.transaction, &workspaces).await?;
        Ok(())
    }

    /// Decides one input against what is in memory.
    pub fn decide(&mut self, named: &Named) -> Applied {
        let Some(before) = self.subject(&named.task_id, named.attempt) else {
            return Applied { named: named.clone(), before: None, decision: None };
        };
        let input = self.with_place(&before.task, &named.input);
        let context = Context::new(self.now, rand::random());
        let decision = transition(&before, &input, &context);
        if let Verdict::Changed(after) = &decision.verdict {
            self.keep(&before, after);
        }
        self.collect_letters(&before, &decision);
        Applied { named: named.clone(), before: Some(before), decision: Some(decision) }
    }

    fn subject(&self, task_id: &TaskId, attempt: Option<u32>) -> Option<Subject> {
        let task = self.current.get(task_id)?.clone();
        let number = attempt.or_else(|| self.open.get(task_id).copied());
        let attempt = number.and_then(|number| self.attempts.get(&(task_id.clone(), number)).cloned());
        Some(Subject { task, attempt })
    }

    fn with_place(&self, task: &Task, input: &Input) -> Input {
        let placeless = task.exclusive && task.position.is_none();
        if placeless && matches!(input, Input::Due { place: None }) {
            return Input::Due { place: self.places.get(&task.workspace).copied() };
        }
        input.clone()
    }

    fn keep(&mut self, before: &Subject, after: &Subject) {
        let id = &after.task.id;
        if before.task.position.is_none()
            && let Some(position) = after.task.position
            && let Some(place) = self.places.get_mut(&after.task.workspace)
        {
            *place = Place { position: position + 1, is_head: false };
        }
        if releases_workspace(&before.task, &after.task) {
            self.released.insert(after.task.workspace.clone());
        }
        if let Some(attempt) = &after.attempt {
            let key = (id.clone(), attempt.number);
            if !self.attempts.contains_key(&key) {
                self.new_attempts.insert(key.clone());
            } else if before.attempt.as_ref() != Some(attempt) && !self.new_attempts.contains(&key) {
                self.touched_attempts.insert(key.clone());
            }
            match attempt.end {
                None => drop(self.open.insert(id.clone(), attempt.number)),
                Some(_) => drop(self.open.remove(id)),
            }
            self.attempts.insert(key, attempt.clone());
        }
        self.current.insert(id.clone(), after.task.clone());
    }

    fn collect_letters(&mut self, before: &Subject, decision: &Decision) {
        for effect in &decision.effects {
            if let Effect::Letter { failure, broker_copy } = effect {
                self.letters.push(AttemptLetter {
                    task_id: before.task.id.clone(),
                    attempt: before.attempt.as_ref().map(|attempt| attempt.number),
                    failure: failure.clone(),
                    broker_copy: *broker_copy,
                });
            }
        }
    }

    /// Keeps what an agent reports of an attempt beside its end, to be written with it.
    pub(crate) fn keep_facts(&mut self, facts: Facts) {
        self.facts.insert((facts.key.task_id.clone(), facts.key.attempt), facts);
    }

    /// Promotes the waiters of released workspaces and writes everything.
    pub async fn finish(mut self) -> Result<(), StoreError> {
        self.promote().await?;
        let changed: Vec<ChangedTask<'_>> = self
            .current
            .values()
            .filter_map(|after| {
                let before = self.loaded.get(&after.id)?;
                (before.version != after.version).then_some(ChangedTask { before, after })
            })
            .collect();
        let (with_their_attempt, alone): (HashMap<_, _>, HashMap<_, _>) =
            self.facts.drain().partition(|(key, _)| self.touched_attempts.contains(key));
        let alone: Vec<Facts> = alone.into_values().collect();
        let (touched, new) = (self.of(&self.touched_attempts), self.of(&self.new_attempts));
        let (ended, going): (Vec<_>, Vec<_>) =
            changed.into_iter().partition(|change| change.after.status.is_terminal());
        let transaction = self.transaction;
        // In this order. Attempts first: closing one must precede opening the next under the index of open attempts. Tasks that leave
        // the index of heads, then those that enter it: uniqueness is checked row by row.
        let state = async {
            futures::try_join!(
                save::attempts(transaction, &touched, &with_their_attempt),
                reports::write_facts(transaction, &alone),
                save::tasks(transaction, &ended),
                save::tasks(transaction, &going),
                save::positions(transaction, &self.places),
                save::new_attempts(transaction, self.db.replica, &new)
            )
        };
        let recovered = self.recovered();
        if self.letters.is_empty() && recovered.is_empty() {
            futures::try_join!(state, self.notify())?;
            return Ok(());
        }
        state.await?;
        letters::record_attempts(transaction, &self.letters).await?;
        letters::resolve_succeeded(transaction, &recovered).await?;
        self.notify().await
    }

    /// Tasks that have just succeeded, and not at the first try of each step: they may have letters.
    fn recovered(&self) -> Vec<&str> {
        let succeeded = |task: &&Task| {
            let retried = usize::try_from(task.attempts).is_ok_and(|attempts| attempts > task.step + 1);
            let before = self.loaded.get(&task.id).map(|before| before.status);
            task.status == Status::Succeeded
                && (retried || before == Some(Status::Uncertain))
                && before != Some(Status::Succeeded)
        };
        self.current.values().filter(succeeded).map(|task| task.id.as_str()).collect()
    }

    fn of(&self, keys: &BTreeSet<(TaskId, u32)>) -> Vec<ChangedAttempt<'_>> {
        keys.iter()
            .filter_map(|key| {
                Some(ChangedAttempt { task: self.current.get(&key.0)?, attempt: self.attempts.get(key)? })
            })
            .collect()
    }

    /// The next in line of every released workspace: re-read under the workspace's lock, and from this very batch.
    async fn promote(&mut self) -> Result<(), StoreError> {
        if self.released.is_empty() {
            return Ok(());
        }
        if !self.workspaces_locked {
            return Err(StoreError::Statement("a workspace was released without its lock".into()));
        }
        self.load_waiters().await?;
        let mut next: BTreeMap<&WorkspaceId, &Task> = BTreeMap::new();
        for task in self.current.values() {
            if task.status == Status::Blocked && self.released.contains(&task.workspace) {
                let first = next.entry(&task.workspace).or_insert(task);
                if task.position < first.position {
                    *first = task;
                }
            }
        }
        let next: Vec<TaskId> = next.into_values().map(|task| task.id.clone()).collect();
        for task_id in next {
            self.decide(&Named { task_id, attempt: None, input: Input::Promote });
        }
        Ok(())
    }

    /// The first stored waiter of every released workspace that this batch does not end.
    async fn load_waiters(&mut self) -> Result<(), StoreError> {
        let released: Vec<&str> = self.released.iter().map(WorkspaceId::as_str).collect();
        let was_blocked =
            |task: &Task| self.loaded.get(&task.id).is_some_and(|before| before.status == Status::Blocked);
        let ended = |task: &&Task| {
            self.released.contains(&task.workspace) && was_blocked(task) && !occupies_workspace(task)
        };
        let ended: Vec<&str> = self.current.values().filter(ended).map(|task| task.id.as_str()).collect();
        let sql = format!(
            "SELECT {TASK_COLUMNS} FROM unnest($1::text[]) w(workspace_id) CROSS JOIN LATERAL (\
                 SELECT * FROM tasks b WHERE b.workspace_id = w.workspace_id AND b.status = 'blocked' AND b.task_id <> ALL($2) \
                 ORDER BY b.position LIMIT 1) t"
        );
        for row in self.transaction.query(&sql, &[&released, &ended]).await? {
            let task = rows::task(&row, &self.db.steps)?;
            if !self.current.contains_key(&task.id) {
                self.take_task(task);
            }
        }
        Ok(())
    }

    /// What upstream is told: awaiting approval, uncertain, terminal (protocol H, notifications).
    async fn notify(&self) -> Result<(), StoreError> {
        if !self.db.notifies {
            return Ok(());
        }
        let told: Vec<&Task> = self
            .current
            .values()
            .filter(|after| {
                self.loaded.get(&after.id).is_some_and(|before| before.status != after.status)
                    && super::notify::is_told(after.status)
            })
            .collect();
        super::notify::record(self.transaction, &told, self.now).await
    }
}

/// The tasks that are concerned, each once, in the order in which they are locked.
fn distinct<'a>(concerned: &[(&'a TaskId, Option<u32>)]) -> Vec<&'a str> {
    let ids: BTreeSet<&str> = concerned.iter().map(|(task_id, _)| task_id.as_str()).collect();
    ids.into_iter().collect()
}
