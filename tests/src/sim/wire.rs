//! Connections between processes and the broker: each direction in order, with a delay, and nothing past a cut.
//!
//! What the protocol has to live with happens here: a publish that arrives but whose confirm does not, an ack that is lost, a
//! delivery that was on its way, a peer that is gone for longer than anybody has noticed.

use std::collections::BTreeMap;

use switchyard_dispatcher::route::Delivery;

use super::agenda::Millis;
use super::broker::{Message, Tag};
use super::dice::Dice;

/// A connection; never reused.
pub type ConnId = u64;

/// The process at the client's end. A life ends with a crash; the next one has nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Process {
    /// An agent, by index.
    Agent(usize),
    /// A replica of the dispatcher, by index.
    Replica(usize),
}

/// What a connection is used for: publishing and consuming go separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Deliveries and acks.
    Consume,
    /// Publishes and confirms.
    Publish,
}

/// From a client.
#[derive(Debug)]
pub enum ToBroker {
    /// Publish, and answer with this number.
    Publish {
        /// For the answer.
        number: u64,
        /// The message.
        message: Message,
    },
    /// A delivery is done with.
    Ack(Tag),
    /// A delivery is refused, without requeue.
    Nack(Tag),
}

/// To a client.
#[derive(Debug)]
pub enum ToClient {
    /// A delivery.
    Delivery {
        /// For the ack.
        tag: Tag,
        /// The message.
        message: Message,
    },
    /// What became of the publish with this number.
    Answer {
        /// Of the publish.
        number: u64,
        /// What.
        delivery: Delivery,
    },
    /// The channel of the client's own queue is closed (406); what it had out there is void.
    ChannelClosed,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    /// The client.
    pub process: Process,
    /// The client's life.
    pub life: u32,
    /// Its use.
    pub role: Role,
    /// Nothing passes any more, in either direction.
    pub cut: bool,
    /// The broker has noticed the end.
    pub closed_at_broker: bool,
    published: u64,
    up_at: Millis,
    down_at: Millis,
}

/// All connections.
#[derive(Debug, Default)]
pub struct Wires {
    connections: BTreeMap<ConnId, Connection>,
    last: ConnId,
}

/// Usual delay in one direction, in milliseconds.
const DELAY_MAX_MS: u64 = 4;
/// In so many of a thousand cases a frame takes much longer.
const SLOW_PER_MILLE: u64 = 10;
/// Longest delay of a slow frame, in milliseconds.
const SLOW_MAX_MS: u64 = 1_500;

impl Wires {
    /// Opens a connection.
    pub fn open(&mut self, process: Process, life: u32, role: Role) -> ConnId {
        self.last += 1;
        let connection = Connection {
            process,
            life,
            role,
            cut: false,
            closed_at_broker: false,
            published: 0,
            up_at: 0,
            down_at: 0,
        };
        self.connections.insert(self.last, connection);
        self.last
    }

    /// A connection that exists.
    #[must_use]
    pub fn get(&self, conn: ConnId) -> Option<&Connection> {
        self.connections.get(&conn)
    }

    /// A connection that exists, to change it.
    pub fn get_mut(&mut self, conn: ConnId) -> Option<&mut Connection> {
        self.connections.get_mut(&conn)
    }

    /// Forgets a connection that both sides know to be gone.
    pub fn forget(&mut self, conn: ConnId) {
        self.connections.remove(&conn);
    }

    /// Connections of a process that are not cut.
    #[must_use]
    pub fn whole(&self, process: Process) -> Vec<ConnId> {
        let whole = self.connections.iter().filter(|(_, one)| one.process == process && !one.cut);
        whole.map(|(conn, _)| *conn).collect()
    }

    /// Every connection that is not cut.
    #[must_use]
    pub fn all_whole(&self) -> Vec<ConnId> {
        self.connections.iter().filter(|(_, one)| !one.cut).map(|(conn, _)| *conn).collect()
    }

    /// The number of the next publish on a connection.
    pub fn number(&mut self, conn: ConnId) -> u64 {
        let Some(connection) = self.connections.get_mut(&conn) else { return 0 };
        connection.published += 1;
        connection.published
    }

    /// When a frame that a client sends now arrives; none when it never does.
    pub fn up(&mut self, conn: ConnId, now: Millis, dice: &mut Dice) -> Option<Millis> {
        let connection = self.connections.get_mut(&conn).filter(|one| !one.cut)?;
        connection.up_at = connection.up_at.max(now + delay(dice));
        Some(connection.up_at)
    }

    /// When a frame that the broker sends now arrives; none when it never does.
    pub fn down(&mut self, conn: ConnId, now: Millis, dice: &mut Dice) -> Option<Millis> {
        let connection = self.connections.get_mut(&conn).filter(|one| !one.cut)?;
        connection.down_at = connection.down_at.max(now + delay(dice));
        Some(connection.down_at)
    }
}

fn delay(dice: &mut Dice) -> Millis {
    if dice.chance(SLOW_PER_MILLE) { dice.below(SLOW_MAX_MS) } else { dice.between(1, DELAY_MAX_MS) }
}
