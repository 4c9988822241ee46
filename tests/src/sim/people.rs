//! Upstream and operators: they submit, approve, discard, cancel and resolve, and send some of it twice.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use serde_json::json;
use switchyard_common::contract::answer::Answer;
use switchyard_common::contract::event::{TaskApproved, TaskCancelRequested, TaskDiscarded};
use switchyard_common::contract::ids::{Digest, TaskId, WorkspaceId};
use switchyard_common::task::{Input, ResolveTo, Status};
use switchyard_dispatcher::intake::command::{Admitted, Command, EventKey, NewTask};
use switchyard_dispatcher::store::Named;

use super::broker::{Body, Message};
use super::store::clock;
use super::world::{Event, World};

/// Somebody acts.
#[derive(Debug, Clone, Copy)]
pub enum PeopleEvent {
    /// The task with this number is submitted.
    Submit(u64),
    /// Somebody looks at what waits for people.
    Look,
    /// An event is published that kills whoever handles it.
    Deadly,
    /// Somebody cancels the task with this number.
    Cancel {
        /// Which.
        task: u64,
        /// Even what runs and is not repeatable.
        force: bool,
    },
}

/// What people remember.
#[derive(Debug, Default)]
pub struct People {
    sent: u64,
    /// Tasks that were published.
    pub submitted: u64,
    /// Events that were published.
    pub published: BTreeSet<EventKey>,
    /// What came of each, in the order of commits.
    pub decided: BTreeMap<EventKey, Answer>,
    /// What came of each, as far as somebody was told.
    pub answered: BTreeMap<EventKey, Answer>,
}

/// Whoever handles an event of this source dies of it.
pub const DEADLY_SOURCE: &str = "deadly";

/// Operators look this often, in milliseconds.
const LOOK_EVERY_MS: (u64, u64) = (1_500, 5_000);

impl World {
    pub(super) fn plan_people(&mut self) {
        for task in 0..self.scenario.tasks {
            let wait = self.dice.below(self.scenario.calm_at * 3 / 4);
            self.plan(wait, Event::People(PeopleEvent::Submit(task)));
            if self.dice.chance(self.scenario.cancel_per_mille) {
                let (later, force) = (self.dice.below(30_000), self.dice.chance(500));
                self.plan(wait + later, Event::People(PeopleEvent::Cancel { task, force }));
            }
        }
        self.plan(1_000, Event::People(PeopleEvent::Look));
        if self.dice.chance(self.scenario.deadly_per_mille) {
            let wait = self.dice.below(self.scenario.calm_at / 2);
            self.plan(wait, Event::People(PeopleEvent::Deadly));
        }
    }

    pub(super) fn people_event(&mut self, event: PeopleEvent) {
        match event {
            PeopleEvent::Submit(task) => self.submit(task),
            PeopleEvent::Look => {
                self.look();
                let (low, high) = LOOK_EVERY_MS;
                let wait = self.dice.between(low, high);
                self.plan(wait, Event::People(PeopleEvent::Look));
            }
            PeopleEvent::Cancel { task, force } => self.cancel_task(task, force),
            PeopleEvent::Deadly => {
                let Ok(task_id) = task_id(0) else { return };
                let asked = TaskCancelRequested { task_id, requested_by: "eve".to_owned(), force: None };
                self.publish_event(
                    DEADLY_SOURCE,
                    "switchyard.task.cancel_requested.v1",
                    Command::Cancel(asked),
                );
            }
        }
    }

    /// Publishes an event, sometimes twice.
    fn upstream(&mut self, event_type: &'static str, command: Command) {
        self.publish_event("upstream", event_type, command);
    }

    fn publish_event(&mut self, source: &str, event_type: &'static str, command: Command) {
        self.people.sent += 1;
        let id = format!("event-{}", self.people.sent);
        let event = Rc::new(Admitted {
            key: EventKey { source: source.to_owned(), id: id.clone() },
            event_type,
            body_hash: Digest::of(id.as_bytes()),
            traceparent: None,
            command,
        });
        self.people.published.insert(event.key.clone());
        // Two deadly ones at once would leave no replica alive to handle anything else.
        let copies = if source != DEADLY_SOURCE && self.dice.chance(150) { 2 } else { 1 };
        for _ in 0..copies {
            let message = Message::new(&self.exchanges.events, event_type, Body::Event(Rc::clone(&event)));
            self.log(|| format!("people  {message}"));
            self.broker.publish(&message);
        }
        self.deliver();
    }

