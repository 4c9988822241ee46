//! The fault mixes, as data: what breaks, how often, for how long, and what surrounds it.

use super::fault::{Fault, How, Link, Silence};

/// Messages that are delivered again and out of order, all the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copies {
    /// Only those that the faults make.
    None,
    /// Every event, report and assignment, after a drawn delay.
    Everything,
}

/// How often tasks are cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancels {
    /// Of a thousand tasks.
    pub per_mille: u64,
    /// Longest wait before the cancel follows its task, in milliseconds.
    pub after_max_ms: u64,
}

/// Under which circumstances, what breaks.
#[derive(Debug, Clone, Copy)]
pub struct Mix {
    /// Its name, for the command line.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// Nodes of the broker.
    pub nodes: u8,
    /// Dispatchers.
    pub dispatchers: u8,
    /// What breaks, by weight. Each at least once.
    pub faults: &'static [(u64, Fault)],
    /// Time between two strikes, in milliseconds: from, to.
    pub gap_ms: (u64, u64),
    /// How long a fault lasts, in milliseconds: from, to.
    pub lasts_ms: (u64, u64),
    /// Whether messages are copied.
    pub copies: Copies,
    /// How often tasks are cancelled.
    pub cancels: Cancels,
    /// A consumer timeout of this many milliseconds at the broker, and tasks that run longer than that.
    pub consumer_timeout_ms: Option<u64>,
    /// How far the clocks of the dispatchers are off, as libfaketime reads it.
    pub clocks: &'static [&'static str],
    /// The least time that it needs, in seconds.
    pub least_s: u64,
}

/// What most mixes share.
const PLAIN: Mix = Mix {
    name: "",
    about: "",
    nodes: 1,
    dispatchers: 2,
    faults: &[],
    gap_ms: (5_000, 12_000),
    lasts_ms: (2_000, 15_000),
    copies: Copies::None,
    cancels: Cancels { per_mille: 70, after_max_ms: 4_000 },
    consumer_timeout_ms: None,
    clocks: &[],
    least_s: 0,
};

const PROCESSES: &[(u64, Fault)] = &[
    (3, Fault::KillDispatcher),
    (2, Fault::FreezeDispatcher),
    (3, Fault::KillAgent),
    (2, Fault::FreezeAgent),
    (2, Fault::KillHandler),
    (2, Fault::FreezeHandler),
    (1, Fault::KillBroker),
];

/// What `make chaos` runs before a change is taken.
pub const SMOKE: Mix = Mix {
    name: "smoke",
    about: "a little of everything that one node has",
    faults: PROCESSES,
    gap_ms: (2_500, 5_000),
    lasts_ms: (1_000, 5_000),
    ..PLAIN
};

