//! `dispatcher broker accounts`: an account per role at the broker.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use clap::{Args, Subcommand};
use switchyard_common::config::Secret;
use switchyard_common::contract::access::Role;
use switchyard_common::contract::ids::{PoolId, SubscriberId};
use switchyard_common::contract::topology::Namespace;

use super::output;
use crate::accounts::secrets::Secrets;
use crate::accounts::{Account, Admin, definitions};

/// Prepare the broker.
#[derive(Debug, Subcommand)]
pub(crate) enum Broker {
    /// Make an account for each role, with the least rights that its work needs.
    ///
    /// Writes the broker URL of each account into a file of its own in --secrets, for SWITCHYARD_AMQP_URL_FILE, and a definitions file that
    /// RabbitMQ imports. Can be repeated: passwords that are there stay, and only what is named is made or changed.
    Accounts(Box<Accounts>),
}

/// The accounts to make.
#[derive(Debug, Args)]
pub(crate) struct Accounts {
    /// A pool of agents; may be repeated.
    #[arg(long = "pool")]
    pools: Vec<String>,
    /// Somebody who reads notifications; may be repeated.
    #[arg(long = "subscriber")]
    subscribers: Vec<String>,
    /// Leave out the accounts of the dispatcher and of upstream: only the pools and subscribers that are named.
    #[arg(long)]
    only_named: bool,
    /// Where clients reach the broker: amqps://host:5671.
    #[arg(long)]
    broker: String,
    /// The virtual host, which should be Switchyard's alone.
    #[arg(long, default_value = "switchyard")]
    vhost: String,
    /// The prefix of every name at the broker.
    #[arg(long, env = "SWITCHYARD_NAMESPACE", default_value = Namespace::DEFAULT)]
    namespace: String,
    /// The folder of the URL files; made if it is not there, readable by its owner alone.
    #[arg(long)]
    secrets: PathBuf,
    /// Draw new passwords for the accounts that are made now.
    #[arg(long)]
    rotate: bool,
    /// Write the definitions file here.
    #[arg(long)]
    definitions: Option<PathBuf>,
    /// Import the definitions into the broker now.
    #[arg(long)]
    apply: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// How to act as an administrator of the broker.
#[derive(Debug, Args)]
pub(crate) struct AdminArgs {
    /// The file with the URL of the management API: http://user:password@host:15672. Or set SWITCHYARD_BROKER_ADMIN_URL.
    #[arg(long, env = "SWITCHYARD_BROKER_ADMIN_URL_FILE")]
    admin_url_file: Option<PathBuf>,
    /// Use this program instead: "rabbitmqctl", or "kubectl exec -i broker-0 -- rabbitmqctl".
    #[arg(long, env = "SWITCHYARD_RABBITMQCTL")]
    rabbitmqctl: Option<String>,
}

impl AdminArgs {
    /// The administrator, when one is named.
    pub(super) fn admin(&self) -> anyhow::Result<Option<Admin>> {
        if let Some(program) = &self.rabbitmqctl {
            return Ok(Some(Admin::Ctl(program.split_whitespace().map(ToOwned::to_owned).collect())));
        }
        if let Some(path) = &self.admin_url_file {
            let url =
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            return Ok(Some(Admin::Api(Secret::new(url.trim()))));
        }
        let url = std::env::var("SWITCHYARD_BROKER_ADMIN_URL").ok();
        Ok(url.filter(|url| !url.is_empty()).map(|url| Admin::Api(Secret::new(url))))
    }
}

pub(super) async fn run(broker: Broker) -> anyhow::Result<ExitCode> {
    match broker {
        Broker::Accounts(accounts) => make(*accounts).await,
    }
}

async fn make(arguments: Accounts) -> anyhow::Result<ExitCode> {
    let namespace = Namespace::new(&arguments.namespace).context("--namespace")?;
    let roles = roles(&arguments)?;
    ensure!(!roles.is_empty(), "name at least one --pool or --subscriber, or leave --only-named out");
    let admin = arguments.admin.admin()?;
    if arguments.apply && admin.is_none() {
        bail!(
            "--apply needs an administrator: --rabbitmqctl rabbitmqctl where the broker runs, or the URL of its management \
             API in SWITCHYARD_BROKER_ADMIN_URL or --admin-url-file"
        );
    }
    let secrets = Secrets::new(&arguments.secrets, &arguments.broker, &arguments.vhost)?;
    let mut accounts = Vec::with_capacity(roles.len());
    for role in &roles {
        let access = namespace.access(role);
        let password = secrets.password(&access.user, arguments.rotate)?;
        accounts.push(Account { access, password });
    }
    let document = definitions::document(&arguments.vhost, &accounts);
    if let Some(path) = &arguments.definitions {
        let text = serde_json::to_string_pretty(&document)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        output::line(&format!("definitions: {}", path.display()));
    }
    if let Some(admin) = admin.filter(|_| arguments.apply) {
        admin.import(&document).await?;
        output::line("the broker has the accounts");
    }
    let rows = roles.iter().zip(&accounts).map(|(role, account)| {
        let user = &account.access.user;
        vec![role.to_string(), user.clone(), secrets.path(user).display().to_string()]
    });
    output::table(&["role", "account", "url file"], rows.collect(), "no accounts");
    Ok(ExitCode::SUCCESS)
}

fn roles(arguments: &Accounts) -> anyhow::Result<Vec<Role>> {
    let mut roles = Vec::new();
    if !arguments.only_named {
        roles.extend([Role::Dispatcher, Role::Upstream]);
    }
    for pool in &arguments.pools {
        roles.push(Role::Pool(PoolId::new(pool).with_context(|| format!("--pool {pool}"))?));
    }
    for name in &arguments.subscribers {
        roles
            .push(Role::Subscriber(SubscriberId::new(name).with_context(|| format!("--subscriber {name}"))?));
    }
    Ok(roles)
}
