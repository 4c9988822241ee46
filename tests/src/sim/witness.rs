//! What an onlooker knows of an agent's process, from what it was told and what became of its signs of life. The machine is held
//! against it after every input: a rule of the agent that the machine forgets shows here at once, whatever it leads to later.

use std::collections::BTreeMap;
use std::time::Duration;

use switchyard_common::contract::control::Order;
use switchyard_common::contract::ids::SessionId;
use switchyard_common::contract::report::{Claim, StoppedBy};
use switchyard_worker_agent::machine::{AttemptId, Effect, Input, ReportId};

use super::agenda::Millis;
use super::ledger::{Run, RunId};
use super::world::World;

/// What is known of one process.
#[derive(Debug, Default)]
pub struct Witness {
    signs: BTreeMap<ReportId, (SessionId, Millis)>,
    /// The send time of the newest sign of life that was confirmed, of each session: confirms of an earlier one may come late.
    heard: BTreeMap<SessionId, Millis>,
    /// It was told to drain.
    draining: bool,
    /// The newest restore epoch that it was told.
    epoch: i64,
    /// It has run since, without a stop.
    pub(super) up_since: Millis,
}

/// An input, as far as rules speak of it.
#[derive(Debug, Default)]
pub struct Heard {
    /// A confirm: of a sign of life that was long on its way, it may be the first word of a silence.
    is_confirm: bool,
    /// An order of an older epoch than one that was heard before.
    stale_order: bool,
    /// The session that it ends.
    ends: Option<SessionId>,
    /// The attempt that it stops, and whether even one that is not repeatable.
    stops: Option<(Claim, bool)>,
}

impl Witness {
    pub(super) fn of_process_since(now: Millis) -> Self {
        Self { up_since: now, ..Self::default() }
    }

    /// It sends a sign of life.
    pub(super) fn says(&mut self, id: ReportId, session: SessionId, now: Millis) {
        self.signs.insert(id, (session, now));
    }

    /// It is told something.
    pub(super) fn hears(&mut self, input: &Input) -> Heard {
        let mut heard = Heard::default();
        match input {
            Input::Confirmed(id) => {
                heard.is_confirm = true;
                self.confirmed(*id);
            }
            Input::DrainRequested => self.draining = true,
            Input::Control(control) => {
                heard.stale_order = control.epoch < self.epoch;
                if !heard.stale_order {
                    match &control.order {
                        Order::EndSession { session } => heard.ends = Some(*session),
                        Order::Cancel { claim, force } | Order::Revoke { claim, force, .. } => {
                            heard.stops = Some((claim.clone(), *force));
                        }
                        Order::Drain => self.draining = true,
                        Order::Go { .. } | Order::NoGo { .. } => {}
                    }
                }
                self.epoch = self.epoch.max(control.epoch);
            }
            Input::ConsumeReady
            | Input::ConsumeLost
            | Input::Delivery { .. }
            | Input::HandlerEnded { .. }
            | Input::Lost(_)
            | Input::Tick
            | Input::DrainGraceOver => {}
        }
        heard
    }

    fn confirmed(&mut self, id: ReportId) {
        if let Some((session, at)) = self.signs.remove(&id) {
            let newest = self.heard.entry(session).or_insert(at);
            *newest = at.max(*newest);
        }
    }

    /// How long a session has not been heard; none when it never was.
    fn silence(&self, session: SessionId, now: Millis) -> Option<Duration> {
        let at = self.heard.get(&session)?;
        Some(Duration::from_millis(now.saturating_sub(*at)))
    }
}

/// An agent that runs for so long before its handlers must be dead has had the time to stop them, in milliseconds.
const STOP_NOTICED_MS: Millis = 2_500;

