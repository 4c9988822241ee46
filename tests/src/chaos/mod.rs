//! Chaos: Switchyard as it is run, on a real broker and a real database, while everything around it breaks; and a judge that trusts
//! nobody's word but the publisher's confirms and the handlers' own ledger.
//!
//! ```text
//! seed ──> plan ──> faults ──┐
//!   │                        v
//!   └────> load ──> [ broker, database, dispatchers, agents, handlers ] ──> ledger ──┐
//!            │                        │ rows, letters, queues                        │
//!            └──> book ───────────────┴──────────────> evidence ──> check ──> verdict
//! ```
//!
//! - [`fault`], [`mixes`], [`plan`]: what can break; how much of it, as data; when, drawn from the seed
//! - [`world`], [`way`], [`faults`], [`tap`]: the stage, ways that can be cut, breaking and mending, copies of every message
//! - [`load`], [`book`], [`people`]: what is published and what the broker confirmed; who approves, discards and resolves
//! - [`behaviour`], [`ledger`]: what handlers do, and what they wrote down
//! - [`evidence`], [`gather`], [`check`], [`verdict`]: what is known at rest, what must hold of it, the table
//! - [`mod@run`]: one mix from its start to its verdict
//!
//! docs/chaos.md is the page for whoever runs it.

pub mod behaviour;
pub mod book;
pub mod check;
pub mod evidence;
pub mod fault;
pub mod faults;
pub mod gather;
pub mod ledger;
pub mod load;
pub mod mixes;
pub mod people;
pub mod plan;
pub mod run;
pub mod tap;
pub mod verdict;
pub mod way;
pub mod world;
