//! The agent: takes one attempt after the other from its own queue, runs a handler, and says how it ended.
//!
//! ```no_run
//! use switchyard_common::broker::BrokerConfig;
//! use switchyard_common::config::Secret;
//! use switchyard_common::contract::ids::{AgentId, AgentRef, PoolId};
//! use switchyard_common::shutdown::Shutdown;
//! use switchyard_worker_agent::{AgentConfig, Handler, HandlerOutcome, Handlers, TaskContext, async_trait, run};
//!
//! struct Hello;
//!
//! #[async_trait]
//! impl Handler for Hello {
//!     async fn run(&self, context: TaskContext) -> HandlerOutcome {
//!         context.log(format!("hello, {}", context.work().workspace_id));
//!         HandlerOutcome::succeeded()
//!     }
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let agent = AgentRef { pool: PoolId::new("default")?, agent: AgentId::new("hello-0")? };
//! let broker = BrokerConfig::new(Secret::new("amqp://user:password@localhost/%2f"), agent.to_string());
//! let shutdown = Shutdown::new(std::time::Duration::from_secs(25));
//! shutdown.listen_for_signals()?;
//! run(AgentConfig::new(broker, agent), Handlers::new().with("plan", Hello)?, shutdown).await?;
//! # Ok(()) }
//! ```
//!
//! - [`handler`]: what you implement; [`agent`]: configuration and [`run`]
//! - [`machine`]: every rule of the protocol that concerns an agent, without I/O; `shell`: its thin driver
//! - [`exec`]: programs, each under its own supervisor process; [`program`]: a program as a handler
//! - [`builtin`]: handlers for load tests and demonstrations
//! - [`health`]: what probes and Prometheus read
//! - [`cli`]: the `worker-agent` binary

pub mod agent;
pub mod builtin;
pub mod cli;
pub mod exec;
pub mod handler;
pub mod health;
pub mod machine;
pub mod program;
mod shell;

pub use agent::{AgentConfig, AgentError, run};
pub use async_trait::async_trait;
pub use handler::{Handler, HandlerOutcome, Handlers, Success, TaskContext};
pub use shell::Finished;
