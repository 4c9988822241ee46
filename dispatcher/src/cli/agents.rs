//! `dispatcher agents list|drain|resume|retire|terminated` and `dispatcher workspaces list`.

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use switchyard_common::contract::ids::{AgentId, AgentRef, PoolId, SessionId};

use super::connect::{self, actor};
use super::output;
use crate::schedule::Pause;
use crate::store::agents::{self, AgentAct};
use crate::store::view;

/// Look at agents, drain and retire them.
#[derive(Debug, Subcommand)]
pub(crate) enum Agents {
    /// List agents with their slots and when they were last heard.
    List(List),
    /// Tell an agent to take no more work; what runs goes on, and the agent stays. Restart it to have it work again.
    Drain(Asked),
    /// Take back a request to drain that the agent has not followed yet.
    Resume(Asked),
    /// Retire an agent that will not come back: what is in its queue is assigned anew, then the queue is deleted.
    Retire(Asked),
    /// Say that the container of a session has terminated, so that what was uncertain in it can be resolved.
    Terminated(Terminated),
}

/// An agent, and who asks.
#[derive(Debug, Args)]
pub(crate) struct Asked {
    /// POOL/AGENT.
    agent: String,
    /// Who acts; kept in the audit log. Default: the user's name.
    #[arg(long, env = "SWITCHYARD_ACTOR")]
    by: Option<String>,
    /// Why; kept in the audit log.
    #[arg(long)]
    why: Option<String>,
}

/// A session whose process has ended.
#[derive(Debug, Args)]
pub(crate) struct Terminated {
    #[command(flatten)]
    asked: Asked,
    /// The session.
    #[arg(long)]
    session: uuid::Uuid,
}

/// Look at workspaces.
#[derive(Debug, Subcommand)]
pub(crate) enum Workspaces {
    /// List workspaces with the task that holds each.
    List(List),
}

/// What to list.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only this pool.
    #[arg(long)]
    pool: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(command: Agents) -> anyhow::Result<ExitCode> {
    match command {
        Agents::List(list) => list_agents(list).await,
        Agents::Drain(asked) => act(asked, AgentAct::Drain, "is told to drain").await,
        Agents::Resume(asked) => {
            act(asked, AgentAct::Resume, "is no longer asked to drain; if it drains already, restart it")
                .await
        }
        Agents::Retire(asked) => {
            act(asked, AgentAct::Retire, "is retired as soon as its queue is empty").await
        }
        Agents::Terminated(Terminated { asked, session }) => {
            act(asked, AgentAct::Terminated(SessionId(session)), "had that session, which is over").await
        }
    }
}

async fn act(asked: Asked, act: AgentAct, done: &str) -> anyhow::Result<ExitCode> {
    let by = actor(asked.by.as_deref())?;
    let agent = match asked.agent.split_once('/') {
        Some((pool, agent)) => AgentRef { pool: PoolId::new(pool)?, agent: AgentId::new(agent)? },
        None => bail!("name the agent as POOL/AGENT"),
    };
    if !agents::act(&connect::database()?, &agent, act, &by, asked.why.as_deref()).await? {
        match act {
            AgentAct::Drain => bail!("there is no live agent {agent}"),
            AgentAct::Resume => bail!("there is no agent {agent}"),
            AgentAct::Retire => {
                bail!("there is no agent {agent} that is gone: stop it first, and wait until it is lost")
            }
            AgentAct::Terminated(_) => bail!("agent {agent} never had that session"),
        }
    }
    output::line(&format!("agent {agent} {done}"));
    Ok(ExitCode::SUCCESS)
}

async fn list_agents(list: List) -> anyhow::Result<ExitCode> {
    let agents = view::agents(&connect::database()?, list.pool.as_deref()).await?;
    if list.json {
        output::json(&agents)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = agents
        .iter()
        .map(|agent| {
            let state =
                match (agent.live, agent.draining || agent.drain_requested_by.is_some(), &agent.paused) {
                    (false, ..) if agent.retired_at.is_some() => "retired".to_owned(),
                    (false, ..) if agent.retire_requested_by.is_some() => "retiring".to_owned(),
                    (false, ..) => "lost".to_owned(),
                    (true, true, _) => "draining".to_owned(),
                    (true, false, Some(pause)) => paused(pause),
                    (true, false, None) => "live".to_owned(),
                };
            vec![
                agent.pool.clone(),
                agent.agent.clone(),
                state,
                format!("{}/{}+{}", agent.open, agent.slots, agent.credit),
                agent.handlers.join(","),
                agent.pod.clone(),
                output::ago(agent.last_seen),
            ]
        })
        .collect();
    output::table(
        &["POOL", "AGENT", "STATE", "OPEN/SLOTS+CREDIT", "HANDLERS", "POD", "LAST SEEN"],
        rows,
        "no agents",
    );
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn run_workspaces(command: Workspaces) -> anyhow::Result<ExitCode> {
    let Workspaces::List(list) = command;
    let workspaces = view::workspaces(&connect::database()?, list.pool.as_deref()).await?;
    if list.json {
        output::json(&workspaces)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = workspaces
        .iter()
        .map(|workspace| {
            vec![
                workspace.workspace_id.clone(),
                workspace.pool.clone(),
                workspace.open.to_string(),
                workspace.held_by.clone().unwrap_or_default(),
                workspace.paused.as_ref().map(paused).unwrap_or_default(),
            ]
        })
        .collect();
    output::table(&["WORKSPACE", "POOL", "OPEN TASKS", "HELD BY", "PAUSED"], rows, "no workspaces");
    Ok(ExitCode::SUCCESS)
}

fn paused(pause: &Pause) -> String {
    if pause.why.is_empty() {
        format!("paused by {}", pause.by)
    } else {
        format!("paused by {} ({})", pause.by, pause.why)
    }
}
