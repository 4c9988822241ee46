//! A replica of the dispatcher: its process, its connections, its transactions, and everything that can go wrong between them.
//! What it decides, it decides through the production functions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use switchyard_common::contract::answer::Answer;
use switchyard_common::contract::assignment::AttemptKey;
use switchyard_common::contract::ids::ReplicaId;
use switchyard_dispatcher::control::Told;
use switchyard_dispatcher::intake::command::EventKey;
use switchyard_dispatcher::presence::beat::Beat;
use switchyard_dispatcher::presence::judge::Judge;
use switchyard_dispatcher::presence::settled::Settled;
use switchyard_dispatcher::store::route::Publish;

use super::agenda::Millis;
use super::broker::{Body, Message, Tag};
use super::routing::{Job, Sending, Sent};
use super::scenario::LOST_AFTER_MS;
use super::wire::{ConnId, Process, Role, ToBroker, ToClient};
use super::world::{Event, World};

/// What happens to a replica.
#[derive(Debug)]
pub enum ReplicaEvent {
    /// A frame arrived.
    Frame(ConnId, ToClient),
    /// A connection is gone.
    Gone(ConnId, Role),
    /// A connection is to be opened.
    Connect(Role),
    /// The process begins.
    Start,
    /// Its tickers tick.
    Tick,
    /// What has arrived is dealt with.
    Flush,
    /// A pass is asked for.
    Pass,
    /// What follows a commit.
    Act(Vec<Action>),
    /// Assignments that were read go out.
    Send(Vec<Sending>),
}

/// Something that follows a commit.
#[derive(Debug)]
pub enum Action {
    /// A delivery is done with.
    Ack(ConnId, Tag),
    /// A delivery is refused.
    Nack(ConnId, Tag),
    /// Whoever published an event is told what came of it.
    Answer(EventKey, Box<Answer>),
    /// An agent is told something.
    Tell(Box<Told>),
    /// Assignments are to be published.
    Route(Vec<Job>),
}

/// Whether the process runs.
#[derive(Debug)]
enum State {
    Down,
    Up,
    Stopped(Vec<ReplicaEvent>),
}

/// A delivery that is not dealt with yet.
#[derive(Debug)]
pub struct Held {
    /// On which connection it came.
    pub conn: ConnId,
    /// For its ack.
    pub tag: Tag,
    /// What it is.
    pub message: Message,
    /// Since when.
    pub since: Millis,
    /// It was dealt with, and waits for what another replica may have in hand.
    pub waits: bool,
}

/// A replica.
#[derive(Debug)]
pub struct Replica {
    /// Grows with every start and every end of the process.
    pub life: u32,
    /// Its own id: new with every start.
    pub number: usize,
    /// Its name on the broker.
    pub(super) name: ReplicaId,
    state: State,
    pub(super) consume: Option<ConnId>,
    pub(super) publish: Option<ConnId>,
    pub(super) judge: Judge,
    pub(super) settled: Settled,
    pub(super) held: Vec<Held>,
    pub(super) beats: Vec<Beat>,
    flush_planned: bool,
    pass_planned: bool,
    pub(super) ticks: u64,
    pub(super) sent: BTreeMap<u64, Sent>,
    pub(super) answers: BTreeMap<(ConnId, u64), u64>,
    pub(super) sends: u64,
    /// Attempts that are being published.
    pub(super) in_flight: BTreeSet<AttemptKey>,
    /// Repeats of publishes: when, what, and how often this replica has published it.
    pub(super) resends: Vec<(Millis, Publish, u32)>,
    pub(super) confirmed: Vec<(Millis, AttemptKey)>,
    /// Returned assignments that the store does not know of yet.
    pub(super) returned: Vec<(AttemptKey, u32)>,
}

/// Shortest and longest time between two ticks, in milliseconds.
const TICK_MS: (u64, u64) = (350, 550);
/// Longest wait before a connection is tried again, in milliseconds.
const RECONNECT_MAX_MS: u64 = 2_000;
/// Wait before the database is asked again, in milliseconds.
pub(super) const STORE_WAIT_MS: u64 = 500;
/// Longest delay of what follows a commit, usually and when it is late, in milliseconds.
const ACT_MAX_MS: (u64, u64) = (4, 30_000);

impl Replica {
    pub(super) fn new(world: &mut World, index: usize) -> Self {
        Self {
            life: 0,
            number: index,
            name: name(world),
            state: State::Down,
            consume: None,
            publish: None,
            judge: Judge::new(Duration::from_millis(LOST_AFTER_MS)),
            settled: Settled::default(),
            held: Vec::new(),
            beats: Vec::new(),
            flush_planned: false,
            pass_planned: false,
            ticks: 0,
            sent: BTreeMap::new(),
            answers: BTreeMap::new(),
            sends: 0,
            in_flight: BTreeSet::new(),
            resends: Vec::new(),
            confirmed: Vec::new(),
            returned: Vec::new(),
        }
    }

    /// The process exists and is not stopped.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        matches!(self.state, State::Up)
    }
}

