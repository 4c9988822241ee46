//! Our own programs of a measurement: this very executable, started again in one role.

use std::path::PathBuf;
use std::process::Command;

use clap::{Args, Subcommand};
use switchyard_common::contract::topology::Namespace;

use super::chain;
use super::probe::Writer;
use super::publish::{Flow, to_chain, to_switchyard};

/// Where a role finds its broker.
const AMQP_URL: &str = "SWITCHYARD_AMQP_URL";

/// What a process of a measurement does.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum Role {
    /// Declares queues of the chain.
    Declare {
        /// Their names.
        queues: Vec<String>,
    },
    /// Forwards from one queue of the chain to the next.
    Forward {
        /// From here.
        from: String,
        /// To there.
        to: String,
        /// The file that is told of arrivals.
        #[arg(long)]
        probe: Option<PathBuf>,
    },
    /// Takes what arrives at the end of the chain.
    Sink {
        /// From here.
        queue: String,
        /// The file that is told of arrivals.
        probe: PathBuf,
    },
    /// Publishes into the chain.
    PublishToChain {
        /// Its first queue.
        queue: String,
        /// How much, and how fast.
        #[command(flatten)]
        flow: FlowArgs,
    },
    /// Publishes tasks for Switchyard.
    PublishToSwitchyard {
        /// The prefix of its names.
        namespace: String,
        /// The kind of the tasks.
        kind: String,
        /// How much, and how fast.
        #[command(flatten)]
        flow: FlowArgs,
    },
}

/// [`Flow`] as arguments.
#[derive(Debug, Clone, Copy, PartialEq, Args)]
pub struct FlowArgs {
    #[arg(long)]
    count: usize,
    #[arg(long)]
    per_second: Option<f64>,
    #[arg(long)]
    bytes: usize,
    #[arg(long)]
    workspaces: usize,
}

impl From<Flow> for FlowArgs {
    fn from(flow: Flow) -> Self {
        let Flow { count, per_second, bytes, workspaces } = flow;
        Self { count, per_second, bytes, workspaces }
    }
}

impl From<FlowArgs> for Flow {
    fn from(args: FlowArgs) -> Self {
        let FlowArgs { count, per_second, bytes, workspaces } = args;
        Self { count, per_second, bytes, workspaces }
    }
}

impl FlowArgs {
    fn write(self, command: &mut Command) {
        command.arg(format!("--count={}", self.count)).arg(format!("--bytes={}", self.bytes));
        command.arg(format!("--workspaces={}", self.workspaces));
        command.args(self.per_second.map(|per_second| format!("--per-second={per_second}")));
    }
}

impl Role {
    /// The command of a process in this role.
    ///
    /// # Errors
    /// When this executable is gone.
    pub fn command(&self, amqp_url: &str) -> anyhow::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.env(AMQP_URL, amqp_url).arg("role");
        match self {
            Self::Declare { queues } => drop(command.arg("declare").args(queues)),
            Self::Forward { from, to, probe } => {
                command.args(["forward", from, to]);
                if let Some(probe) = probe {
                    command.arg("--probe").arg(probe);
                }
            }
            Self::Sink { queue, probe } => drop(command.args(["sink", queue]).arg(probe)),
            Self::PublishToChain { queue, flow } => flow.write(command.args(["publish-to-chain", queue])),
            Self::PublishToSwitchyard { namespace, kind, flow } => {
                flow.write(command.args(["publish-to-switchyard", namespace, kind]));
            }
        }
        Ok(command)
    }

    /// Does it; forwarders and sinks go on until they are stopped.
    ///
    /// # Errors
    /// When an argument is wrong or a file cannot be opened.
    pub async fn play(self) -> anyhow::Result<()> {
        const FOR_EVER: usize = usize::MAX;
        let amqp_url = std::env::var(AMQP_URL)?;
        match self {
            Self::Declare { queues } => chain::declare(&amqp_url, &queues).await,
            Self::Forward { from, to, probe } => {
                let probe = probe.as_deref().map(Writer::open).transpose()?;
                chain::forward(&amqp_url, &from, &to, FOR_EVER, probe).await;
            }
            Self::Sink { queue, probe } => {
                chain::sink(&amqp_url, &queue, FOR_EVER, Some(Writer::open(&probe)?)).await;
            }
            Self::PublishToChain { queue, flow } => to_chain(&amqp_url, &queue, flow.into()).await,
            Self::PublishToSwitchyard { namespace, kind, flow } => {
                to_switchyard(&amqp_url, &Namespace::new(&namespace)?, &kind, flow.into()).await;
            }
        }
        Ok(())
    }
}
