//! What must hold: at every start of a handler, and when the world has come to rest (design 10).

use switchyard_common::contract::answer::Answer;
use switchyard_common::contract::assignment::AttemptKey;
use switchyard_common::contract::ids::{AgentRef, SessionId};
use switchyard_common::contract::report::Outcome;
use switchyard_common::contract::report::ReportBody;
use switchyard_common::failure::FailureKind;
use switchyard_common::task::{AttemptOutcome, Effect, Input, Refusal, Status, Task, Verdict};
use switchyard_dispatcher::intake::command::EventKey;
use switchyard_dispatcher::schedule::{TaskView, waiting_on};
use switchyard_dispatcher::store::Applied;

use super::agenda::Millis;
use super::broker::{Body, Message};
use super::ledger::Run;
use super::people::DEADLY_SOURCE;
use super::scenario::LOST_AFTER_MS;
use super::world::World;

/// Longest time from the calm to rest, in milliseconds.
pub(super) const REST_MAX_MS: u64 = 2_400_000;

impl World {
    /// Holds the start of a handler against everything that could forbid it.
    pub(super) fn check_start(&mut self, agent: usize, run: &Run) {
        let mut found = Vec::new();
        if self.ledger.runs.iter().any(|other| other.id == run.id) {
            found.push(format!("B5: {} was started twice", run.key));
        }
        let started_before = |other: &&Run| other.key.task_id == run.key.task_id && other.step == run.step;
        if !run.repeatable && self.ledger.runs.iter().any(|other| started_before(&other)) {
            found.push(format!("invariant 6: step {} of {} was started twice", run.step, run.key.task_id));
        }
        let beside = self.ledger.alive.iter().map(|id| &self.ledger.runs[*id]);
        let overridden = self.ledger.overridden.contains(&run.workspace);
        if run.exclusive && !overridden {
            let rivals = beside.filter(|other| {
                other.exclusive
                    && other.workspace == run.workspace
                    && !self.store.was_waited_for(self.now(), other.session)
            });
            found.extend(rivals.map(|other| {
                let since = other.started_at;
                format!(
                    "invariant 4: {} starts beside {}, which runs since {since} in {}",
                    run.key, other.key, run.workspace
                )
            }));
        }
        found.extend(self.check_places(agent, run));
        found.extend(self.check_agent_starts(agent, run));
        if let Some(row) = self.store.tasks.get(&run.key.task_id) {
            let task = &row.task;
            found.extend(self.check_approval(task, run));
            if (run.exclusive || !run.repeatable) && !overridden {
                found.extend(self.check_allowed(task, run));
            }
        }
        self.store.violations.extend(found);
    }

    fn check_places(&self, agent: usize, run: &Run) -> Option<String> {
        let settings = self.agents[agent].settings();
        let alive = self.ledger.alive_at(agent, run.agent.1);
        let exclusive = alive.iter().filter(|id| self.ledger.runs[**id].exclusive).count();
        let full = |count: usize, most: u32| u32::try_from(count).unwrap_or(u32::MAX) >= most;
        let over =
            full(alive.len(), settings.slots) || (run.exclusive && full(exclusive, settings.max_exclusive));
        over.then(|| format!("slots: {} starts beside {} runs at agent {agent}", run.key, alive.len()))
    }

    /// What runs is what was approved, by somebody (invariants 5 and 10).
    fn check_approval(&self, task: &Task, run: &Run) -> Option<String> {
        let step = task.steps.iter().find(|step| step.name == run.step)?;
        if !step.approval {
            return None;
        }
        let approved =
            task.auto_approve || self.ledger.approved.contains(&(task.id.clone(), run.inputs.clone()));
        let bound = task.approval.as_ref().is_some_and(|approval| approval.digest == run.inputs);
        (!approved || !bound).then(|| format!("invariants 5 and 10: {} runs what nobody approved", run.key))
    }

    /// A handler that must not run beside another starts only for an open attempt, and one that must not run twice only when that
    /// was committed.
    fn check_allowed(&self, task: &Task, run: &Run) -> Option<String> {
        let key = (run.key.task_id.clone(), run.key.attempt);
        let row = self.store.attempts.get(&key).filter(|row| row.attempt.end.is_none());
        let allowed = match row {
            // Its agent may not have heard of the fence yet; nobody else is given the workspace until it has.
            None if run.repeatable && self.store.was_refused(run.session) => true,
            None => false,
            Some(_) if run.repeatable => true,
            Some(row) => {
                row.attempt.nonce.is_some() && matches!(task.status, Status::Running | Status::Uncertain)
            }
        };
        (!allowed).then(|| format!("B4, B7: {} starts while it is not allowed to ({})", run.key, task.status))
    }