fn name(world: &mut World) -> ReplicaId {
    let text = world.dice.uuid().to_string();
    switchyard_dispatcher::presence::run::replica_id(text.parse().unwrap_or_default())
        .unwrap_or_else(|_| unreachable!("a UUID is a label"))
}

impl World {
    /// Plans the start of a replica's process.
    pub(super) fn start_replica(&mut self, replica: usize) {
        let (wait, life) = (self.dice.between(1, 500), self.replicas[replica].life);
        self.plan(wait, Event::Replica { replica, life, event: ReplicaEvent::Start });
    }

    pub(super) fn replica_event(&mut self, replica: usize, life: u32, event: ReplicaEvent) {
        if self.replicas[replica].life != life {
            return;
        }
        match (&mut self.replicas[replica].state, event) {
            (State::Stopped(found), event) => found.push(event),
            (State::Down, ReplicaEvent::Start) => self.replica_begins(replica),
            (State::Down, _) => {}
            (State::Up, event) => self.replica_lives(replica, event),
        }
    }

    fn replica_begins(&mut self, replica: usize) {
        let mut begun = Replica::new(self, replica);
        begun.life = self.replicas[replica].life + 1;
        begun.number = self.replicas[replica].number + self.replicas.len();
        begun.state = State::Up;
        self.replicas[replica] = begun;
        self.log(|| format!("replica {replica} starts"));
        for event in
            [ReplicaEvent::Connect(Role::Publish), ReplicaEvent::Connect(Role::Consume), ReplicaEvent::Tick]
        {
            self.plan_replica(replica, 40, event);
        }
    }

    pub(super) fn plan_replica(&mut self, replica: usize, wait_max: Millis, event: ReplicaEvent) {
        let (wait, life) = (self.dice.between(1, wait_max), self.replicas[replica].life);
        self.plan(wait, Event::Replica { replica, life, event });
    }

    fn replica_lives(&mut self, replica: usize, event: ReplicaEvent) {
        match event {
            ReplicaEvent::Start => {}
            ReplicaEvent::Connect(role) => self.replica_connects(replica, role),
            ReplicaEvent::Gone(conn, role) => self.replica_loses(replica, conn, role),
            ReplicaEvent::Frame(conn, frame) => self.replica_hears(replica, conn, frame),
            ReplicaEvent::Tick => {
                let (low, high) = TICK_MS;
                let (wait, life) = (self.dice.between(low, high), self.replicas[replica].life);
                self.plan(wait, Event::Replica { replica, life, event: ReplicaEvent::Tick });
                self.tick(replica);
            }
            ReplicaEvent::Flush => {
                self.replicas[replica].flush_planned = false;
                self.flush(replica);
            }
            ReplicaEvent::Pass => {
                self.replicas[replica].pass_planned = false;
                self.pass(replica);
            }
            ReplicaEvent::Act(actions) => self.act(replica, actions),
            ReplicaEvent::Send(sendings) => self.send_assignments(replica, sendings),
        }
    }

    fn replica_connects(&mut self, replica: usize, role: Role) {
        let life = self.replicas[replica].life;
        let Some(conn) = self.open(Process::Replica(replica), life, role) else {
            self.plan_replica(replica, RECONNECT_MAX_MS, ReplicaEvent::Connect(role));
            return;
        };
        if role == Role::Publish {
            self.replicas[replica].publish = Some(conn);
            return;
        }
        let name = self.replicas[replica].name.clone();
        if self.broker.declare(conn, &self.namespace.presence_queue_topology(&name)).is_err() {
            // The broker has not noticed yet that the connection before is gone.
            self.wires.forget(conn);
            self.plan_replica(replica, RECONNECT_MAX_MS, ReplicaEvent::Connect(role));
            return;
        }
        self.replicas[replica].consume = Some(conn);
        self.replicas[replica].judge.hearing_interrupted();
        self.replicas[replica].settled.hearing_interrupted();
        self.broker.consume(conn, &self.namespace.presence_queue(&name), None);
        for queue in [
            self.namespace.events_queue(),
            self.namespace.outcomes_queue(),
            self.namespace.starts_queue(),
            self.namespace.dead_letters_queue(),
        ] {
            self.broker.consume(conn, &queue, Some(self.scenario.prefetch));
        }
        self.log(|| format!("replica {replica} consumes"));
        self.deliver();
    }

    fn replica_loses(&mut self, replica: usize, conn: ConnId, role: Role) {
        self.log(|| format!("replica {replica} loses its connection for {role:?}"));
        self.plan_replica(replica, RECONNECT_MAX_MS, ReplicaEvent::Connect(role));
        match role {
            Role::Consume => {
                self.replicas[replica].consume = None;
                self.replicas[replica].judge.hearing_interrupted();
                self.replicas[replica].settled.hearing_interrupted();
                self.replicas[replica].held.retain(|held| held.conn != conn);
            }
            Role::Publish => {
                self.replicas[replica].publish = None;
                self.publishes_unknown(replica, conn);
            }
        }
    }

