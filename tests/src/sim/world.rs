//! The world: all parts of a run, the events between them, and the loop that lets them happen one after the other.

use std::rc::Rc;

use switchyard_common::contract::assignment::AgentMessage;
use switchyard_common::contract::ids::PoolId;
use switchyard_common::contract::topology::{DEFAULT_EXCHANGE, Namespace};
use switchyard_dispatcher::route::Delivery;

use super::agenda::{Agenda, Millis};
use super::agent::{Agent, AgentEvent};
use super::broker::{Body, Broker, Message, Rearrange};
use super::dice::Dice;
use super::faults::{Fault, Weather};
use super::ledger::{Ledger, RunEvent, RunId};
use super::people::{People, PeopleEvent};
use super::replica::{Replica, ReplicaEvent};
use super::scenario::Scenario;
use super::store::Store;
use super::trace::Trace;
use super::troubles::{Trouble, Troubles};
use super::wire::{ConnId, Process, Role, ToBroker, ToClient, Wires};

/// Everything that can happen.
#[derive(Debug)]
pub enum Event {
    /// A frame reaches the broker.
    ToBroker {
        /// On which connection.
        conn: ConnId,
        /// The frame.
        frame: ToBroker,
    },
    /// A frame reaches a client.
    ToClient {
        /// On which connection.
        conn: ConnId,
        /// The frame.
        frame: ToClient,
    },
    /// The broker notices that a client is gone.
    BrokerCloses(ConnId),
    /// A client notices that its connection is gone.
    ClientLoses(ConnId),
    /// The broker moves a nacked message to the dead letters.
    DeadLetter(Message),
    /// Something happens in one life of an agent.
    Agent {
        /// Which.
        agent: usize,
        /// Its life.
        life: u32,
        /// What.
        event: AgentEvent,
    },
    /// Something happens in one life of a replica.
    Replica {
        /// Which.
        replica: usize,
        /// Its life.
        life: u32,
        /// What.
        event: ReplicaEvent,
    },
    /// Something happens to a handler's process.
    Run {
        /// Which.
        run: RunId,
        /// What.
        event: RunEvent,
    },
    /// Somebody acts.
    People(PeopleEvent),
    /// Something breaks, or is mended.
    Fault(Fault),
    /// Something goes wrong inside the broker.
    Trouble(Trouble),
}

/// Names of exchanges, made once.
#[derive(Debug)]
pub(super) struct Exchanges {
    pub(super) default: Rc<str>,
    pub(super) events: Rc<str>,
    pub(super) reports: Rc<str>,
}

/// One run.
#[derive(Debug)]
pub struct World {
    pub(super) scenario: Scenario,
    pub(super) dice: Dice,
    pub(super) agenda: Agenda<Event>,
    pub(super) trace: Trace,
    pub(super) namespace: Namespace,
    pub(super) exchanges: Exchanges,
    pub(super) pool: PoolId,
    pub(super) wires: Wires,
    pub(super) broker: Broker,
    pub(super) store: Store,
    pub(super) ledger: Ledger,
    pub(super) agents: Vec<Agent>,
    pub(super) replicas: Vec<Replica>,
    pub(super) people: People,
    pub(super) weather: Weather,
    pub(super) troubles: Troubles,
    /// Nothing breaks any more.
    pub(super) calm: bool,
}