/// Every mix.
pub const MIXES: &[Mix] = &[
    Mix {
        name: "dispatcher-crash",
        about: "dispatchers are killed in the middle of everything",
        dispatchers: 3,
        faults: &[(1, Fault::KillDispatcher)],
        gap_ms: (4_000, 10_000),
        ..PLAIN
    },
    Mix {
        name: "agent-crash",
        about: "agents are killed alone; their handlers are left to the supervisors",
        faults: &[(1, Fault::KillAgent)],
        gap_ms: (3_000, 8_000),
        lasts_ms: (200, 20_000),
        ..PLAIN
    },
    Mix {
        name: "handler-crash",
        about: "handlers and their supervisors are killed, and handlers stopped",
        faults: &[(4, Fault::KillHandler), (2, Fault::KillSupervisor), (2, Fault::FreezeHandler)],
        gap_ms: (500, 2_000),
        lasts_ms: (1_000, 20_000),
        ..PLAIN
    },
    Mix {
        name: "freeze",
        about: "dispatchers, agents and handlers are stopped for longer than an agent may be silent",
        faults: &[(2, Fault::FreezeDispatcher), (4, Fault::FreezeAgent), (1, Fault::FreezeHandler)],
        lasts_ms: (4_000, 25_000),
        ..PLAIN
    },
    Mix {
        name: "agent-freeze",
        about: "agents alone are stopped, always for longer than they may be silent, while their handlers run on",
        faults: &[(1, Fault::FreezeAgent)],
        gap_ms: (3_000, 7_000),
        lasts_ms: (16_000, 25_000),
        ..PLAIN
    },
    Mix {
        name: "broker-restart",
        about: "the only node of the broker is killed and stopped",
        faults: &[(2, Fault::KillBroker), (1, Fault::StopBroker)],
        gap_ms: (12_000, 25_000),
        lasts_ms: (500, 15_000),
        ..PLAIN
    },
    Mix {
        name: "node-kill",
        about: "nodes of a broker of three are killed, and once in a while all of them",
        nodes: 3,
        faults: &[(6, Fault::KillNode), (1, Fault::KillBroker)],
        gap_ms: (10_000, 20_000),
        lasts_ms: (1_000, 15_000),
        ..PLAIN
    },
    Mix {
        name: "node-freeze",
        about: "nodes of a broker of three answer nobody for a while: the others cannot tell it from a partition",
        nodes: 3,
        faults: &[(1, Fault::FreezeNode)],
        gap_ms: (10_000, 20_000),
        lasts_ms: (5_000, 25_000),
        ..PLAIN
    },
    Mix {
        name: "rolling-node-restart",
        about: "nodes of a broker of three are restarted in order, and dispatchers killed beside it",
        nodes: 3,
        faults: &[(3, Fault::RestartNode), (1, Fault::KillDispatcher)],
        gap_ms: (8_000, 16_000),
        lasts_ms: (500, 8_000),
        ..PLAIN
    },
    Mix {
        name: "database-crash",
        about: "PostgreSQL is killed and stopped, and dispatchers are killed meanwhile",
        faults: &[(2, Fault::KillDatabase), (1, Fault::StopDatabase), (3, Fault::KillDispatcher)],
        gap_ms: (4_000, 9_000),
        lasts_ms: (200, 15_000),
        ..PLAIN
    },
    Mix {
        name: "agent-partition",
        about: "agents lose the broker: cut, silent, one way only, slow",
        faults: &[
            (2, Fault::Disturb(Link::AgentBroker, How::Cut)),
            (2, Fault::Disturb(Link::AgentBroker, How::Silent)),
            (2, Fault::Disturb(Link::AgentBroker, How::Deaf)),
            (2, Fault::Disturb(Link::AgentBroker, How::Mute)),
            (1, Fault::Disturb(Link::AgentBroker, How::Slow)),
        ],
        gap_ms: (4_000, 10_000),
        lasts_ms: (1_000, 30_000),
        ..PLAIN
    },
    Mix {
        name: "dispatcher-partition",
        about: "dispatchers lose the broker: cut, silent, one way only, slow",
        faults: &[
            (2, Fault::Disturb(Link::DispatcherBroker, How::Cut)),
            (2, Fault::Disturb(Link::DispatcherBroker, How::Silent)),
            (2, Fault::Disturb(Link::DispatcherBroker, How::Deaf)),
            (2, Fault::Disturb(Link::DispatcherBroker, How::Mute)),
            (1, Fault::Disturb(Link::DispatcherBroker, How::Slow)),
        ],
        gap_ms: (4_000, 10_000),
        lasts_ms: (1_000, 30_000),
        ..PLAIN
    },
    Mix {
        name: "database-partition",
        about: "dispatchers lose the database: cut, silent, one way only, slow",
        faults: &[
            (2, Fault::Disturb(Link::DispatcherDatabase, How::Cut)),
            (2, Fault::Disturb(Link::DispatcherDatabase, How::Silent)),
            (2, Fault::Disturb(Link::DispatcherDatabase, How::Deaf)),
            (1, Fault::Disturb(Link::DispatcherDatabase, How::Slow)),
        ],
        gap_ms: (4_000, 10_000),
        lasts_ms: (1_000, 25_000),
        ..PLAIN
    },
    Mix {
        name: "memory-alarm",
        about: "the broker takes nothing from publishers, for longer than an agent may be silent",
        faults: &[(2, Fault::MemoryAlarm), (1, Fault::KillDispatcher)],
        gap_ms: (6_000, 14_000),
        lasts_ms: (4_000, 25_000),
        ..PLAIN
    },
    Mix {
        name: "queue-vandal",
        about: "agents' queues are deleted with what is in them, and the dead-letter queue is unbound",
        faults: &[(3, Fault::DeleteAgentQueue), (1, Fault::UnbindDeadLetters)],
        gap_ms: (2_500, 7_000),
        lasts_ms: (3_000, 20_000),
        ..PLAIN
    },
    Mix {
        name: "duplicates-and-reordering",
        about: "every message comes again, later than what was sent after it; agents are killed and stopped meanwhile",
        faults: &[(1, Fault::KillAgent), (1, Fault::FreezeAgent), (1, Fault::KillDispatcher)],
        gap_ms: (8_000, 16_000),
        copies: Copies::Everything,
        ..PLAIN
    },
    Mix {
        name: "cancel-storm",
        about: "every other task is cancelled when it has hardly begun, while its agent is slow to hear of it or cut off",
        faults: &[
            (3, Fault::Disturb(Link::AgentBroker, How::Slow)),
            (2, Fault::Disturb(Link::AgentBroker, How::Deaf)),
            (1, Fault::Disturb(Link::AgentBroker, How::Silent)),
        ],
        gap_ms: (2_000, 5_000),
        lasts_ms: (2_000, 12_000),
        cancels: Cancels { per_mille: 500, after_max_ms: 800 },
        ..PLAIN
    },
    Mix {
        name: "consumer-timeout",
        about: "tasks run four minutes at a broker that takes back what is not acknowledged within one",
        faults: &[(1, Fault::KillDispatcher)],
        gap_ms: (40_000, 80_000),
        consumer_timeout_ms: Some(60_000),
        least_s: 270,
        ..PLAIN
    },
    Mix {
        name: "clock-skew",
        about: "one dispatcher's clock is an hour ahead, another's an hour behind",
        dispatchers: 3,
        faults: &[(1, Fault::KillDispatcher), (1, Fault::KillAgent), (1, Fault::FreezeAgent)],
        clocks: &["", "+1h", "-1h"],
        ..PLAIN
    },
    Mix {
        name: "everything",
        about: "all of it, with a broker of three nodes",
        nodes: 3,
        dispatchers: 3,
        faults: &[
            (3, Fault::KillDispatcher),
            (3, Fault::KillAgent),
            (2, Fault::FreezeAgent),
            (2, Fault::FreezeDispatcher),
            (2, Fault::KillHandler),
            (2, Fault::KillNode),
            (1, Fault::FreezeNode),
            (1, Fault::KillBroker),
            (1, Fault::KillDatabase),
            (2, Fault::Disturb(Link::AgentBroker, How::Silent)),
            (2, Fault::Disturb(Link::DispatcherBroker, How::Deaf)),
            (1, Fault::Disturb(Link::DispatcherDatabase, How::Silent)),
            (1, Fault::DeleteAgentQueue),
            (1, Fault::UnbindDeadLetters),
            (1, Fault::MemoryAlarm),
        ],
        gap_ms: (4_000, 9_000),
        lasts_ms: (1_000, 18_000),
        copies: Copies::Everything,
        clocks: &["", "", "+1h"],
        ..PLAIN
    },
];

