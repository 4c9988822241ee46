//! `dispatcher agents list` and `dispatcher workspaces list`.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::connect;
use super::output;
use crate::schedule::Pause;
use crate::store::view;

/// Look at agents.
#[derive(Debug, Subcommand)]
pub(crate) enum Agents {
    /// List agents with their slots and when they were last heard.
    List(List),
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
    let Agents::List(list) = command;
    let agents = view::agents(&connect::database()?, list.pool.as_deref()).await?;
    if list.json {
        output::json(&agents)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = agents
        .iter()
        .map(|agent| {
            let state = match (agent.live, agent.draining, &agent.paused) {
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
