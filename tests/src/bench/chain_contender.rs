//! The raw three-hop chain as processes: publisher, forwarder, worker, sink.

use std::path::PathBuf;
use std::process::Command;

use super::chain;
use super::contender::{About, Contender, Done, Plan};
use super::publish::Flow;
use super::roles::Role;
use super::stage::Stage;

/// Its queues, unique in their virtual host.
const NAME: &str = "chain";

/// The chain.
#[derive(Debug)]
pub struct Chain {
    about: About,
}

impl Chain {
    /// The chain, which every ratio is taken against.
    #[must_use]
    pub const fn new() -> Self {
        let about = About {
            id: "chain",
            title: "raw three-hop chain",
            guarantees: "confirmed, persistent, acked after the forwarded confirm; no state, no scheduling",
            settings: "3 quorum queues; forwarder, worker and sink with one connection each; window 1,000",
            expected_per_second: [5_000.0, 8_000.0],
        };
        Self { about }
    }
}

impl Default for Chain {
    fn default() -> Self {
        Self::new()
    }
}

fn arrivals(stage: &Stage) -> PathBuf {
    stage.path().join("arrivals")
}

impl Contender for Chain {
    fn about(&self) -> &About {
        &self.about
    }

    fn plan(&self, stage: &Stage) -> anyhow::Result<Plan> {
        let queues = chain::queues(NAME);
        let [first, second, third] = queues.as_slice() else { anyhow::bail!("the chain has three hops") };
        let forward = |from: &str, to: &str, probe: Option<PathBuf>| {
            Role::Forward { from: from.to_owned(), to: to.to_owned(), probe }.command(&stage.amqp_url)
        };
        let sink = Role::Sink { queue: third.clone(), probe: arrivals(stage) };
        Ok(Plan {
            ready: None,
            setup: vec![Role::Declare { queues: queues.clone() }.command(&stage.amqp_url)?],
            front: vec![("forwarder".into(), forward(first, second, None)?)],
            workers: vec![("worker".into(), forward(second, third, Some(stage.probe.path().to_owned()))?)],
            behind: vec![("sink".into(), sink.command(&stage.amqp_url)?)],
            front_is_broker: false,
            done: Done::Last(arrivals(stage)),
            stored: None,
        })
    }

    fn publisher(&self, stage: &Stage, flow: Flow) -> anyhow::Result<Command> {
        let queue = chain::queues(NAME).swap_remove(0);
        Role::PublishToChain { queue, flow: flow.into() }.command(&stage.amqp_url)
    }
}