    fn replica_hears(&mut self, replica: usize, conn: ConnId, frame: ToClient) {
        match frame {
            ToClient::Answer { number, delivery } => self.publish_answered(replica, conn, number, delivery),
            // Its acks come within seconds.
            ToClient::ChannelClosed => {}
            ToClient::Delivery { tag, message, .. } => match &message.body {
                Body::Canary(number) => {
                    let heard_at = Duration::from_millis(self.now());
                    let one = &mut self.replicas[replica];
                    if let Some(sent_at) = one.judge.canary_heard(*number) {
                        one.settled.canary_heard(sent_at, heard_at);
                    }
                }
                Body::Agent(_) | Body::Control(_) | Body::Report(_) | Body::Event(_) => {
                    self.take(replica, conn, tag, message);
                    self.plan_flush(replica, 15);
                }
            },
        }
    }

    pub(super) fn plan_flush(&mut self, replica: usize, wait_max: Millis) {
        if !std::mem::replace(&mut self.replicas[replica].flush_planned, true) {
            self.plan_replica(replica, wait_max, ReplicaEvent::Flush);
        }
    }

    /// Asks for a pass; some wake-ups are lost, and the next period makes it good.
    pub(super) fn wake(&mut self, replica: usize) {
        if self.dice.chance(950) && !std::mem::replace(&mut self.replicas[replica].pass_planned, true) {
            self.plan_replica(replica, 10, ReplicaEvent::Pass);
        }
    }

    /// Whether the database answers this replica.
    pub(super) fn has_database(&self, replica: usize) -> bool {
        self.weather.no_database_until.get(&replica).is_none_or(|until| *until <= self.now())
    }

    /// Whether whoever committed hears of it: a connection may break between the commit and its answer.
    pub(super) fn commit_is_told(&mut self) -> bool {
        self.calm || !self.dice.chance(self.scenario.unknown_commit_per_mille)
    }

    /// Plans what follows a commit, unless the process ends right after it.
    pub(super) fn after_commit(&mut self, replica: usize, actions: Vec<Action>) {
        if actions.is_empty() {
            return;
        }
        if !self.calm && self.dice.chance(self.scenario.crash_after_commit_per_mille) {
            self.log(|| format!("replica {replica} dies right after a commit"));
            self.crash_replica(replica);
            return;
        }
        let wait_max = self.act_wait_max();
        self.plan_replica(replica, wait_max, ReplicaEvent::Act(actions));
    }

    pub(super) fn act_wait_max(&mut self) -> Millis {
        let (usual, late) = ACT_MAX_MS;
        let is_late = !self.calm && self.dice.chance(self.scenario.late_act_per_mille);
        if is_late { late } else { usual }
    }

    fn act(&mut self, replica: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Ack(conn, tag) => {
                    if self.replicas[replica].consume == Some(conn) {
                        self.send(conn, ToBroker::Ack(tag));
                    }
                }
                Action::Nack(conn, tag) => {
                    if self.replicas[replica].consume == Some(conn) {
                        self.send(conn, ToBroker::Nack(tag));
                    }
                }
                Action::Answer(key, answer) => drop(self.people.answered.insert(key, *answer)),
                Action::Tell(told) => self.tell(replica, *told),
                Action::Route(jobs) => self.route(replica, jobs),
            }
        }
    }

    /// Tells an agent something; such messages may be lost.
    fn tell(&mut self, replica: usize, told: Told) {
        if let Some(conn) = self.replicas[replica].publish
            && (self.calm || !self.dice.chance(30))
        {
            let body = Body::Control(told.control.into());
            let queue = self.namespace.control_queue(&told.to.pool, &told.to.agent);
            let message = Message::new(&self.exchanges.default, &queue, body);
            self.publish(conn, message);
        }
    }

    /// The process is killed.
    pub(super) fn crash_replica(&mut self, replica: usize) {
        const DOWN_MAX_MS: u64 = 15_000;
        if matches!(self.replicas[replica].state, State::Down) {
            return;
        }
        self.log(|| format!("replica {replica} dies"));
        for conn in self.wires.whole(Process::Replica(replica)) {
            let notice = if !self.calm && self.dice.chance(200) { self.dice.below(15_000) } else { 1 };
            self.cut(conn, notice, notice);
        }
        let one = &mut self.replicas[replica];
        one.life += 1;
        one.state = State::Down;
        let life = one.life;
        let down = if self.calm { 500 } else { self.dice.between(200, DOWN_MAX_MS) };
        self.plan(down, Event::Replica { replica, life, event: ReplicaEvent::Start });
    }

    /// SIGSTOP.
    pub(super) fn stop_replica(&mut self, replica: usize) {
        if self.replicas[replica].is_up() {
            self.replicas[replica].state = State::Stopped(Vec::new());
        }
    }

    /// SIGCONT: everything that came meanwhile is found at once.
    pub(super) fn resume_replica(&mut self, replica: usize) {
        if !matches!(self.replicas[replica].state, State::Stopped(_)) {
            return;
        }
        let State::Stopped(found) = std::mem::replace(&mut self.replicas[replica].state, State::Up) else {
            return;
        };
        let life = self.replicas[replica].life;
        let mut at = self.now();
        for event in found {
            at += self.dice.below(3);
            self.agenda.plan_at(at, Event::Replica { replica, life, event });
        }
    }
}
