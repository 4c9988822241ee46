//! A seeded simulation of the whole system that drives the production functions themselves: the transition function, the plan, the
//! rules of routing, the judge of presence, the agent's state machine, the birth of a task.
//!
//! ```text
//! people ──> broker ──> replicas ──> store ──> broker ──> agents ──> handlers
//!                 ^───────────────────────── reports ─────────┘         │
//!                                  faults at every arrow             ledger ──> checker
//! ```
//!
//! - [`dice`], [`agenda`], [`trace`]: randomness that replays, time, what happened
//! - [`broker`], [`wire`]: queues and connections, and all the ways in which they lose and repeat
//! - [`store`]: the database, held to its constraints after every write
//! - [`agent`], [`agent_io`], [`handlers`], [`ledger`]: processes around the machine, what handlers do, what they did
//! - [`replica`], [`routing`], [`settling`], [`duties`]: the dispatcher's processes and what they do
//! - [`people`], [`faults`], [`troubles`], [`scenario`]: who acts, what breaks around the broker and inside it, how much of it
//! - [`checker`], [`witness`]: what must hold; [`mod@run`]: one seed
//!
//! What is not simulated: two processes under one agent's id at the same time, more than one node of the broker, the delivery limit (it is a
//! million), queues that expire (none does), and the wire form, which the tests of the contract and the fuzz targets hold.
//!
//! What is simulated here are surroundings: I/O, time, processes. A rule that is copied here would be tested in place of the real one.

pub mod agenda;
pub mod agent;
pub mod agent_io;
pub mod broker;
pub mod checker;
pub mod dice;
pub mod duties;
pub mod faults;
pub mod handlers;
pub mod ledger;
pub mod people;
pub mod replica;
pub mod routing;
pub mod run;
pub mod scenario;
pub mod settling;
pub mod store;
pub mod trace;
pub mod troubles;
pub mod wire;
pub mod witness;
pub mod world;

pub use run::{Report, run};
pub use trace::Tracing;
