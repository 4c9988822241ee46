//! Events: each has its effect once (design 5).

use switchyard_common::contract::answer::Accepted;
use switchyard_common::contract::ids::{TaskId, WorkspaceId};
use switchyard_common::task::Input;
use switchyard_dispatcher::intake::command::{Admitted, Command, NewTask};
use switchyard_dispatcher::intake::new_task::new_task;
use switchyard_dispatcher::store::{Applied, Named};

use super::tables::{Store, TaskRow, WorkspaceRow, clock};
use crate::sim::agenda::Millis;
use crate::sim::dice::Dice;

impl Store {
    /// Stores one event, unless it was stored before.
    pub fn admit(&mut self, now: Millis, replica: usize, dice: &mut Dice, event: &Admitted) -> Vec<Applied> {
        let id = (event.key.source.clone(), event.key.id.clone());
        if self.events.contains_key(&id) {
            return Vec::new();
        }
        let outcomes = match &event.command {
            Command::Register(registered) => {
                let row = WorkspaceRow { pool: registered.pool.clone(), next_position: 1 };
                self.workspaces.entry(registered.workspace_id.clone()).or_insert(row);
                Vec::new()
            }
            Command::Submit(new) => {
                self.submit(now, new);
                Vec::new()
            }
            Command::Approve(asked) => {
                let input =
                    Input::Approve { by: asked.approved_by.clone(), digest: asked.artifact_digest.clone() };
                self.ask(now, replica, dice, &asked.task_id, input)
            }
            Command::Discard(asked) => {
                let input = Input::Discard { by: asked.discarded_by.clone() };
                self.ask(now, replica, dice, &asked.task_id, input)
            }
            Command::Cancel(asked) => {
                let force = asked.force.unwrap_or(false);
                let input = Input::Cancel { by: asked.requested_by.clone(), force };
                self.ask(now, replica, dice, &asked.task_id, input)
            }
        };
        // Rejected events are not remembered.
        let changed = outcomes.first().is_none_or(|outcome| outcome.after().is_some());
        if changed {
            let answer = Accepted {
                event_id: event.key.id.clone(),
                task_id: None,
                status: None,
                artifact_digest: None,
                note: None,
            };
            self.events.insert(id, answer);
        }
        outcomes
    }

    fn ask(
        &mut self,
        now: Millis,
        replica: usize,
        dice: &mut Dice,
        task: &TaskId,
        input: Input,
    ) -> Vec<Applied> {
        self.apply(now, replica, dice, &[Named { task_id: task.clone(), attempt: None, input }])
    }

    fn submit(&mut self, now: Millis, new: &NewTask) {
        if self.tasks.contains_key(&new.task_id) {
            return;
        }
        if let Some(pool) = &new.pool {
            let row = WorkspaceRow { pool: pool.clone(), next_position: 1 };
            self.workspaces.entry(new.workspace.clone()).or_insert(row);
        }
        let Some(pool) = self.workspaces.get(&new.workspace).map(|row| row.pool.clone()) else { return };
        let mut place = self.place(&new.workspace);
        let task = new_task(new, &pool, Some(&mut place), clock(now));
        if let Some(row) = self.workspaces.get_mut(&new.workspace) {
            row.next_position = place.position;
        }
        let rank = self.rank(&new.workspace, new.priority);
        self.seq += 1;
        let row = TaskRow { task, seq: self.seq, rank, priority: new.priority, payload: new.payload.clone() };
        self.tasks.insert(new.task_id.clone(), row);
        self.check_constraints(&std::iter::once(new.task_id.clone()).collect());
    }

    /// The rank rule of admission: one more than the last of the workspace and priority, and not behind what the pool has served
    /// (protocol E4).
    pub(super) fn rank(&mut self, workspace: &WorkspaceId, priority: u8) -> i64 {
        let pool = self.workspaces.get(workspace).map(|row| row.pool.clone());
        let served = pool.and_then(|pool| self.served_rank.get(&pool).copied()).unwrap_or_default();
        let last = self.lanes.entry((workspace.clone(), priority)).or_insert(served);
        *last = (*last).max(served) + 1;
        *last
    }
}
