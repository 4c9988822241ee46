//! What the fuzz targets do with the bytes that they are given: each drives production code and states what must hold whatever comes.
//!
//! `fuzz/fuzz_targets` has one line per target, for libFuzzer (`make fuzz`); the test `fuzz_corpus` gives the same functions every file
//! of `fuzz/corpus`, so that whatever was found once stays found.
//!
//! - [`events`], [`reports`]: what strangers and agents send to the dispatcher
//! - [`headers`]: names and headers of any message, from the frames on
//! - [`orders`]: what an agent is sent, in any order, through its whole machine
//! - [`logs`]: what a program prints, with secrets in it
//! - [`dispatcher_toml`], [`agent_toml`], [`tokens`]: what an operator writes

pub mod agent_toml;
pub mod dispatcher_toml;
pub mod events;
mod fields;
pub mod headers;
pub mod logs;
pub mod orders;
pub mod reports;
pub mod tokens;

/// A target: panics when something does not hold.
pub type Target = fn(&[u8]);

/// Every target by the name of its program and of its folder in the corpus.
pub const TARGETS: [(&str, Target); 8] = [
    ("agent_toml", agent_toml::check),
    ("dispatcher_toml", dispatcher_toml::check),
    ("events", events::check),
    ("headers", headers::check),
    ("logs", logs::check),
    ("orders", orders::check),
    ("reports", reports::check),
    ("tokens", tokens::check),
];
