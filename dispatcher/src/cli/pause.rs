//! `dispatcher pause`, `resume` and `fence`.

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use switchyard_common::contract::ids::PoolId;

use super::connect::{self, actor};
use super::output;
use crate::store::operate::{self, Pausable};
use crate::store::pass;

/// What is paused, or no longer. The commands say what they do with it.
#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    #[command(subcommand)]
    what: What,
    /// Who acts; kept in the audit log. Default: the user's name.
    #[arg(long, env = "SWITCHYARD_ACTOR", global = true)]
    by: Option<String>,
    /// Why; shown wherever something waits for a pause.
    #[arg(long, global = true, default_value = "")]
    why: String,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A pool, and everything in it.
    Pool {
        /// The pool.
        pool: String,
    },
    /// An agent.
    Agent {
        /// The pool.
        pool: String,
        /// The agent.
        agent: String,
    },
    /// A workspace, and all its tasks.
    Workspace {
        /// The workspace.
        workspace: String,
    },
}

/// Raise the restore epoch.
#[derive(Debug, Args)]
pub(crate) struct Fence {
    /// Who acts; kept in the audit log. Default: the user's name.
    #[arg(long, env = "SWITCHYARD_ACTOR")]
    by: Option<String>,
    /// Why.
    #[arg(long)]
    why: String,
}

pub(super) async fn run(arguments: PauseArgs, resume: bool) -> anyhow::Result<ExitCode> {
    let what = match arguments.what {
        What::Pool { pool } => Pausable::Pool(pool),
        What::Agent { pool, agent } => Pausable::Agent { pool, agent },
        What::Workspace { workspace } => Pausable::Workspace(workspace),
    };
    let db = connect::database()?;
    let by = actor(arguments.by.as_deref())?;
    let why = (!resume).then_some(arguments.why.as_str());
    if !operate::pause(&db, &what, &by, why).await? {
        bail!("{what} does not exist");
    }
    for pool in pools_of(&what, pass::pools(&db).await?) {
        operate::wake(&db, &pool).await?;
    }
    output::line(&format!("{what} {}", if resume { "resumed" } else { "paused; what runs goes on" }));
    Ok(ExitCode::SUCCESS)
}

fn pools_of(what: &Pausable, all: Vec<PoolId>) -> Vec<PoolId> {
    match what {
        Pausable::Pool(pool) | Pausable::Agent { pool, .. } => {
            all.into_iter().filter(|known| known.as_str() == pool).collect()
        }
        Pausable::Workspace(_) => all,
    }
}

pub(super) async fn fence(arguments: Fence) -> anyhow::Result<ExitCode> {
    let fenced =
        operate::fence(&connect::database()?, &actor(arguments.by.as_deref())?, &arguments.why).await?;
    output::line(&format!(
        "epoch {}: {} sessions are refused from now on, {} open attempts were closed or became uncertain",
        fenced.epoch, fenced.sessions, fenced.attempts
    ));
    Ok(ExitCode::SUCCESS)
}
