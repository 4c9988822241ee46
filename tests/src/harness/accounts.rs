//! Accounts of roles on the broker under test, made as an operator makes them and removed at the end.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context as _, ensure};
use switchyard_common::broker::{BrokerConfig, Session};
use switchyard_common::config::Secret;
use switchyard_common::contract::access::Role;
use switchyard_common::contract::topology::Namespace;
use switchyard_dispatcher::accounts::{Account, Admin, definitions};
use uuid::Uuid;

use super::scenario::binaries::repository;

/// The accounts of one namespace.
#[derive(Debug)]
pub struct Accounts {
    /// An administrator of the broker.
    pub admin: Admin,
    urls: BTreeMap<Role, String>,
    users: Vec<String>,
}

/// `rabbitmqctl` of the local services.
#[must_use]
pub fn local_ctl() -> Admin {
    let services = repository().join("deploy/local/services");
    Admin::Ctl(vec![services.display().to_string(), "ctl".to_owned()])
}

impl Accounts {
    /// Makes accounts for `roles` on the broker whose administrator's URL is `amqp_url`.
    ///
    /// # Errors
    /// When the broker refuses, or is not that of the local services.
    pub async fn make(
        admin: Admin,
        amqp_url: &str,
        namespace: &Namespace,
        roles: &[Role],
    ) -> anyhow::Result<Self> {
        let (_, place) = amqp_url.rsplit_once('@').context("the broker's URL names no user")?;
        let (_, vhost) = place.rsplit_once('/').context("the broker's URL names no virtual host")?;
        let account = |role: &Role| Account {
            access: namespace.access(role),
            password: Secret::new(Uuid::new_v4().simple().to_string()),
        };
        let accounts: Vec<Account> = roles.iter().map(account).collect();
        admin.import(&definitions::document(vhost, &accounts)).await.context(
            "accounts need the broker of `deploy/local/services up`, or a rabbitmqctl for your own",
        )?;
        let url = |account: &Account| {
            format!("amqp://{}:{}@{place}", account.access.user, account.password.expose())
        };
        Ok(Self {
            admin,
            urls: roles.iter().cloned().zip(accounts.iter().map(url)).collect(),
            users: accounts.into_iter().map(|account| account.access.user).collect(),
        })
    }

    /// The URL that a role logs in with.
    ///
    /// # Panics
    /// When the role has no account.
    #[must_use]
    pub fn url(&self, role: &Role) -> &str {
        &self.urls[role]
    }

    /// A connection of a role.
    ///
    /// # Errors
    /// When it cannot log in.
    pub async fn session(&self, role: &Role) -> anyhow::Result<Session> {
        let config = BrokerConfig::new(Secret::new(self.url(role)), role.to_string());
        Ok(Session::open(&config, "test").await?)
    }
}

impl Drop for Accounts {
    fn drop(&mut self) {
        let users: Vec<String> = self.users.iter().map(|user| format!("<<\"{user}\">>")).collect();
        // All in one call: each takes a second.
        let script = format!(
            "[catch rabbit_auth_backend_internal:delete_user(U, <<\"tests\">>) || U <- [{}]], ok.",
            users.join(",")
        );
        if let Err(error) = evaluate(&self.admin, &script) {
            tracing::warn!(%error, "accounts of a test were left behind");
        }
    }
}

/// Runs an Erlang expression in the broker.
///
/// # Errors
/// When it fails, or the administrator has no `rabbitmqctl`.
pub fn evaluate(admin: &Admin, script: &str) -> anyhow::Result<String> {
    let program = match admin {
        Admin::Ctl(program) => program.clone(),
        Admin::Api(_) => match local_ctl() {
            Admin::Ctl(program) => program,
            Admin::Api(_) => Vec::new(),
        },
    };
    let (first, rest) = program.split_first().context("there is no rabbitmqctl")?;
    let output = Command::new(first).args(rest).args(["eval", script]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
