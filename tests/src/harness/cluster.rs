//! A broker of three nodes for a test: its quorum queues have three members, so that one node can die and every queue goes on. What connects
//! does so through a [`Front`], as through the service of a Kubernetes cluster.

use std::collections::BTreeMap;

use anyhow::Context as _;
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::Value;

use super::front::Front;
use super::services::{Part, Services, url_in};

/// Nodes of a cluster: an odd number, so that a majority is left without one.
pub const NODES_COUNT: usize = 3;
/// The virtual host of an instance.
const VHOST: &str = "switchyard";

/// A queue, as the broker lists it.
#[derive(Debug, Deserialize)]
struct Listed {
    name: String,
    /// The node that leads it; empty while it has no leader.
    leader: String,
    /// A list for a quorum queue, an empty text for any other.
    members: Value,
}

impl Listed {
    fn member_count(&self) -> usize {
        self.members.as_array().map_or(0, Vec::len)
    }
}

impl Services {
    /// Starts a broker of [`NODES_COUNT`] nodes, which are numbered from 1.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_cluster(name: &str) -> anyhow::Result<Self> {
        let mut services = Self::fresh(name, Part::Broker).await?;
        let nodes = NODES_COUNT.to_string();
        services.run_with(&["up", "broker"], &[("SWITCHYARD_LOCAL_BROKER_NODES", &nodes)]).await?;
        let urls = url_in(&services.run(&["env", "broker"]).await?, "SWITCHYARD_AMQP_URLS")?;
        services.amqp_urls = urls.split(',').map(str::to_owned).collect();
        let front = Front::new(&services.amqp_urls)?;
        services.amqp_url = Some(front.url.clone());
        services.front = Some(front);
        Ok(services)
    }

    /// SIGKILL to one node, at once.
    ///
    /// # Errors
    /// When it does not run, or the script that clears up after it fails.
    pub async fn kill_node(&self, number: usize) -> anyhow::Result<()> {
        self.signal_node(number, Signal::SIGKILL)?;
        self.run(&["kill-broker", &number.to_string()]).await.map(drop)
    }

    /// A signal to one node.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal_node(&self, number: usize, signal: Signal) -> anyhow::Result<()> {
        let name = if number == 1 { "broker".to_owned() } else { format!("broker{number}") };
        self.signal_process(&name, signal)
    }

    /// Stops one node in order.
    ///
    /// # Errors
    /// When the script fails.
    pub async fn stop_node(&self, number: usize) -> anyhow::Result<()> {
        self.run(&["stop-broker", &number.to_string()]).await.map(drop)
    }

    /// Starts one node again, and waits until a client can log in. One that was the last to go, or was killed, comes back only beside
    /// the others: those that are down as well are started by [`start_again`](Self::start_again).
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_node(&self, number: usize) -> anyhow::Result<()> {
        self.run(&["start-broker", &number.to_string()]).await.map(drop)
    }

    /// The number of the node that leads each quorum queue whose name begins so.
    ///
    /// # Errors
    /// When no node answers, or one of the queues has no leader.
    pub async fn leaders(&self, prefix: &str) -> anyhow::Result<BTreeMap<String, usize>> {
        let queues = self.quorum_queues(prefix).await?;
        queues.into_iter().map(|queue| Ok((queue.name, node_number(&queue.leader)?))).collect()
    }

    /// How many members each quorum queue has whose name begins so.
    ///
    /// # Errors
    /// When no node answers.
    pub async fn member_counts(&self, prefix: &str) -> anyhow::Result<BTreeMap<String, usize>> {
        let queues = self.quorum_queues(prefix).await?;
        Ok(queues.iter().map(|queue| (queue.name.clone(), queue.member_count())).collect())
    }

    async fn quorum_queues(&self, prefix: &str) -> anyhow::Result<Vec<Listed>> {
        let list =
            ["ctl", "list_queues", "-q", "-p", VHOST, "--formatter", "json", "name", "leader", "members"];
        let text = self.run(&list).await?;
        let mut queues: Vec<Listed> = serde_json::from_str(&text).with_context(|| text.clone())?;
        queues.retain(|queue| queue.name.starts_with(prefix) && queue.member_count() > 0);
        Ok(queues)
    }
}

/// The number of `switchyard@localhost`, `switchyard2@localhost` and so on.
fn node_number(node: &str) -> anyhow::Result<usize> {
    let digits = node.split('@').next().and_then(|name| name.strip_prefix("switchyard"));
    match digits.with_context(|| format!("not a node of an instance: {node:?}"))? {
        "" => Ok(1),
        digits => digits.parse().with_context(|| format!("not a node of an instance: {node:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_node_has_no_number_in_its_name() {
        assert_eq!(node_number("switchyard@localhost").unwrap(), 1);
        assert_eq!(node_number("switchyard3@localhost").unwrap(), 3);
        assert!(node_number("").is_err());
    }
}
