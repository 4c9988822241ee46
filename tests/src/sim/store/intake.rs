//! Events: each has its effect once (design 5).

use switchyard_common::contract::answer::Accepted;
use switchyard_common::contract::ids::{TaskId, WorkspaceId};
use switchyard_common::task::Input;
use switchyard_dispatcher::intake::command::{Admitted, Command, NewTask, Verdict};
use switchyard_dispatcher::intake::new_task::new_task;
use switchyard_dispatcher::store::act::Acted;
use switchyard_dispatcher::store::intake::answer_to_act;
use switchyard_dispatcher::store::{Applied, Named};

use super::tables::{Store, TaskRow, WorkspaceRow, clock};
use crate::sim::agenda::Millis;
use crate::sim::dice::Dice;

impl Store {
    /// Stores one event, unless it was stored before.
    pub fn admit(
        &mut self,
        now: Millis,
        replica: usize,
        dice: &mut Dice,
        event: &Admitted,
    ) -> (Vec<Applied>, Verdict) {
        let id = (event.key.source.clone(), event.key.id.clone());
        if let Some(answer) = self.events.get(&id) {
            return (Vec::new(), Verdict::Accepted(answer.clone()));
        }
        let accepted = |task_id: Option<&TaskId>| {
            Verdict::Accepted(Accepted {
                event_id: event.key.id.clone(),
                task_id: task_id.cloned(),
                status: None,
                artifact_digest: None,
                note: None,
            })
        };
        let (outcomes, verdict) = match &event.command {
            Command::Register(registered) => {
                let row = WorkspaceRow { pool: registered.pool.clone(), next_position: 1 };
                self.workspaces.entry(registered.workspace_id.clone()).or_insert(row);
                (Vec::new(), accepted(None))
            }
            Command::Submit(new) => {
                self.submit(now, new);
                (Vec::new(), accepted(Some(&new.task_id)))
            }
            Command::Approve(asked) => {
                let input =
                    Input::Approve { by: asked.approved_by.clone(), digest: asked.artifact_digest.clone() };
                self.ask(now, replica, dice, event, (&asked.task_id, input))
            }
            Command::Discard(asked) => {
                let input = Input::Discard { by: asked.discarded_by.clone() };
                self.ask(now, replica, dice, event, (&asked.task_id, input))
            }
            Command::Cancel(asked) => {
                let force = asked.force.unwrap_or(false);
                let input = Input::Cancel { by: asked.requested_by.clone(), force };
                self.ask(now, replica, dice, event, (&asked.task_id, input))
            }
        };
        // Rejected events are not remembered.
        if let Verdict::Accepted(answer) = &verdict {
            self.events.insert(id, answer.clone());
        }
        (outcomes, verdict)
    }

    fn ask(
        &mut self,
        now: Millis,
        replica: usize,
        dice: &mut Dice,
        event: &Admitted,
        (task, input): (&TaskId, Input),
    ) -> (Vec<Applied>, Verdict) {
        let applied =
            self.apply(now, replica, dice, &[Named { task_id: task.clone(), attempt: None, input }]);
        let acted = applied.first().map_or(Acted::UnknownTask, |applied| Acted::from(applied.clone()));
        let verdict = answer_to_act(event, task, &acted);
        (applied, verdict)
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