    /// An agent reports how an attempt ended.
    pub(super) fn reported(&mut self, agent: usize, outcome: &Outcome) {
        if outcome.end.failure().is_some() {
            let life = self.agents[agent].life;
            self.ledger.failed.insert(outcome.claim.key(), (agent, life));
        }
    }

    /// Writes decisions to the trace.
    pub(super) fn applied(&mut self, applied: &[Applied]) {
        for one in applied {
            self.log(|| describe(one));
            self.check_answer(one);
        }
    }

    /// Every ask is answered; the copy of a settled outcome is benign; whose outcome was not heard is remembered.
    fn check_answer(&mut self, applied: &Applied) {
        let (Some(before), Some(decision)) = (&applied.before, &applied.decision) else { return };
        if let Input::Ask { claim, .. } = &applied.named.input {
            let is_answer = |effect: &Effect| matches!(effect, Effect::Go { .. } | Effect::NoGo { .. });
            if !decision.effects.iter().any(is_answer) {
                self.store.violated(format!("B7: the ask for {} is not answered", claim.key()));
            }
            let stored = applied.after().unwrap_or(before).attempt.as_ref().and_then(|attempt| attempt.nonce);
            let granted = decision.effects.iter().find_map(|effect| match effect {
                Effect::Go { nonce } => Some(*nonce),
                Effect::NoGo { .. } | Effect::SendRevoke | Effect::Letter { .. } => None,
            });
            if granted.is_some() && granted != stored {
                self.store.violated(format!("B7: go for {} with a nonce that is not stored", claim.key()));
            }
        }
        if matches!(applied.named.input, Input::Returned { .. })
            && let Some(attempt) = applied.after().and_then(|after| after.attempt.as_ref())
            && attempt.end.is_some_and(|end| end.outcome == AttemptOutcome::Returned)
        {
            let key = AttemptKey { task_id: before.task.id.clone(), attempt: attempt.number };
            if self.ledger.arrived.contains(&key) {
                self.store.violated(format!(
                    "B3: the assignment of {key} is undone though a copy of it had arrived"
                ));
            }
        }
        let Input::Outcome { claim, end, .. } = &applied.named.input else { return };
        let Verdict::Refused(refusal) = &decision.verdict else { return };
        if matches!(refusal, Refusal::PoolRevoked | Refusal::StaleEpoch) {
            self.ledger.unheard.insert(claim.key());
        }
        let settled = before.attempt.as_ref().and_then(|attempt| attempt.end);
        if matches!(refusal, Refusal::Ended(_))
            && settled.is_some_and(|one| one.outcome.as_str() == end.name())
        {
            self.store.violated(format!("H: a copy of the outcome of {} is not benign", claim.key()));
        }
    }

    /// Copies of an accepted event get the same answer again, and only what is deadly is taken for poison, never what was in hand with it.
    /// Whoever is told may hear of it in another order.
    pub(super) fn check_event_verdict(&mut self, key: &EventKey, answer: &Answer) {
        let before = self.people.decided.insert(key.clone(), answer.clone());
        if let Answer::Rejected(rejected) = answer {
            let (is_poison, is_deadly) = (rejected.code == FailureKind::Poison, key.source == DEADLY_SOURCE);
            if is_poison != is_deadly {
                self.store.violated(format!(
                    "D4: event {} of {} is refused: {}",
                    key.id, key.source, rejected.message
                ));
            }
        }
        if let Some(before @ Answer::Accepted(_)) = before
            && before != *answer
        {
            self.store.violated(format!("H: the copies of event {} got different answers", key.id));
        }
    }

    /// Every event has its effect, or a letter that says why not; and whoever published it was told which.
    fn events_open(&self) -> Vec<String> {
        let mut found = Vec::new();
        for key in &self.people.published {
            match self.people.answered.get(key) {
                None => found.push(format!("design 5: nobody was told what came of event {}", key.id)),
                Some(Answer::Accepted(_)) => {}
                // Copies may be refused for different reasons: the first one is the letter's.
                Some(Answer::Rejected(_)) => {
                    let letter = self.store.letter_of_event(key);
                    if letter.is_none_or(|letter| letter.failure.is_none() || letter.copies == 0) {
                        found.push(format!("invariant 9: event {} was refused without a letter", key.id));
                    }
                }
            }
        }
        found
    }

