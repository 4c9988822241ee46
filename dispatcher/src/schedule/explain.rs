//! Why a task does not run: a readable reason for every state (invariant 2).

use chrono::{DateTime, Utc};
use serde::Serialize;
use switchyard_common::contract::ids::TaskId;
use switchyard_common::task::{Status, Task};

use super::snapshot::{AgentView, Class, Pause, SkipReason, Snapshot};

/// What a task waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "waiting_on", rename_all = "snake_case")]
pub enum WaitingOn {
    /// It has ended: nothing.
    Nothing,
    /// Its own time: `not_before`, or the wait before a retry.
    Time {
        /// When.
        until: DateTime<Utc>,
    },
    /// An earlier exclusive task of its workspace.
    Workspace {
        /// The task that holds the workspace, or stands first in it.
        held_by: Option<TaskId>,
    },
    /// An approval.
    Approval {
        /// The step that needs it.
        step: String,
        /// The digest of what would be approved.
        digest: Option<String>,
    },
    /// Somebody to resume the pool.
    PoolPaused(Pause),
    /// Somebody to resume the workspace.
    WorkspacePaused(Pause),
    /// A grant for the pool.
    PoolRevoked,
    /// Handlers of sessions that were fenced or revoked to be gone.
    Quiet {
        /// When they are.
        until: DateTime<Utc>,
    },
    /// Any agent of the pool to come to life.
    LiveAgent {
        /// The pool.
        pool: String,
    },
    /// An agent of the pool that offers the handler.
    CapableAgent {
        /// The pool.
        pool: String,
        /// The handler.
        handler: String,
    },
    /// A free slot; every capable agent with the reason that it has none.
    FreeSlot {
        /// Agents and reasons.
        agents: Vec<(String, SkipReason)>,
    },
    /// The next pass: an agent could take it now.
    NextPass,
    /// The agent to start it.
    AgentToStart {
        /// Which.
        agent: String,
    },
    /// The handler to end.
    Handler {
        /// Where it runs.
        agent: String,
    },
    /// The agent to acknowledge that it stops.
    StopAcknowledged {
        /// Which.
        agent: String,
    },
    /// An operator, or the lost agent's late outcome.
    Resolution {
        /// The agent that was lost.
        agent: String,
    },
    /// Somebody to look at its row, or a newer dispatcher: this one cannot read it.
    Unreadable {
        /// What cannot be read.
        why: String,
    },
}

impl WaitingOn {
    /// One line for a person.
    #[must_use]
    pub fn sentence(&self) -> String {
        match self {
            Self::Nothing => "nothing: it has ended".into(),
            Self::Time { until } => format!("its time: not before {}", until.format("%Y-%m-%d %H:%M:%S UTC")),
            Self::Workspace { held_by: Some(task) } => format!("its workspace, held by task {task}"),
            Self::Workspace { held_by: None } => "its turn in its workspace".into(),
            Self::Approval { step, digest } => {
                format!("an approval of step {step} ({})", digest.as_deref().unwrap_or("no artifacts"))
            }
            Self::PoolPaused(pause) => format!("its pool, paused by {}{}", pause.by, because(&pause.why)),
            Self::WorkspacePaused(pause) => {
                format!("its workspace, paused by {}{}", pause.by, because(&pause.why))
            }
            Self::PoolRevoked => "a grant for its pool, which was revoked".into(),
            Self::Quiet { until } => format!(
                "handlers of before a fence or a revoked grant to be gone: until {}",
                until.format("%Y-%m-%d %H:%M:%S UTC")
            ),
            Self::LiveAgent { pool } => format!("a live agent in pool {pool}: there is none"),
            Self::CapableAgent { pool, handler } => {
                format!("an agent in pool {pool} that offers handler {handler}: no live one does")
            }
            Self::FreeSlot { agents } => {
                let names: Vec<&str> = agents.iter().map(|(name, _)| name.as_str()).collect();
                format!("a free slot at one of: {}", names.join(", "))
            }
            Self::NextPass => "the next scheduling pass: an agent could take it".into(),
            Self::AgentToStart { agent } => format!("agent {agent} to start it"),
            Self::Handler { agent } => format!("its handler, running at agent {agent}"),
            Self::StopAcknowledged { agent } => format!("agent {agent} to acknowledge that it stops"),
            Self::Resolution { agent } => {
                format!("an operator: agent {agent} was lost after the step may have started")
            }
            Self::Unreadable { why } => format!("an operator, or a newer dispatcher: {why}"),
        }
    }
}

fn because(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(" ({why})") }
}

/// A task with what its own row does not tell.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskView {
    /// The task.
    pub task: Task,
    /// The task that stands before it in its workspace.
    pub held_by: Option<TaskId>,
    /// Its workspace's pause.
    pub workspace_paused: Option<Pause>,
    /// Its open attempt was asked to stop.
    pub stop_requested: bool,
}

/// The reason that `view` does not run, or what it runs at. `snapshot` is of the task's pool; its candidates are not looked at.
#[must_use]
pub fn waiting_on(view: &TaskView, snapshot: &Snapshot) -> WaitingOn {
    let task = &view.task;
    let agent = task.assignee.as_ref().map(|assignee| assignee.agent.agent.to_string()).unwrap_or_default();
    match task.status {
        Status::Succeeded | Status::Failed | Status::Cancelled => WaitingOn::Nothing,
        Status::Blocked => WaitingOn::Workspace { held_by: view.held_by.clone() },
        Status::AwaitingApproval => WaitingOn::Approval {
            step: task.current_step().name.to_string(),
            digest: task.artifact.as_ref().map(|artifact| artifact.digest.to_string()),
        },
        Status::Uncertain => WaitingOn::Resolution { agent },
        Status::Assigned | Status::Running if view.stop_requested => WaitingOn::StopAcknowledged { agent },
        Status::Assigned => WaitingOn::AgentToStart { agent },
        Status::Running => WaitingOn::Handler { agent },
        Status::Pending => pending(view, snapshot),
    }
}

fn pending(view: &TaskView, snapshot: &Snapshot) -> WaitingOn {
    let task = &view.task;
    if let Some(until) = task.run_after {
        return WaitingOn::Time { until };
    }
    if snapshot.pool.revoked {
        return WaitingOn::PoolRevoked;
    }
    if let Some(pause) = &snapshot.pool.paused {
        return WaitingOn::PoolPaused(pause.clone());
    }
    if let Some(pause) = &view.workspace_paused {
        return WaitingOn::WorkspacePaused(pause.clone());
    }
    if let Some(until) = snapshot.pool.quiet_until.filter(|_| task.exclusive) {
        return WaitingOn::Quiet { until };
    }
    let step = task.current_step();
    let class =
        Class { handler: step.handler.clone(), exclusive: task.exclusive, repeatable: step.repeatable };
    let pool = snapshot.pool.id.to_string();
    let live: Vec<&AgentView> = snapshot.agents.iter().filter(|agent| agent.live).collect();
    if live.is_empty() {
        return WaitingOn::LiveAgent { pool };
    }
    let capable: Vec<&&AgentView> =
        live.iter().filter(|agent| agent.handlers.contains(&class.handler)).collect();
    if capable.is_empty() {
        return WaitingOn::CapableAgent { pool, handler: class.handler.to_string() };
    }
    let refusals: Option<Vec<(String, SkipReason)>> = capable
        .iter()
        .map(|agent| agent.refuses(&class).map(|reason| (agent.id.to_string(), reason)))
        .collect();
    match refusals {
        Some(agents) => WaitingOn::FreeSlot { agents },
        None => WaitingOn::NextPass,
    }
}
