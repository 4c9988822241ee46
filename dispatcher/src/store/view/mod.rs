//! What people look at: [`tasks`](mod@tasks) with what they wait for, [`attempts`](mod@attempts) and logs of one, [`agents`](mod@agents) and workspaces.

mod agents;
mod attempts;
mod tasks;

pub use agents::{AgentSummary, WorkspaceSummary, agents, explain_agents, workspaces};
pub use attempts::{AttemptSummary, LogLine, attempts, logs, payload};
pub use tasks::{LIST_MAX_COUNT, TaskFilter, TaskSummary, tasks};