    fn submit(&mut self, number: u64) {
        let kinds: Vec<(u64, usize)> =
            self.scenario.kinds.iter().enumerate().map(|(index, (weight, _))| (*weight, index)).collect();
        let Some(kind) = self.dice.weighted(&kinds).map(|index| self.scenario.kinds[index].1.clone()) else {
            return;
        };
        let (Ok(task_id), Some(workspace)) = (task_id(number), self.some_workspace()) else { return };
        let now = self.now();
        let later = |dice: &mut super::dice::Dice, most| clock(now + dice.between(1_000, most));
        let not_before = self.dice.chance(100).then(|| later(&mut self.dice, 20_000));
        let deadline = self.dice.chance(60).then(|| later(&mut self.dice, 90_000));
        let new = NewTask {
            task_id,
            id_is_drawn: false,
            workspace,
            pool: Some(self.pool.clone()),
            auto_approve: kind.auto_approve_allowed && self.dice.chance(300),
            kind,
            payload: json!({}),
            priority: u8::try_from(self.dice.below(10)).unwrap_or_default(),
            not_before,
            deadline,
            idempotency_key: None,
            replay_of: None,
        };
        self.people.submitted += 1;
        self.upstream("switchyard.task.submitted.v1", Command::Submit(Box::new(new)));
    }

    pub(super) fn some_workspace(&mut self) -> Option<WorkspaceId> {
        let number = self.dice.below(self.scenario.workspaces);
        WorkspaceId::new(format!("ws-{number}")).ok()
    }

    fn cancel_task(&mut self, number: u64, force: bool) {
        let Ok(task_id) = task_id(number) else { return };
        let asked = TaskCancelRequested { task_id, requested_by: "eve".to_owned(), force: Some(force) };
        self.upstream("switchyard.task.cancel_requested.v1", Command::Cancel(asked));
    }

    /// Operators see what waits for them, and do something about some of it; in the calm, about all of it.
    fn look(&mut self) {
        let tasks: Vec<_> = self.store.tasks.values().map(|row| row.task.clone()).collect();
        for task in tasks {
            let now_or_never = self.calm || self.dice.chance(400);
            match task.status {
                Status::AwaitingApproval if now_or_never => {
                    let digest = task.artifact.as_ref().map(|artifact| artifact.digest.clone());
                    self.decide_approval(&task.id, digest);
                }
                Status::Uncertain if now_or_never => self.resolve(&task.id),
                Status::AwaitingApproval
                | Status::Uncertain
                | Status::Blocked
                | Status::Pending
                | Status::Assigned
                | Status::Running
                | Status::Succeeded
                | Status::Failed
                | Status::Cancelled => {}
            }
        }
    }

    fn decide_approval(&mut self, task_id: &TaskId, current: Option<Digest>) {
        if self.dice.chance(120) {
            let asked =
                TaskDiscarded { task_id: task_id.clone(), discarded_by: "eve".to_owned(), comment: None };
            self.upstream("switchyard.task.discarded.v1", Command::Discard(asked));
            return;
        }
        // What is current, what was seen, or something else altogether.
        let digest = match self.dice.below(10) {
            0 => Some(Digest::of(b"something else")),
            1..=4 => None,
            _ => current.clone(),
        };
        let bound = digest.clone().or(current);
        self.ledger.approved.extend(bound.map(|digest| (task_id.clone(), digest)));
        let asked = TaskApproved {
            task_id: task_id.clone(),
            approved_by: "eve".to_owned(),
            comment: None,
            artifact_digest: digest,
        };
        self.upstream("switchyard.task.approved.v1", Command::Approve(asked));
    }

    /// By hand, at the database. The word is given only when the agent's process is known to be done with the step; sometimes
    /// somebody takes the risk all the same.
    fn resolve(&mut self, task_id: &TaskId) {
        let session_over = self.store.session_is_over(task_id);
        let takes_risk = !self.calm && !session_over && self.dice.chance(30);
        if takes_risk && let Some(row) = self.store.tasks.get(task_id) {
            self.ledger.overridden.insert(row.task.workspace.clone());
        }
        let to = if self.dice.chance(500) { ResolveTo::Succeeded } else { ResolveTo::Failed };
        // What its own agent, well and heard, has no more is over, whatever became of its report.
        let is_gone = self.store.open_attempt(task_id).is_some_and(|row| row.unlisted > 2);
        let override_reason = (takes_risk || is_gone).then(|| "the machine burnt down".to_owned());
        let input = Input::Resolve { by: "eve".to_owned(), to, session_over, override_reason };
        let named = Named { task_id: task_id.clone(), attempt: None, input };
        let now = self.now();
        let applied = self.store.apply(now, 0, &mut self.dice, &[named]);
        if applied.iter().any(|applied| applied.after().is_some()) {
            self.ledger.resolved.insert(task_id.clone());
        }
        self.applied(&applied);
    }
}

fn task_id(number: u64) -> Result<TaskId, switchyard_common::contract::ids::IdError> {
    TaskId::new(format!("task-{number}"))
}
