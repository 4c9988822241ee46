//! The process around an agent's state machine: connections, time, handlers. The machine is the production one; what is modelled
//! here is its surroundings, and everything that can go wrong with them.

use std::collections::BTreeMap;
use std::time::Duration;

use switchyard_common::contract::ids::{AgentRef, Nonce, SessionId};
use switchyard_worker_agent::machine::{
    AttemptId, BootTime, HandlerEnd, IdSource, Input, Machine, Now, ReportId, Settings,
};

use super::agenda::Millis;
use super::dice::Dice;
use super::store::clock;
use super::wire::{ConnId, Process, Role, ToClient};
use super::witness::Witness;
use super::world::{Event, World};

/// What happens to an agent's process.
#[derive(Debug)]
pub enum AgentEvent {
    /// A frame arrived.
    Frame(ConnId, ToClient),
    /// A connection is gone.
    Gone(ConnId, Role),
    /// A connection is to be opened.
    Connect(Role),
    /// Its own queue is to be consumed again, on a connection that lives.
    Consume(ConnId),
    /// Time passes.
    Tick,
    /// A handler's process is gone.
    HandlerEnded(AttemptId, HandlerEnd),
    /// A report could not be sent.
    Unsent(ReportId),
    /// SIGTERM.
    Drain,
    /// The end of the grace after it.
    GraceOver,
    /// The process begins.
    Start,
}

/// Whether the process runs.
#[derive(Debug)]
enum State {
    Down,
    Up,
    /// SIGSTOP: what happens meanwhile is found on waking up.
    Stopped(Vec<AgentEvent>),
}

/// An agent.
#[derive(Debug)]
pub struct Agent {
    /// Pool and id.
    pub id: AgentRef,
    /// Grows with every start and every end of the process.
    pub life: u32,
    pub(super) settings: Settings,
    /// The host's time since boot at the start of the run.
    booted_for: Millis,
    state: State,
    pub(super) machine: Option<Machine>,
    pub(super) consume: Option<ConnId>,
    pub(super) publish: Option<ConnId>,
    pub(super) consuming: bool,
    pub(super) unanswered: BTreeMap<(ConnId, u64), (ReportId, bool)>,
    /// What an onlooker knows of it.
    pub(super) witness: Witness,
    dice: Dice,
}

/// Where a machine of the simulation gets its ids.
struct Ids(Dice);

impl IdSource for Ids {
    fn session(&mut self) -> SessionId {
        SessionId(self.0.uuid())
    }

    fn nonce(&mut self) -> Nonce {
        Nonce(self.0.uuid())
    }
}

/// Shortest and longest time between two ticks, in milliseconds.
const TICK_MS: (u64, u64) = (60, 400);
/// Grace of a drain, in milliseconds.
const DRAIN_GRACE_MS: u64 = 8_000;

impl Agent {
    pub(super) fn new(world: &mut World, index: usize) -> Self {
        let settings = world.scenario.agents[index].clone();
        let dice = world.dice.fork();
        Self {
            id: settings.agent.clone(),
            life: 0,
            settings,
            booted_for: world.dice.below(10_000_000),
            state: State::Down,
            machine: None,
            consume: None,
            publish: None,
            consuming: false,
            unanswered: BTreeMap::new(),
            witness: Witness::default(),
            dice,
        }
    }

    /// The simulated time of a moment on this agent's host.
    #[must_use]
    pub fn sim_time(&self, at: BootTime) -> Millis {
        u64::try_from(at.0.as_millis()).unwrap_or(u64::MAX).saturating_sub(self.booted_for)
    }

    /// The process exists and is not stopped.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        matches!(self.state, State::Up)
    }

    /// The process is stopped.
    #[must_use]
    pub const fn is_stopped(&self) -> bool {
        matches!(self.state, State::Stopped(_))
    }

    /// What the agent offers.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Attempts in hand.
    #[must_use]
    pub fn in_hand(&self) -> usize {
        self.machine.as_ref().map_or(0, Machine::in_hand)
    }

    pub(super) fn now(&self, now: Millis) -> Now {
        Now { boot: BootTime(Duration::from_millis(self.booted_for + now)), wall: clock(now) }
    }
}

impl World {
    /// Plans the start of an agent's process.
    pub(super) fn start_agent(&mut self, agent: usize) {
        let (wait, life) = (self.dice.between(1, 800), self.agents[agent].life);
        self.plan(wait, Event::Agent { agent, life, event: AgentEvent::Start });
    }

    pub(super) fn agent_event(&mut self, agent: usize, life: u32, event: AgentEvent) {
        if self.agents[agent].life != life {
            return;
        }
        match (&mut self.agents[agent].state, event) {
            (State::Stopped(found), event) => found.push(event),
            (State::Down, AgentEvent::Start) => self.agent_begins(agent),
            (State::Down, _) => {}
            (State::Up, event) => self.agent_lives(agent, event),
        }
    }