    /// Holds the loss of an agent against what the broker has taken of it (protocol C1). Whoever may declare losses has heard
    /// everything for a full lost-timeout, save what was on its way just now.
    pub(super) fn check_lost(&mut self, agent: &AgentRef, session: SessionId) {
        const ON_ITS_WAY_MS: Millis = 6_000;
        // What was settled up to half a lost-timeout ago is good enough, and some on top for what is on its way.
        const UNREAD_MAX_MS: Millis = LOST_AFTER_MS / 2 + 3_000;
        let now = self.now();
        let sign = self.ledger.signs.get(agent).filter(|(of, _)| *of == session).map(|(_, at)| *at);
        if let Some(at) = sign.filter(|at| at + LOST_AFTER_MS > now + ON_ITS_WAY_MS) {
            self.store
                .violated(format!("C1: {agent} is declared lost though a sign of life was taken at {at} ms"));
        }
        let is_outcome = |message: &Message| {
            if let Body::Report(report) = &message.body
                && let ReportBody::Outcome(batch) = &report.body
            {
                return batch.outcomes.iter().any(|one| one.claim.session == session);
            }
            false
        };
        let unread = self.broker.waiting_since(&self.namespace.outcomes_queue(), is_outcome);
        if let Some(at) = unread.filter(|at| at + UNREAD_MAX_MS < now) {
            self.store.violated(format!(
                "C1: {agent} is declared lost while its outcome waits unread since {at} ms"
            ));
        }
    }

    /// Whether everything has ended and everybody knows.
    #[must_use]
    pub(super) fn is_at_rest(&self) -> bool {
        let all_in = self.store.tasks.len() as u64 == self.people.submitted;
        let ended = self.store.tasks.values().all(|row| row.task.status.is_terminal());
        let letters = self.store.letters.values().all(|letter| letter.complete);
        let copies = self.ledger.nacked.keys().all(|key| self.copies(key) > 0);
        let put_down = self.agents.iter().all(|agent| agent.is_up() && agent.in_hand() == 0);
        all_in
            && ended
            && letters
            && copies
            && put_down
            && self.ledger.alive.is_empty()
            && self.queues_left().is_empty()
            && self.events_open().is_empty()
    }

    fn copies(&self, key: &AttemptKey) -> u32 {
        self.store.letter_of(&key.task_id, key.attempt).map_or(0, |letter| letter.copies)
    }

    fn queues_left(&self) -> Vec<String> {
        let own = self.agents.iter().map(|agent| self.namespace.agent_queue(&agent.id.pool, &agent.id.agent));
        let shared = [
            self.namespace.events_queue(),
            self.namespace.outcomes_queue(),
            self.namespace.starts_queue(),
            self.namespace.dead_letters_queue(),
        ];
        own.chain(shared).filter(|queue| self.broker.depth(queue).is_some_and(|depth| depth > 0)).collect()
    }

    /// What keeps the world from rest.
    pub(super) fn not_at_rest(&self) -> String {
        let snapshot = self.store.snapshot(self.now(), &self.pool);
        let tasks = self.store.tasks.values().map(|row| &row.task).filter(|task| !task.status.is_terminal());
        let waiting = tasks.map(|task| {
            let stop_requested =
                self.store.open_attempt(&task.id).is_some_and(|row| row.attempt.revoke.is_some());
            let view = TaskView { task: task.clone(), held_by: None, workspace_paused: None, stop_requested };
            format!(
                "{} is {} and waits for {}",
                task.id,
                task.status,
                waiting_on(&view, &snapshot).sentence()
            )
        });
        let letters = self.store.letters.iter().filter(|(_, letter)| !letter.complete);
        let letters = letters.map(|(key, _)| format!("letter {key} is not complete"));
        let hands = self.agents.iter().filter(|agent| agent.in_hand() > 0);
        let hands = hands.map(|agent| format!("{} has {} attempts in hand", agent.id, agent.in_hand()));
        let queues = self.queues_left().into_iter().map(|queue| format!("queue {queue} is not empty"));
        let lost = self.ledger.nacked.keys().filter(|key| self.copies(key) == 0);
        let lost = lost.map(|key| format!("the nacked delivery of {key} has no letter"));
        let missing = self.people.submitted - self.store.tasks.len() as u64;
        let missing = (missing > 0).then(|| format!("{missing} submitted tasks are not stored"));
        let all: Vec<String> = waiting
            .chain(letters)
            .chain(hands)
            .chain(queues)
            .chain(lost)
            .chain(missing)
            .chain(self.events_open())
            .collect();
        format!("invariant 2: no rest: {}", all.join("; "))
    }