impl World {
    /// A world at its start.
    #[must_use]
    pub fn new(scenario: Scenario, mut dice: Dice, troubles: Troubles, trace: Trace) -> Self {
        let namespace = Namespace::default();
        let rearrange = if dice.chance(200) { Rearrange::Back } else { Rearrange::Front };
        let exchanges = Exchanges {
            default: DEFAULT_EXCHANGE.into(),
            events: namespace.events_exchange().into(),
            reports: namespace.reports_exchange().into(),
        };
        let pool = scenario.pool.clone();
        let mut world = Self {
            dice,
            agenda: Agenda::default(),
            trace,
            broker: Broker::new(&namespace, rearrange),
            namespace,
            exchanges,
            wires: Wires::default(),
            store: Store::new(std::slice::from_ref(&pool)),
            pool,
            ledger: Ledger::default(),
            agents: Vec::new(),
            replicas: Vec::new(),
            people: People::default(),
            weather: Weather::default(),
            troubles,
            calm: false,
            scenario,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for agent in 0..self.scenario.agents.len() {
            let made = Agent::new(self, agent);
            self.agents.push(made);
            self.start_agent(agent);
        }
        for replica in 0..self.scenario.replicas {
            let made = Replica::new(self, replica);
            self.replicas.push(made);
            self.start_replica(replica);
        }
        self.plan_people();
        self.plan_faults();
        self.plan_troubles();
    }

    /// The simulated time.
    #[must_use]
    pub const fn now(&self) -> Millis {
        self.agenda.now()
    }

    /// Lets the next event happen; false when there is none.
    pub fn step(&mut self) -> bool {
        let Some(event) = self.agenda.take_next() else { return false };
        self.broker.now = self.agenda.now();
        match event {
            Event::ToBroker { conn, frame } => self.at_broker(conn, frame),
            Event::ToClient { conn, frame } => self.at_client(conn, frame),
            Event::BrokerCloses(conn) => self.broker_closes(conn),
            Event::ClientLoses(conn) => self.client_loses(conn),
            Event::DeadLetter(message) => self.dead_letter(&message),
            Event::Agent { agent, life, event } => self.agent_event(agent, life, event),
            Event::Replica { replica, life, event } => self.replica_event(replica, life, event),
            Event::Run { run, event } => self.run_event(run, event),
            Event::People(event) => self.people_event(event),
            Event::Fault(fault) => self.fault(fault),
            Event::Trouble(trouble) => self.trouble(trouble),
        }
        true
    }

    pub(super) fn plan(&mut self, wait: Millis, event: Event) {
        self.agenda.plan_in(wait, event);
    }

    pub(super) fn log<T: std::fmt::Display>(&mut self, line: impl FnOnce() -> T) {
        self.trace.line(self.agenda.now(), line);
    }

    /// Sends a frame to the broker; it is lost when the connection is cut before it arrives.
    pub(super) fn send(&mut self, conn: ConnId, frame: ToBroker) {
        let Some(role) = self.wires.get(conn).map(|one| one.role) else { return };
        let from = self.troubles.read_from(role, self.now());
        if let Some(at) = self.wires.up(conn, from, &mut self.dice) {
            self.agenda.plan_at(at, Event::ToBroker { conn, frame });
        }
    }

    /// Publishes a message; the number names the answer.
    pub(super) fn publish(&mut self, conn: ConnId, message: Message) -> u64 {
        let number = self.wires.number(conn);
        self.send(conn, ToBroker::Publish { number, message });
        number
    }

    pub(super) fn answer(&mut self, conn: ConnId, frame: ToClient) {
        let now = self.now();
        if let Some(at) = self.wires.down(conn, now, &mut self.dice) {
            self.agenda.plan_at(at, Event::ToClient { conn, frame });
        }
    }

    fn at_broker(&mut self, conn: ConnId, frame: ToBroker) {
        let dead = self.wires.get(conn).is_none_or(|one| one.cut || one.closed_at_broker);
        if dead {
            return;
        }
        match frame {
            ToBroker::Publish { number, message } => {
                let delivery = self.take_publish(&message);
                self.log(|| format!("broker  {delivery:?} {message}"));
                if delivery == Delivery::Acked {
                    self.tear(conn, &message);
                    self.plan_copy(&message);
                }
                self.answer(conn, ToClient::Answer { number, delivery });
            }
            ToBroker::Ack(tag) => self.broker.ack(conn, tag),
            ToBroker::Nack(tag) => {
                if let Some(message) = self.broker.nack(conn, tag) {
                    self.plan_dead_letter(message);
                }
            }
        }
        self.deliver();
    }

    /// Now and then the node that has an agent's queue goes right after an assignment has come: the publisher hears nothing of it, and the
    /// queue is gone a moment later.
    fn tear(&mut self, conn: ConnId, message: &Message) {
        let Body::Agent(body) = &message.body else { return };
        let AgentMessage::Assignment(work) = &**body else { return };
        if self.calm || !self.dice.chance(self.scenario.torn_per_mille) {
            return;
        }
        let agent = self.agents.iter().position(|one| one.id.agent == work.agent && one.id.pool == work.pool);
        let (broker, client, wait) = (self.dice.below(30), self.dice.below(30), self.dice.below(150));
        self.cut(conn, broker, client);
        if let Some(agent) = agent {
            self.plan(wait, Event::Fault(Fault::QueueDeleted(agent)));
        }
    }

    /// A queue that is full for a moment refuses.
    fn take_publish(&mut self, message: &Message) -> Delivery {
        let now = self.now();
        if !self.calm && (self.dice.chance(3) || self.troubles.refuses(message, now)) {
            return Delivery::Nacked;
        }
        if !self.broker.publish(message) {
            return Delivery::Returned;
        }
        self.ledger.taken(message, self.agenda.now());
        Delivery::Acked
    }

    /// Dead-lettering is at least once: it may take long, and it may happen twice.
    fn plan_dead_letter(&mut self, message: Message) {
        const SLOW_MAX_MS: u64 = 45_000;
        self.ledger.nacked(&message);
        self.log(|| format!("broker  dead-letters {message}"));
        let slow = !self.calm && self.dice.chance(50);
        let wait = if slow { self.dice.below(SLOW_MAX_MS) } else { self.dice.between(1, 20) };
        if !self.calm && self.dice.chance(20) {
            let again = wait + self.dice.below(5_000);
            self.plan(again, Event::DeadLetter(message.clone()));
        }
        self.plan(wait, Event::DeadLetter(message));
    }

    fn dead_letter(&mut self, message: &Message) {
        // Kept and tried again, as at-least-once dead-lettering does.
        if let Some(wait) = self.troubles.kept_for(self.now()) {
            self.plan(wait, Event::DeadLetter(message.clone()));
            return;
        }
        self.broker.publish(message);
        self.deliver();
    }

    /// Sends out what can be delivered.
    pub(super) fn deliver(&mut self) {
        for out in self.broker.deliver() {
            let frame = ToClient::Delivery { tag: out.tag, message: out.message };
            self.answer(out.conn, frame);
        }
    }

    fn at_client(&mut self, conn: ConnId, frame: ToClient) {
        let Some(connection) = self.wires.get(conn).filter(|one| !one.cut) else { return };
        let (process, life) = (connection.process, connection.life);
        match process {
            Process::Agent(agent) => self.agent_event(agent, life, AgentEvent::Frame(conn, frame)),
            Process::Replica(replica) => self.replica_event(replica, life, ReplicaEvent::Frame(conn, frame)),
        }
    }

    /// Cuts a connection: nothing passes any more. Each side notices when it does.
    pub(super) fn cut(&mut self, conn: ConnId, broker_notices: Millis, client_notices: Millis) {
        if let Some(connection) = self.wires.get_mut(conn).filter(|one| !one.cut) {
            connection.cut = true;
            self.plan(broker_notices, Event::BrokerCloses(conn));
            self.plan(client_notices, Event::ClientLoses(conn));
        }
    }

    fn broker_closes(&mut self, conn: ConnId) {
        if let Some(connection) = self.wires.get_mut(conn) {
            connection.closed_at_broker = true;
            self.broker.close(conn);
            self.deliver();
        }
    }

    fn client_loses(&mut self, conn: ConnId) {
        let Some(connection) = self.wires.get(conn) else { return };
        let (process, life, role) = (connection.process, connection.life, connection.role);
        match process {
            Process::Agent(agent) => self.agent_event(agent, life, AgentEvent::Gone(conn, role)),
            Process::Replica(replica) => self.replica_event(replica, life, ReplicaEvent::Gone(conn, role)),
        }
    }

    /// Opens a connection, unless the network is away.
    pub(super) fn open(&mut self, process: Process, life: u32, role: Role) -> Option<ConnId> {
        (!self.is_parted(process)).then(|| self.wires.open(process, life, role))
    }
}
