//! What was published, and what the broker confirmed of it: the publisher's own memory, outside the system.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::behaviour::{Behaviour, Ends};

/// What a task was meant to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Intent {
    /// Its id.
    pub task: String,
    /// Its workspace.
    pub workspace: String,
    /// Its kind.
    pub kind: &'static str,
    /// 0 to 9.
    pub priority: u64,
    /// Approves itself.
    pub auto_approve: bool,
    /// What the plan does.
    pub plan: Behaviour,
    /// What the apply does, where there is one.
    pub apply: Option<Behaviour>,
}

impl Intent {
    /// How a step of it is meant to end.
    #[must_use]
    pub fn ends(&self, step: &str) -> Option<Ends> {
        if step == "apply" { self.apply.map(|apply| apply.ends) } else { Some(self.plan.ends) }
    }
}

/// Why an event was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// A task.
    Submit,
    /// Its approval.
    Approve,
    /// Its discard.
    Discard,
    /// Its cancel.
    Cancel,
    /// The id of an earlier event with another body: to be refused.
    Conflict,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sent {
    /// Its id.
    pub event_id: String,
    /// Why.
    pub purpose: Purpose,
    /// The task that it is about.
    pub task: String,
    /// Times that it was published.
    pub tries: u32,
    /// Whether the broker has confirmed it.
    pub confirmed: bool,
}

/// The publisher's memory.
#[derive(Debug, Default)]
pub struct Book(Mutex<Pages>);

/// What it holds.
#[derive(Debug, Default, Clone)]
pub struct Pages {
    /// Every event, by a number of its own.
    pub sent: Vec<Sent>,
    /// Every task, by its id.
    pub intents: BTreeMap<String, Intent>,
}

impl Book {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A task that is about to be submitted.
    pub fn intend(&self, intent: Intent) {
        self.pages().intents.insert(intent.task.clone(), intent);
    }

    /// An event that is about to be published; its number.
    pub fn begin(&self, event_id: &str, purpose: Purpose, task: &str) -> usize {
        let mut pages = self.pages();
        let (event_id, task) = (event_id.to_owned(), task.to_owned());
        pages.sent.push(Sent { event_id, purpose, task, tries: 0, confirmed: false });
        pages.sent.len() - 1
    }

    /// It is published, perhaps once more.
    pub fn tried(&self, number: usize) {
        if let Some(sent) = self.pages().sent.get_mut(number) {
            sent.tries += 1;
        }
    }

    /// The broker has confirmed it.
    pub fn confirmed(&self, number: usize) {
        if let Some(sent) = self.pages().sent.get_mut(number) {
            sent.confirmed = true;
        }
    }

    /// Events that the broker has not confirmed yet.
    #[must_use]
    pub fn open(&self) -> usize {
        self.pages().sent.iter().filter(|sent| !sent.confirmed).count()
    }

    /// All of it.
    #[must_use]
    pub fn copy(&self) -> Pages {
        self.pages().clone()
    }
}
