//! `dispatcher pools list`, `revoke` and `grant`.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use switchyard_common::contract::access::Role;
use switchyard_common::contract::ids::PoolId;

use super::broker::AdminArgs;
use super::connect::{actor, database_of};
use super::output;
use crate::config::{Config, Needs};
use crate::control::{ORDERS_WAITING_MAX_COUNT, Orders};
use crate::pass::Wake;
use crate::store::{Db, StoreError, grants, operate};
use crate::sweep::Sweeper;
use crate::sweep::once::is_full;

/// Look at pools, and take away or give back what their agents may do.
#[derive(Debug, Subcommand)]
pub(crate) enum Pools {
    /// List pools.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take away what a pool's agents may do, at once: they are not heard any more, their reports are refused, what they had in hand is lost, and
    /// their account at the broker is deleted, which closes their connections.
    Revoke(Revoke),
    /// Give it back. The account at the broker is made anew by `dispatcher broker accounts --only-named --pool POOL --rotate --apply`.
    Grant(Grant),
}

/// What to revoke.
#[derive(Debug, Args)]
pub(crate) struct Revoke {
    /// The pool.
    pool: String,
    /// Who acts; kept in the audit log. Default: the user's name.
    #[arg(long, env = "SWITCHYARD_ACTOR")]
    by: Option<String>,
    /// Why; kept in the audit log.
    #[arg(long)]
    why: String,
    #[command(flatten)]
    admin: AdminArgs,
}

/// What to grant.
#[derive(Debug, Args)]
pub(crate) struct Grant {
    /// The pool.
    pool: String,
    /// Who acts; kept in the audit log. Default: the user's name.
    #[arg(long, env = "SWITCHYARD_ACTOR")]
    by: Option<String>,
    /// Why; kept in the audit log.
    #[arg(long)]
    why: String,
}

pub(super) async fn run(pools: Pools) -> anyhow::Result<ExitCode> {
    let config = Config::from_process(Needs::Database)?;
    let db = database_of(&config)?;
    match pools {
        Pools::List { json } => list(&db, json).await,
        Pools::Revoke(revoke) => take(&config, &db, revoke).await,
        Pools::Grant(grant) => give(&db, grant).await,
    }
}

async fn list(db: &Db, json: bool) -> anyhow::Result<ExitCode> {
    let pools = grants::list(db).await?;
    if json {
        output::json(&pools)?;
        return Ok(ExitCode::SUCCESS);
    }
    let row = |pool: grants::PoolSummary| {
        let state = match (pool.revoked_at, &pool.revoked_by, pool.paused_at) {
            (Some(at), by, _) => format!("revoked {} by {}", output::time(at), by.as_deref().unwrap_or("?")),
            (None, _, Some(at)) => format!("paused {}", output::time(at)),
            (None, _, None) => "open".to_owned(),
        };
        vec![pool.pool, pool.agents.to_string(), state]
    };
    output::table(&["pool", "agents", "state"], pools.into_iter().map(row).collect(), "no pools");
    Ok(ExitCode::SUCCESS)
}

/// The database first: from its commit on nothing that the pool says counts, whatever becomes of its connections.
async fn take(config: &Config, db: &Db, revoke: Revoke) -> anyhow::Result<ExitCode> {
    let pool = PoolId::new(&revoke.pool).context("the pool")?;
    let by = actor(revoke.by.as_deref())?;
    let admin = revoke.admin.admin()?;
    let since = Instant::now();
    let revoked = grants::revoke(db, &pool, &by, &revoke.why).await?;
    let refused_after = since.elapsed();
    let lost = lose(config, db).await?;
    output::line(&format!(
        "pool {pool} is revoked{}: {} sessions have ended (after {} ms), {lost} tasks were taken from it",
        if revoked.again { " already" } else { "" },
        revoked.sessions,
        refused_after.as_millis()
    ));
    let account = config.namespace.account(&Role::Pool(pool));
    let Some(admin) = admin else {
        output::line(&format!(
            "its connections to the broker are still open: run `rabbitmqctl delete_user {account}` where the broker runs, or give \
             --rabbitmqctl or the URL of the management API"
        ));
        return Ok(ExitCode::FAILURE);
    };
    admin.delete_account(&account).await?;
    output::line(&format!(
        "the account {account} is deleted and its connections are closed (after {} ms)",
        since.elapsed().as_millis()
    ));
    Ok(ExitCode::SUCCESS)
}

/// What every replica's sweep does within a second, without waiting for its tick. Orders to the pool's agents go nowhere.
async fn lose(config: &Config, db: &Db) -> Result<usize, StoreError> {
    let (orders, _unsent) = Orders::channel(ORDERS_WAITING_MAX_COUNT);
    let run_timeout_grace = config.run_timeout_grace;
    let sweeper = Sweeper { db: db.clone(), wake: Wake::default(), orders, run_timeout_grace };
    let mut lost = 0;
    loop {
        let changed = sweeper.agents().await?;
        lost += changed;
        if !is_full(changed) {
            return Ok(lost);
        }
    }
}

async fn give(db: &Db, grant: Grant) -> anyhow::Result<ExitCode> {
    let pool = PoolId::new(&grant.pool).context("the pool")?;
    if !grants::grant(db, &pool, &actor(grant.by.as_deref())?, &grant.why).await? {
        bail!("pool {pool} is not revoked");
    }
    operate::wake(db, &pool).await?;
    output::line(&format!(
        "pool {pool} has its grant; for a new account: dispatcher broker accounts --only-named --pool {pool} --rotate --apply ..."
    ));
    Ok(ExitCode::SUCCESS)
}
