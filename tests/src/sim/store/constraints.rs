//! What must hold after every write: the CHECKs and unique indexes of the schema, the transition's own invariants, and an
//! independent look at every report that changed something.

use std::collections::BTreeSet;

use switchyard_common::contract::ids::{AgentRef, TaskId};
use switchyard_common::contract::report::Claim;
use switchyard_common::task::{
    AssignTo, Attempt, AttemptOutcome, Input, RevokeReason, Status, Subject, Task, check_subject,
    occupies_workspace,
};

use super::tables::Store;

/// Losses of a step after which it is not given to anybody any more (protocol B9).
const LOSSES_MAX_COUNT: usize = 3;

impl Store {
    /// Holds one change against rules that need its state before.
    pub(super) fn check_fence(&mut self, before: &Subject, after: &Subject, input: &Input) {
        let (old, new) = (&before.task, &after.task);
        if old.status.is_terminal() || (old.status != new.status && !old.status.may_become(new.status)) {
            self.violated(format!("terminal absorbs: {} went from {} to {}", old.id, old.status, new.status));
        }
        if new.version != old.version + 1 {
            self.violated(format!("{}: version went from {} to {}", old.id, old.version, new.version));
        }
        if new.attempts < old.attempts || new.attempts > old.attempts + 1 {
            self.violated(format!("A4: {} went from attempt {} to {}", old.id, old.attempts, new.attempts));
        }
        if let Some((sender, claim)) = claim_of(input)
            && !speaks_for(before, sender, claim)
        {
            let (id, key, status) = (&old.id, claim.key(), new.status);
            self.violated(format!(
                "invariant 7: a stale or foreign claim of {sender} for {key} made {id} {status}"
            ));
        }
        if let Input::Ask { reporter, .. } | Input::Started { reporter, .. } | Input::Outcome { reporter, .. } =
            input
            && !(reporter.granted && reporter.epoch_is_current)
        {
            let (id, who) = (&old.id, &reporter.agent);
            self.violated(format!("A5, G: a report of {who}, who may not speak, changed {id}"));
        }
        if let Input::Assign(to) = input {
            self.check_assigned(before, after);
            self.check_assignee(old, to);
        }
    }

    /// Who gets work is live in its current session, does not drain, and is not paused; nor is the work.
    fn check_assignee(&mut self, task: &Task, to: &AssignTo) {
        let row = self.agents.get(&to.agent);
        let may = row.is_some_and(|row| {
            row.live
                && !row.draining
                && row.session == to.session
                && row.handlers.contains(&task.current_step().handler)
        });
        let paused = self.paused.pool
            || self.revoked
            || self.paused.agents.contains(&to.agent)
            || self.paused.workspaces.contains(&task.workspace);
        if !may || paused {
            self.violated(format!(
                "C2, C6, H: {} is assigned to {}, who may not get it now",
                task.id, to.agent
            ));
        }
        if task.cancel.is_some() || task.run_after.is_some() {
            self.violated(format!("H: {} is assigned though it waits, or was cancelled", task.id));
        }
        let lost = self.attempts_of(task).filter(|attempt| {
            let may_have_run = attempt.started_at.is_some() || (attempt.repeatable && attempt.confirmed);
            attempt.end.is_some_and(|end| end.outcome == AttemptOutcome::Lost) && may_have_run
        });
        if lost.count() >= LOSSES_MAX_COUNT {
            self.violated(format!("B9: {} is assigned after {LOSSES_MAX_COUNT} losses of its step", task.id));
        }
    }

    /// The attempts of the current step of a task.
    fn attempts_of<'a>(&'a self, task: &'a Task) -> impl Iterator<Item = &'a Attempt> {
        let of_task = self.attempts.iter().filter(|((id, _), _)| *id == task.id);
        of_task.map(|(_, row)| &row.attempt).filter(|attempt| attempt.step == task.step)
    }

    /// What counts against the tries of a step is something that its handler did.
    fn check_charge(&self, task: &Task) -> Option<String> {
        let to_blame = self.attempts_of(task).filter(|attempt| {
            let revoked_for = attempt.revoke.map(|revoke| revoke.reason);
            match attempt.end.map(|end| end.outcome) {
                Some(AttemptOutcome::Failed | AttemptOutcome::Panicked | AttemptOutcome::TimedOut) => true,
                Some(AttemptOutcome::Lost) => attempt.started_at.is_some(),
                Some(AttemptOutcome::Cancelled) => revoked_for == Some(RevokeReason::RunTimeout),
                Some(AttemptOutcome::NotStarted) => task.artifact.is_some(),
                Some(
                    AttemptOutcome::Succeeded
                    | AttemptOutcome::Returned
                    | AttemptOutcome::Withdrawn
                    | AttemptOutcome::Resolved,
                )
                | None => false,
            }
        });
        let count = u32::try_from(to_blame.count()).unwrap_or(u32::MAX);
        (task.charge > count).then(|| format!("C6: {} is charged {} tries of {count}", task.id, task.charge))
    }