    /// What must hold at rest.
    pub(super) fn check_rest(&mut self) {
        let mut found = Vec::new();
        for (key, times) in &self.ledger.nacked {
            if *times > 1 {
                found.push(format!("B5: {key} was nacked {times} times"));
            }
            // A delivery is nacked only when the broker has its outcome, and the outcome says why.
            let says_why = self.store.letter_of(&key.task_id, key.attempt).is_some_and(|letter| {
                letter.failure.is_some_and(|kind| kind != FailureKind::BrokerRejected) || letter.evidence > 0
            });
            if !says_why && !self.ledger.unheard.contains(key) && !self.ledger.purged.contains(key) {
                found.push(format!("D2: the letter of {key} does not say why it failed"));
            }
        }
        for row in self.store.tasks.values() {
            let task = &row.task;
            if task.cancel.is_some()
                && task.status == Status::Failed
                && !self.ledger.resolved.contains(&task.id)
            {
                found.push(format!("H: {} was cancelled, and yet it failed", task.id));
            }
        }
        for ((id, number), row) in &self.store.attempts {
            let key = AttemptKey { task_id: id.clone(), attempt: *number };
            let Some(end) = row.attempt.end else {
                found.push(format!("{key} is open at rest"));
                continue;
            };
            let failed = matches!(
                end.outcome,
                AttemptOutcome::Failed | AttemptOutcome::Panicked | AttemptOutcome::TimedOut
            );
            let letter = self.store.letter_of(id, *number);
            if failed && letter.is_none_or(|letter| letter.failure.is_none()) {
                found.push(format!("invariant 9: {key} failed without a letter"));
            }
            // An agent that lived on, and whose queue was not deleted, has nacked its delivery.
            let reported = self.ledger.failed.get(&key);
            let lived_on = reported.is_some_and(|(agent, life)| {
                self.agents[*agent].life == *life && !self.ledger.queues_deleted.contains(agent)
            });
            if failed && lived_on && self.copies(&key) == 0 {
                found.push(format!("invariant 9, B5: {key} failed, but the broker has no copy of it"));
            }
        }
        self.store.violations.extend(found);
    }
}

fn describe(applied: &Applied) -> String {
    let input = match &applied.named.input {
        Input::Due { .. } => "due".to_owned(),
        Input::Assign(to) => format!("assign to {}", to.agent.agent),
        Input::Ask { reporter, .. } => format!("ask by {}", reporter.agent.agent),
        Input::Started { reporter, .. } => format!("started by {}", reporter.agent.agent),
        Input::Outcome { reporter, end, .. } => format!("{} by {}", end.name(), reporter.agent.agent),
        Input::SessionEnded { reason, .. } => format!("session ended: {}", reason.as_str()),
        Input::Revoke { reason } => format!("revoke: {}", reason.as_str()),
        other @ (Input::Promote
        | Input::Returned { .. }
        | Input::NotListed
        | Input::DeadlinePassed
        | Input::QueueTimeout
        | Input::ApprovalExpired
        | Input::Approve { .. }
        | Input::Discard { .. }
        | Input::Cancel { .. }
        | Input::Resolve { .. }
        | Input::RetryNow) => format!("{other:?}"),
    };
    let id = &applied.named.task_id;
    let (Some(before), Some(decision)) = (&applied.before, &applied.decision) else {
        return format!("store   {id} is unknown: {input}");
    };
    let attempt = applied.named.attempt.map(|number| format!("#{number}")).unwrap_or_default();
    let from = before.task.status;
    match &decision.verdict {
        Verdict::Changed(after) => format!("store   {id}{attempt} {from} -> {}: {input}", after.task.status),
        Verdict::Unchanged => format!("store   {id}{attempt} stays {from}: {input}"),
        Verdict::Refused(refusal) => format!("store   {id}{attempt} stays {from}: {input}: {refusal}"),
    }
}
