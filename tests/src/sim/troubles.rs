//! What goes wrong inside the broker, where no client has done anything: a queue that is full for long, an alarm that blocks whoever
//! publishes, a consumer that is timed out (406: its channel closes, its connection lives), dead letters that find no queue and are
//! kept until they do, copies of events, reports and orders, in any order.
//!
//! Some seeds have them, drawn from dice of their own: the other seeds mean what they meant before there were any.

use super::agenda::Millis;
use super::broker::{Body, Message};
use super::dice::Dice;
use super::wire::{ConnId, Process, Role, ToClient};
use super::world::{Event, World};

/// One of so many seeds has troubles.
const SEEDS_WITH_TROUBLES: u64 = 4;
/// Most troubles of a run.
const TROUBLES_MAX_COUNT: u64 = 8;
/// Longest trouble, in milliseconds: over the lost-timeout.
const LONG_MAX_MS: Millis = 30_000;
/// So many of a thousand publishes are seen twice.
const COPIES_PER_MILLE: u64 = 15;
/// Longest time until a copy comes, in milliseconds: after everything that it is a copy of has been settled, too.
const COPY_MAX_MS: Millis = 25_000;

/// What happens inside the broker.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// Memory or disk is short: nothing is read from connections that publish.
    Alarm,
    /// Queues of one kind are full: publishes to them are nacked.
    Full(Kind),
    /// The consumer timeout ends the consumption of an agent's own queue.
    TimedOut(usize),
    /// Nothing is bound to the dead-letter exchange.
    Unbound,
    /// A message comes once more.
    Copy(Message),
}

/// A kind of queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Agents' own ones.
    Agents,
    /// What agents report.
    Reports,
}

/// What is wrong inside the broker now, and until when.
#[derive(Debug, Default)]
pub struct Troubles {
    /// None in a run without troubles.
    dice: Option<Dice>,
    blocked_until: Millis,
    full: Option<(Kind, Millis)>,
    unbound_until: Millis,
}

impl Troubles {
    /// The troubles of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let dice = (seed % SEEDS_WITH_TROUBLES == SEEDS_WITH_TROUBLES - 1).then(|| Dice::new(!seed));
        Self { dice, ..Self::default() }
    }

    /// When a frame that is sent now is read at the earliest.
    pub(super) fn read_from(&self, role: Role, now: Millis) -> Millis {
        match role {
            Role::Publish => now.max(self.blocked_until),
            Role::Consume => now,
        }
    }

    /// Whether a message's queue is full.
    pub(super) fn refuses(&self, message: &Message, now: Millis) -> bool {
        let kind = match &message.body {
            Body::Agent(_) => Kind::Agents,
            Body::Report(_) => Kind::Reports,
            Body::Control(_) | Body::Event(_) | Body::Canary(_) => return false,
        };
        self.full.is_some_and(|(full, until)| full == kind && until > now)
    }

    /// How long a dead letter is kept because it finds no queue; none when it finds one.
    pub(super) fn kept_for(&self, now: Millis) -> Option<Millis> {
        const RETRY_MS: Millis = 500;
        (self.unbound_until > now).then(|| self.unbound_until - now + RETRY_MS)
    }

    /// Everything is mended.
    pub(super) fn end(&mut self) {
        let dice = self.dice.take();
        *self = Self { dice, ..Self::default() };
    }

    /// When a copy of a publish comes, if one does.
    fn copy_in(&mut self) -> Option<Millis> {
        let dice = self.dice.as_mut()?;
        dice.chance(COPIES_PER_MILLE).then(|| dice.below(COPY_MAX_MS))
    }

    fn draw(&mut self, agents: usize) -> Option<Trouble> {
        let dice = self.dice.as_mut()?;
        let kind = if dice.chance(500) { Kind::Agents } else { Kind::Reports };
        let agent = dice.index(agents)?;
        let choice = dice.below(4);
        Some(match choice {
            0 => Trouble::Alarm,
            1 => Trouble::Full(kind),
            2 => Trouble::TimedOut(agent),
            _ => Trouble::Unbound,
        })
    }
}

impl World {
    /// Draws when what goes wrong inside the broker.
    pub(super) fn plan_troubles(&mut self) {
        let until = self.scenario.calm_at;
        let Some(dice) = self.troubles.dice.as_mut() else { return };
        let waits: Vec<Millis> =
            (0..dice.between(1, TROUBLES_MAX_COUNT)).map(|_| dice.below(until)).collect();
        for wait in waits {
            if let Some(trouble) = self.troubles.draw(self.agents.len()) {
                self.plan(wait, Event::Trouble(trouble));
            }
        }
    }

    pub(super) fn trouble(&mut self, trouble: Trouble) {
        if self.calm {
            return;
        }
        let now = self.now();
        let Some(until) = self.troubles.dice.as_mut().map(|dice| now + dice.between(500, LONG_MAX_MS)) else {
            return;
        };
        self.log(|| format!("trouble {trouble:?} until {until}"));
        match trouble {
            Trouble::Alarm => self.troubles.blocked_until = until,
            Trouble::Full(kind) => self.troubles.full = Some((kind, until)),
            Trouble::Unbound => self.troubles.unbound_until = until,
            Trouble::TimedOut(agent) => self.time_out(agent),
            Trouble::Copy(message) => {
                self.broker.publish(&message);
                self.deliver();
            }
        }
    }

    /// The channel of the agent's own queue is closed: what it has out comes back, its control queue and its connection stay.
    fn time_out(&mut self, agent: usize) {
        let id = self.agents[agent].id.clone();
        let queue = self.namespace.agent_queue(&id.pool, &id.agent);
        let of_consume = |conn: &ConnId| self.wires.get(*conn).is_some_and(|one| one.role == Role::Consume);
        let Some(conn) = self.wires.whole(Process::Agent(agent)).into_iter().find(of_consume) else { return };
        if self.broker.time_out(conn, &queue) {
            self.answer(conn, ToClient::ChannelClosed);
            self.deliver();
        }
    }

    /// A copy of what was just published may come later. Not of an assignment: whoever sends one again counts it first (protocol B1), so
    /// that the same number twice is always a redelivery of the one original, and that is what agents take it for (B5).
    pub(super) fn plan_copy(&mut self, message: &Message) {
        if !self.calm
            && !matches!(message.body, Body::Agent(_))
            && let Some(wait) = self.troubles.copy_in()
        {
            self.plan(wait, Event::Trouble(Trouble::Copy(message.clone())));
        }
    }
}