    /// A cancel of what somebody has in hand is on its way until it is answered.
    fn check_cancel(&self, task: &Task) -> Option<String> {
        let cancel = task.cancel.as_ref()?;
        let open = self.open_attempt(&task.id)?;
        let in_hand = matches!(task.status, Status::Assigned | Status::Running);
        let stoppable = open.attempt.repeatable || cancel.force || task.status == Status::Assigned;
        let asked = open.attempt.revoke.is_some();
        (in_hand && stoppable && !asked).then(|| format!("H: nobody asks for the cancel of {}", task.id))
    }

    fn check_assigned(&mut self, before: &Subject, after: &Subject) {
        let task = &before.task;
        if task.exclusive {
            let ahead = |other: &Task| {
                other.id != task.id
                    && other.workspace == task.workspace
                    && occupies_workspace(other)
                    && other.position < task.position
            };
            if self.tasks.values().any(|row| ahead(&row.task)) {
                self.violated(format!(
                    "FIFO: {} was assigned ahead of an earlier task of its workspace",
                    task.id
                ));
            }
        }
        if task.current_step().approval && task.approval.is_none() {
            self.violated(format!("invariant 5: {} was assigned without an approval", task.id));
        }
        if let Some(attempt) = &after.attempt
            && self.attempts.contains_key(&(task.id.clone(), attempt.number))
        {
            self.violated(format!("A4: attempt number {}#{} was used before", task.id, attempt.number));
        }
    }

    /// Holds the changed tasks against the schema.
    pub(super) fn check_constraints(&mut self, changed: &BTreeSet<TaskId>) {
        let mut found = Vec::new();
        for id in changed {
            let Some(row) = self.tasks.get(id) else { continue };
            let task = row.task.clone();
            for number in 1..=task.attempts {
                let attempt = self.attempts.get(&(id.clone(), number)).map(|row| row.attempt.clone());
                if let Err(violation) = check_subject(&Subject { task: task.clone(), attempt }) {
                    found.push(format!("{id} attempt {number}, {}: {violation}", task.status));
                }
            }
            let all =
                || self.tasks.values().map(|row| &row.task).filter(|other| other.workspace == task.workspace);
            if all().filter(|other| other.holds).count() > 1 {
                found.push(format!("invariant 4: two tasks hold workspace {}", task.workspace));
            }
            let heads = all().filter(|other| occupies_workspace(other) && other.status != Status::Blocked);
            if heads.count() > 1 {
                found
                    .push(format!("invariant 4: two tasks of workspace {} are past blocked", task.workspace));
            }
            found.extend(self.check_charge(&task));
            found.extend(self.check_cancel(&task));
            if task.position.is_some() && all().filter(|other| other.position == task.position).count() > 1 {
                found.push(format!(
                    "two tasks of workspace {} have position {:?}",
                    task.workspace, task.position
                ));
            }
        }
        self.violations.extend(found);
    }

    /// A step that must not run twice and that its agent has not listed for long is uncertain by now (protocol C2).
    pub fn check_unlisted(&mut self) {
        const LONG_COUNT: u32 = 4;
        let forgotten = self.open_attempts().find(|((id, _), row)| {
            let running = self.tasks.get(id).is_some_and(|task| task.task.status == Status::Running);
            row.unlisted >= LONG_COUNT && !row.attempt.repeatable && running
        });
        if let Some(((id, number), _)) = forgotten {
            let what = format!("C2: {id}#{number} is not listed by its agent, and still counts as running");
            self.violated(what);
        }
    }

    /// Open attempts of an agent's current session against what it offers (invariant 8).
    pub fn check_load(&mut self, agent: &AgentRef) {
        let Some(row) = self.agents.get(agent) else { return };
        let session = row.session;
        let mine = || {
            self.open_attempts()
                .map(|(_, row)| row)
                .filter(|row| row.attempt.assignee.agent == *agent && row.attempt.assignee.session == session)
        };
        let (open, exclusive) = (mine().count(), mine().filter(|row| row.exclusive).count());
        let must_have_slot = mine().filter(|row| row.exclusive || !row.attempt.repeatable).count();
        let (places, slots, most) = (row.slots + row.credit, row.slots, row.max_exclusive);
        let over = |count: usize, limit: u32| count > usize::try_from(limit).unwrap_or(usize::MAX);
        if over(open, places) || over(must_have_slot, slots) || over(exclusive, most) {
            self.violated(format!(
                "invariant 8: {agent} has {open} open attempts of {places} places, {must_have_slot} of {slots} slots, \
                 {exclusive} of {most} exclusive"
            ));
        }
    }
}

/// Who speaks, with which claim, where the input is a report.
fn claim_of(input: &Input) -> Option<(&AgentRef, &Claim)> {
    if let Input::Ask { reporter, claim, .. }
    | Input::Started { reporter, claim }
    | Input::Outcome { reporter, claim, .. } = input
    {
        return Some((&reporter.agent, claim));
    }
    None
}

/// Whether the claim names this very attempt, still open, of this agent: told apart field by field, not by the production check.
fn speaks_for(before: &Subject, sender: &AgentRef, claim: &Claim) -> bool {
    let Some(attempt) = &before.attempt else { return false };
    let assignee = &attempt.assignee;
    claim.task_id == before.task.id
        && claim.attempt == attempt.number
        && assignee.agent == *sender
        && assignee.lease.0.as_u128() == claim.lease.0.as_u128()
        && assignee.session.0.as_u128() == claim.session.0.as_u128()
        && attempt.end.is_none()
}
