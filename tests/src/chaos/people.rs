//! Those who approve, discard and resolve: upstream's people and the operator.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::behaviour::Ends;
use super::ledger;
use super::load::Load;
use super::world::World;
use crate::sim::dice::Dice;

/// Wait before somebody decides again about a task that waits on.
const DECIDES_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// How many of a thousand decisions are discards.
const DISCARDS_PER_MILLE: u64 = 60;

/// Who decides about what waits for an approval.
pub struct Approvers {
    load: Arc<Load>,
    dice: Dice,
    decided: BTreeMap<String, Instant>,
}

impl Approvers {
    /// Nobody has decided anything yet.
    #[must_use]
    pub fn new(load: Arc<Load>, dice: Dice) -> Self {
        Self { load, dice, decided: BTreeMap::new() }
    }

    /// Decides about everything that waits now. A database that is away is asked again later.
    pub async fn decide(&mut self, world: &World) {
        let waiting = "SELECT task_id FROM tasks WHERE status = 'awaiting_approval'";
        let Ok(waiting) = world.texts(waiting).await else { return };
        for task in waiting {
            let recent = self.decided.get(&task).is_some_and(|at| at.elapsed() < DECIDES_AGAIN_AFTER);
            if recent {
                continue;
            }
            self.decided.insert(task.clone(), Instant::now());
            if self.dice.chance(DISCARDS_PER_MILLE) {
                self.load.discard(&task);
            } else {
                self.load.approve(&task);
            }
        }
    }
}

impl World {
    /// Resolves a task as an operator who has looked at what the step did; gives what it waited for until then.
    ///
    /// # Errors
    /// When the task cannot be read or the operator's command fails.
    pub async fn resolve(&self, task: &str) -> anyhow::Result<String> {
        let waited_for = self.scenario.task(task).await?.waiting_for;
        let done =
            |run: &ledger::Run| run.task == task && run.step == "apply" && run.end == Some(Ends::Succeeds);
        let to = if ledger::read(&self.ledger)?.iter().any(done) { "succeeded" } else { "failed" };
        let reason = "the ledger shows that the handler has ended";
        self.scenario.operator(&[
            "tasks",
            "resolve",
            task,
            "--to",
            to,
            "--by",
            "chaos",
            "--override",
            reason,
        ])?;
        Ok(waited_for)
    }
}