    fn agent_begins(&mut self, agent: usize) {
        let one = &mut self.agents[agent];
        one.life += 1;
        one.state = State::Up;
        let machine = Machine::new(one.settings.clone(), Box::new(Ids(one.dice.fork())));
        let session = machine.session();
        one.machine = Some(machine);
        (one.consume, one.publish, one.consuming) = (None, None, true);
        one.unanswered.clear();
        one.witness = Witness::of_process_since(self.agenda.now());
        self.log(|| format!("agent {agent} starts with session {session}"));
        for event in
            [AgentEvent::Connect(Role::Publish), AgentEvent::Connect(Role::Consume), AgentEvent::Tick]
        {
            self.plan_agent(agent, 30, event);
        }
    }

    pub(super) fn plan_agent(&mut self, agent: usize, wait_max: Millis, event: AgentEvent) {
        let (wait, life) = (self.dice.between(1, wait_max), self.agents[agent].life);
        self.plan(wait, Event::Agent { agent, life, event });
    }

    fn agent_lives(&mut self, agent: usize, event: AgentEvent) {
        match event {
            AgentEvent::Start => {}
            AgentEvent::Connect(role) => self.agent_connects(agent, role),
            AgentEvent::Consume(conn) => self.agent_consumes(agent, conn),
            AgentEvent::Gone(conn, role) => self.agent_loses(agent, conn, role),
            AgentEvent::Frame(conn, frame) => self.agent_hears(agent, conn, frame),
            AgentEvent::Tick => {
                let idle = self.agents[agent].in_hand() == 0;
                let (low, high) = TICK_MS;
                let wait = self.dice.between(low, high) * if idle { 3 } else { 1 };
                let life = self.agents[agent].life;
                self.plan(wait, Event::Agent { agent, life, event: AgentEvent::Tick });
                self.tell_agent(agent, Input::Tick);
            }
            AgentEvent::HandlerEnded(attempt, end) => {
                self.tell_agent(agent, Input::HandlerEnded { attempt, end, log_lines: 0 });
            }
            AgentEvent::Unsent(report) => self.tell_agent(agent, Input::Lost(report)),
            AgentEvent::Drain => {
                self.log(|| format!("agent {agent} drains"));
                let life = self.agents[agent].life;
                self.plan(DRAIN_GRACE_MS, Event::Agent { agent, life, event: AgentEvent::GraceOver });
                self.tell_agent(agent, Input::DrainRequested);
            }
            AgentEvent::GraceOver => self.tell_agent(agent, Input::DrainGraceOver),
        }
    }

    /// The process ends by itself, with nothing in hand.
    pub(super) fn agent_exits(&mut self, agent: usize) {
        self.log(|| format!("agent {agent} has drained and exits"));
        self.end_agent(agent, 5);
    }

    /// The process is killed.
    pub(super) fn crash_agent(&mut self, agent: usize) {
        const HOST_LOST_MAX_MS: u64 = 15_000;
        if matches!(self.agents[agent].state, State::Down) {
            return;
        }
        // A lost host closes no connection: the broker notices by itself.
        let host_lost = !self.calm && self.dice.chance(250);
        let notice_max = if host_lost { HOST_LOST_MAX_MS } else { 40 };
        self.log(|| format!("agent {agent} dies"));
        self.end_agent(agent, notice_max);
    }

    fn end_agent(&mut self, agent: usize, notice_max: Millis) {
        const DOWN_MAX_MS: u64 = 25_000;
        for conn in self.wires.whole(Process::Agent(agent)) {
            let notice = self.dice.between(1, notice_max);
            self.cut(conn, notice, notice);
        }
        let life = self.agents[agent].life;
        self.orphan_runs(agent, life);
        let one = &mut self.agents[agent];
        one.life += 1;
        (one.state, one.machine) = (State::Down, None);
        let down = if self.calm { 1_000 } else { self.dice.between(300, DOWN_MAX_MS) };
        let life = self.agents[agent].life;
        self.plan(down, Event::Agent { agent, life, event: AgentEvent::Start });
    }

    /// SIGSTOP.
    pub(super) fn stop_agent(&mut self, agent: usize) {
        if self.agents[agent].is_up() {
            self.log(|| format!("agent {agent} is stopped"));
            self.agents[agent].state = State::Stopped(Vec::new());
        }
    }

    /// SIGCONT: everything that came meanwhile is found at once, in order on each connection.
    pub(super) fn resume_agent(&mut self, agent: usize) {
        let one = &mut self.agents[agent];
        if !one.is_stopped() {
            return;
        }
        let State::Stopped(found) = std::mem::replace(&mut one.state, State::Up) else { return };
        one.witness.up_since = self.agenda.now();
        let life = one.life;
        self.log(|| format!("agent {agent} resumes and finds {} things", found.len()));
        let mut last = BTreeMap::new();
        for event in found {
            let source = match &event {
                AgentEvent::Frame(conn, _) | AgentEvent::Gone(conn, _) => *conn,
                AgentEvent::Connect(_)
                | AgentEvent::Consume(_)
                | AgentEvent::Tick
                | AgentEvent::HandlerEnded(..)
                | AgentEvent::Unsent(_)
                | AgentEvent::Drain
                | AgentEvent::GraceOver
                | AgentEvent::Start => 0,
            };
            let at = last.entry(source).or_insert_with(|| self.agenda.now());
            *at += self.dice.below(3);
            self.agenda.plan_at(*at, Event::Agent { agent, life, event });
        }
    }
}
