//! What is measured: each contender as the processes that it is made of, what it guarantees, and how it is set.
//!
//! - [`chain_contender`](super::chain_contender), [`switchyard`](super::switchyard), [`peers`](super::peers): the contenders

use std::process::Command;

use super::publish::Flow;
use super::stage::Stage;

/// Who it is, for the table.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct About {
    /// Short, for `--only` and results.
    pub id: &'static str,
    /// For people.
    pub title: &'static str,
    /// What its figures are worth.
    pub guarantees: &'static str,
    /// Slots, windows, connections: what its figures rest on.
    pub settings: &'static str,
    /// Tasks per second to be expected, publishing at the same time and preloaded: they only decide how many tasks a measurement has.
    pub expected_per_second: [f64; 2],
}

/// When everything is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// When as many handlers have started as tasks were published; they do nothing else.
    Probe,
    /// When that many samples are in this other probe.
    Last(std::path::PathBuf),
    /// When the handlers have started and this query, of how many are open, gives 0.
    ProbeAndQuery(&'static str),
    /// When these queries say so: whether any is open, then how many have succeeded.
    Queries {
        /// True while any is open: it must cost next to nothing.
        open: &'static str,
        /// How many have succeeded.
        succeeded: &'static str,
        /// Of those since a time in nanoseconds: sent and started, in nanoseconds.
        samples: &'static str,
    },
}

/// The processes of a contender on a stage.
#[derive(Debug)]
pub struct Plan {
    /// Run to their end first.
    pub setup: Vec<Command>,
    /// Between publisher and workers: dispatcher, forwarder, a store of its own. Up during a preload.
    pub front: Vec<(String, Command)>,
    /// Who runs the handlers.
    pub workers: Vec<(String, Command)>,
    /// Behind the workers: counted with the publisher.
    pub behind: Vec<(String, Command)>,
    /// The address whose `/readyz` says that the front takes messages; none where the publisher waits by itself, or declares.
    pub ready: Option<String>,
    /// Whether the front is a broker, whose cost is the broker's.
    pub front_is_broker: bool,
    /// When all is done.
    pub done: Done,
    /// How many tasks the front takes over from the publisher before workers start; none where it does not.
    pub stored: Option<&'static str>,
}

/// One of those that are measured side by side.
pub trait Contender {
    /// Who it is.
    fn about(&self) -> &About;

    /// Its processes.
    ///
    /// # Errors
    /// When the stage cannot be prepared for it.
    fn plan(&self, stage: &Stage) -> anyhow::Result<Plan>;

    /// Its publisher, a process that ends when all is confirmed.
    ///
    /// # Errors
    /// When it is not installed.
    fn publisher(&self, stage: &Stage, flow: Flow) -> anyhow::Result<Command>;
}
