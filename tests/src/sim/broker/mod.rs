//! A broker in memory with the habits of RabbitMQ that the protocol is built against: quorum queues that deliver again what was
//! not acked before the connection went, exclusive queues that are a lock on their name, returns of what no queue takes,
//! dead-lettering at least once.
//!
//! Its exchanges, queues and bindings are the production topology. What is lost is lost on the way ([`super::wire`]), never here.

mod core;
mod message;
mod queue;

pub use self::core::{Broker, InUse, Outgoing};
pub use message::{Body, Message};
pub use queue::{Rearrange, Tag};