/// The mix of a name.
#[must_use]
pub fn named(name: &str) -> Option<Mix> {
    MIXES.iter().chain([&SMOKE]).find(|mix| mix.name == name).copied()
}

impl Mix {
    /// When an agent may rightly be declared silent in it.
    #[must_use]
    pub fn silence(&self) -> Silence {
        self.faults.iter().map(|(_, fault)| fault.silence()).max().unwrap_or_default()
    }

    /// Whether any of its faults is one of these.
    #[must_use]
    pub fn has(&self, wanted: impl Fn(Fault) -> bool) -> bool {
        self.faults.iter().any(|(_, fault)| wanted(*fault))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::chaos::fault::Scope;

    #[test]
    fn there_are_fourteen_mixes_at_least_four_of_them_on_three_nodes_and_each_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = MIXES.iter().map(|mix| mix.name).collect();
        assert_eq!(names.len(), MIXES.len());
        assert!(MIXES.len() >= 14);
        assert!(MIXES.iter().filter(|mix| mix.nodes == 3).count() >= 4);
        assert!(MIXES.iter().all(|mix| mix.nodes == 3 || !mix.has(|fault| fault.scope() == Scope::Node)));
        assert!(names.iter().all(|name| named(name).is_some()));
    }

    #[test]
    fn what_keeps_nobody_from_being_heard_excuses_no_silence() {
        let silence = |name| named(name).map(|mix| mix.silence());
        assert_eq!(silence("agent-crash"), Some(Silence::Killed));
        for never in [
            "dispatcher-crash",
            "handler-crash",
            "broker-restart",
            "database-crash",
            "dispatcher-partition",
            "database-partition",
            "memory-alarm",
            "queue-vandal",
            "consumer-timeout",
        ] {
            assert_eq!(silence(never), Some(Silence::Never), "{never}");
        }
    }
}
