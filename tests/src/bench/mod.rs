//! Measurements: always a ratio in one run, since machines differ and drift.
//!
//! - [`chain`], [`publish`]: the raw three-hop chain, the most that the broker alone allows, and our publisher
//! - [`contender`]: what is measured; [`chain_contender`], [`switchyard`], [`peers`] (with [`redis`]): those that there are
//! - [`stage`], [`process`], [`roles`]: where and as which processes
//! - [`running`]: one measurement, by [`probe`], [`procfs`] and [`stats`]; [`rounds`]: all of them, interleaved
//! - [`curves`], with [`fill`] and [`scrape`]: what happens when something grows
//! - [`targets`]: the ratios that are asked for; [`table`], [`curve_page`], [`svg`], [`machine`]: what is written to `docs/bench`

pub mod chain;
pub mod chain_contender;
pub mod contender;
pub mod curve_page;
pub mod curves;
pub mod fill;
pub mod machine;
pub mod peers;
pub mod probe;
pub mod process;
pub mod procfs;
pub mod publish;
pub mod redis;
pub mod roles;
pub mod rounds;
pub mod running;
pub mod scrape;
pub mod stage;
pub mod stats;
pub mod svg;
pub mod switchyard;
pub mod table;
pub mod targets;
