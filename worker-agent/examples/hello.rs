//! An agent with one handler written in Rust. Start the services and a dispatcher, then:
//!
//! ```text
//! SWITCHYARD_AMQP_URL=amqp://... cargo run --example hello
//! ```
//!
//! and submit a task of kind `plan`: its log says hello, and its artifact is a greeting.

use std::time::Duration;

use switchyard_common::broker::BrokerConfig;
use switchyard_common::config::Secret;
use switchyard_common::contract::ids::{AgentId, AgentRef, PoolId};
use switchyard_common::shutdown::Shutdown;
use switchyard_common::telemetry;
use switchyard_worker_agent::{
    AgentConfig, Handler, HandlerOutcome, Handlers, TaskContext, async_trait, run,
};

struct Hello;

#[async_trait]
impl Handler for Hello {
    async fn run(&self, context: TaskContext) -> HandlerOutcome {
        let greeting = format!("hello, {}", context.work().workspace_id);
        context.log(&greeting);
        for thought in 1..=3 {
            context.progress(thought, 3, "thinking");
            tokio::select! {
                // Somebody cancelled, or the agent has to go: say so instead of being dropped.
                _ = context.stopped() => return HandlerOutcome::Stopped,
                () = tokio::time::sleep(Duration::from_millis(200)) => {}
            }
        }
        match context.artifact("greeting.txt", greeting.into_bytes()) {
            Ok(()) => HandlerOutcome::succeeded(),
            Err(error) => HandlerOutcome::failed(error.to_string()),
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    telemetry::init()?;
    let url = Secret::new(std::env::var("SWITCHYARD_AMQP_URL")?);
    let agent = AgentRef { pool: PoolId::new("default")?, agent: AgentId::new("hello-0")? };
    let shutdown = Shutdown::new(Duration::from_secs(25));
    shutdown.listen_for_signals()?;
    let config = AgentConfig::new(BrokerConfig::new(url, agent.to_string()), agent);
    run(config, Handlers::new().with("plan", Hello)?, shutdown).await?;
    Ok(())
}
