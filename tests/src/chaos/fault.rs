//! What can break, and what each of it excuses.

/// Which connection is disturbed: each has a way of its own through a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    /// An agent's to the broker.
    AgentBroker,
    /// A dispatcher's to the broker.
    DispatcherBroker,
    /// A dispatcher's to the database.
    DispatcherDatabase,
}

/// How a connection is disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// Closed, and every new one at once.
    Cut,
    /// Open, and nothing passes either way.
    Silent,
    /// Open, and no answer comes back: what is asked arrives.
    Deaf,
    /// Open, and nothing that is asked arrives.
    Mute,
    /// Everything is late.
    Slow,
}

/// When an agent may rightly be declared silent. The later ones excuse more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Silence {
    /// Never: nothing keeps it from being heard for as long as it may be silent, or whatever does keeps the dispatchers from hearing
    /// themselves.
    #[default]
    Never,
    /// While it is killed. One that was started again is heard, and takes the place of its old session.
    Killed,
    /// At any time.
    Always,
}

/// Something that breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// kill -9 of a dispatcher, started again later.
    KillDispatcher,
    /// SIGSTOP of a dispatcher, then SIGCONT.
    FreezeDispatcher,
    /// kill -9 of an agent alone: its supervisors and handlers are left to themselves. Started again later.
    KillAgent,
    /// SIGSTOP of an agent alone, then SIGCONT.
    FreezeAgent,
    /// kill -9 of a running handler.
    KillHandler,
    /// SIGSTOP of a running handler, then SIGCONT.
    FreezeHandler,
    /// kill -9 of the supervisor of a running handler.
    KillSupervisor,
    /// kill -9 of every node of the broker, started again later.
    KillBroker,
    /// An orderly stop of every node of the broker.
    StopBroker,
    /// kill -9 of one node of the broker.
    KillNode,
    /// SIGSTOP of one node of the broker.
    FreezeNode,
    /// An orderly restart of one node of the broker.
    RestartNode,
    /// kill -9 of PostgreSQL.
    KillDatabase,
    /// An orderly stop of PostgreSQL.
    StopDatabase,
    /// A disturbed connection.
    Disturb(Link, How),
    /// The broker takes nothing from publishers.
    MemoryAlarm,
    /// An agent's queue is deleted, with what is in it.
    DeleteAgentQueue,
    /// The dead-letter queue loses its binding.
    UnbindDeadLetters,
}

/// What a fault strikes; one thing is struck by one fault at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// One of the dispatchers.
    Dispatcher,
    /// One of the agents.
    Agent,
    /// Whichever handler runs then.
    Handler,
    /// The whole broker.
    Broker,
    /// One node of it, and no other meanwhile.
    Node,
    /// The database.
    Database,
}

impl Fault {
    /// What it strikes.
    #[must_use]
    pub const fn scope(self) -> Scope {
        match self {
            Self::KillDispatcher
            | Self::FreezeDispatcher
            | Self::Disturb(Link::DispatcherBroker | Link::DispatcherDatabase, _) => Scope::Dispatcher,
            Self::KillAgent
            | Self::FreezeAgent
            | Self::DeleteAgentQueue
            | Self::Disturb(Link::AgentBroker, _) => Scope::Agent,
            Self::KillHandler | Self::FreezeHandler | Self::KillSupervisor => Scope::Handler,
            Self::KillBroker | Self::StopBroker | Self::MemoryAlarm | Self::UnbindDeadLetters => {
                Scope::Broker
            }
            Self::KillNode | Self::FreezeNode | Self::RestartNode => Scope::Node,
            Self::KillDatabase | Self::StopDatabase => Scope::Database,
        }
    }

    /// When an agent may rightly be declared silent because of it.
    #[must_use]
    pub const fn silence(self) -> Silence {
        match self {
            Self::KillAgent => Silence::Killed,
            // A node that is gone or stopped takes the connections of some with it, and not of others.
            Self::FreezeAgent
            | Self::KillNode
            | Self::FreezeNode
            | Self::RestartNode
            | Self::Disturb(Link::AgentBroker, _) => Silence::Always,
            Self::KillDispatcher
            | Self::FreezeDispatcher
            | Self::KillHandler
            | Self::FreezeHandler
            | Self::KillSupervisor
            | Self::KillBroker
            | Self::StopBroker
            | Self::KillDatabase
            | Self::StopDatabase
            | Self::MemoryAlarm
            | Self::DeleteAgentQueue
            | Self::UnbindDeadLetters
            | Self::Disturb(Link::DispatcherBroker | Link::DispatcherDatabase, _) => Silence::Never,
        }
    }

    /// Whether attempts may rightly be lost because of it: their agent is declared silent, or ends its session since it cannot speak itself,
    /// or what was in its queue is gone.
    #[must_use]
    pub const fn may_lose_attempts(self) -> bool {
        match self {
            Self::KillAgent
            | Self::FreezeAgent
            | Self::KillBroker
            | Self::StopBroker
            | Self::KillNode
            | Self::FreezeNode
            | Self::RestartNode
            | Self::MemoryAlarm
            | Self::DeleteAgentQueue
            | Self::Disturb(Link::AgentBroker, _) => true,
            Self::KillDispatcher
            | Self::FreezeDispatcher
            | Self::KillHandler
            | Self::FreezeHandler
            | Self::KillSupervisor
            | Self::KillDatabase
            | Self::StopDatabase
            | Self::UnbindDeadLetters
            | Self::Disturb(Link::DispatcherBroker | Link::DispatcherDatabase, _) => false,
        }
    }

    /// Whether it is over as soon as it has begun.
    #[must_use]
    pub const fn is_instant(self) -> bool {
        matches!(self, Self::KillHandler | Self::KillSupervisor | Self::DeleteAgentQueue)
    }

    /// Whether a handler that does nothing wrong may be seen to end badly because of it.
    #[must_use]
    pub const fn may_fail_handlers(self) -> bool {
        matches!(self, Self::KillHandler | Self::KillSupervisor)
    }
}