impl World {
    /// Holds one effect of an input against what the input was.
    pub(super) fn check_effect(&mut self, agent: usize, heard: &Heard, effect: &Effect) {
        let obeys = match effect {
            Effect::Stop { why, .. } => *why == StoppedBy::Dispatcher,
            Effect::Start(start) => !start.work.repeatable,
            Effect::Publish(_)
            | Effect::Ack(_)
            | Effect::Nack(_)
            | Effect::KeepAlive { .. }
            | Effect::SessionStarted(_)
            | Effect::StopConsuming
            | Effect::Drained
            | Effect::Note(_) => false,
        };
        if heard.stale_order && obeys {
            self.store
                .violated(format!("G: agent {agent} obeys an order of an epoch that is over: {effect:?}"));
        }
    }

    /// Holds an agent against its rules after an input.
    pub(super) fn check_agent(&mut self, agent: usize, heard: &Heard) {
        let one = &self.agents[agent];
        let Some(machine) = &one.machine else { return };
        let session = machine.session();
        let silent = one.witness.silence(session, self.now());
        if !heard.is_confirm && silent.is_some_and(|silence| silence >= one.settings().session_limit()) {
            self.store.violated(format!("C3: agent {agent} keeps session {session} in silence"));
        }
        let goes_on = |run: &Run| {
            let over = heard.ends == Some(run.session) && run.repeatable;
            let unwanted = heard.stops.as_ref().is_some_and(|(claim, force)| {
                AttemptId::from(claim.lease) == run.id && (run.repeatable || *force)
            });
            (over || unwanted) && !run.stop_asked
        };
        let alive = self.ledger.alive_at(agent, one.life);
        let going_on = alive.into_iter().map(|id| &self.ledger.runs[id]).find(|run| goes_on(run));
        if let Some(run) = going_on {
            let key = run.key.clone();
            self.store.violated(format!("B4, C5: agent {agent} was told to stop {key}, and does not"));
        }
    }

    /// Holds the start of a handler against what its agent was told, and what it asked.
    pub(super) fn check_agent_starts(&self, agent: usize, run: &Run) -> Vec<String> {
        let (one, now, key) = (&self.agents[agent], self.now(), &run.key);
        let (settings, witness) = (one.settings(), &one.witness);
        let mut found = Vec::new();
        if one.machine.as_ref().is_none_or(|machine| machine.session() != run.session) {
            found.push(format!("B6: {key} starts under a session that it was not assigned to"));
        }
        if witness.draining {
            found.push(format!("C6: {key} starts while its agent drains"));
        }
        // A step that is not repeatable runs on in silence, so only the end of its session is in its way.
        let limit = if run.repeatable { settings.exclusive_limit() } else { settings.session_limit() };
        if witness.silence(run.session, now).is_none_or(|silence| silence >= limit) {
            found.push(format!("C3: {key} starts while its agent is not heard"));
        }
        if run.exclusive && run.repeatable && run.dead_by.is_none() {
            found.push(format!("C3, C4: {key} starts without a moment by which it is dead"));
        }
        if run.epoch < witness.epoch {
            found.push(format!("G: {key} starts by an assignment of an epoch that is over"));
        }
        if !run.repeatable {
            match self.ledger.asked.get(&run.id) {
                None => found.push(format!("B7: {key} starts without having asked")),
                Some(at) if Duration::from_millis(now - at) > settings.start_window => {
                    found.push(format!("B7: {key} starts later than its start window"));
                }
                Some(_) => {}
            }
        }
        found
    }

    /// A handler that only one agent may run was killed by its supervisor. Only an agent that could not act leaves it to that.
    pub(super) fn check_keep_alive(&mut self, run: RunId) {
        let run = &self.ledger.runs[run];
        let (agent, life) = run.agent;
        let one = &self.agents[agent];
        let could_act =
            one.life == life && one.is_up() && one.witness.up_since + STOP_NOTICED_MS <= self.now();
        if could_act && !run.stop_asked {
            let key = run.key.clone();
            self.store
                .violated(format!("C3: agent {agent} left the end of {key} in silence to its supervisor"));
        }
    }
}
