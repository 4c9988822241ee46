//! Settle, presence and the sweeps on a real PostgreSQL, without a broker: reports go in as bytes, orders come out of a channel.

mod agents;
mod artifacts;
mod logs;
mod outcomes;
mod poison;
mod starts;
mod sweeps;
mod world;
