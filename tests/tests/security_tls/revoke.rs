//! Revoking a pool: its connections close, its reports are refused, its attempts are lost, and the other pools notice nothing.

use std::time::{Duration, Instant};

use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use serde_json::json;
use switchyard_common::contract::access::Role;
use switchyard_common::contract::event::EventType;
use switchyard_common::contract::ids::PoolId;
use switchyard_common::task::Status;
use switchyard_dispatcher::accounts::Admin;
use switchyard_tests::harness::accounts::Accounts;
use switchyard_tests::harness::scenario::Scenario;
use switchyard_tests::harness::secured::secured;
use switchyard_tests::harness::wait::{Look, until};

use crate::INSTANCE;

/// Longest wait for what takes a moment: a busy machine is no failure. What it took is printed.
const CLOSED_WITHIN: Duration = Duration::from_secs(30);

fn pool(name: &str) -> Role {
    Role::Pool(PoolId::new(name).unwrap())
}

#[tokio::test]
async fn incident_63_a_revoked_pool_is_out_at_once_and_a_grant_lets_it_in_again() -> anyhow::Result<()> {
    let services = secured(INSTANCE).await?;
    let scenario = Scenario::at("revoke", &services.amqp_url, &services.database_url).await?;
    let roles = [Role::Dispatcher, pool("default"), pool("red")];
    let accounts =
        Accounts::make(services.admin.clone(), &services.amqp_url, &scenario.namespace, &roles).await?;
    let as_role = |role: &Role| accounts.url(role).to_owned();
    let dispatcher = scenario.dispatcher("dispatcher-1").env("SWITCHYARD_AMQP_URL", as_role(&roles[0]));
    let _dispatcher = dispatcher.start().await?;
    let _agent = scenario.agent("agent-1").env("SWITCHYARD_AMQP_URL", as_role(&roles[1])).start().await?;
    let mut red =
        scenario.agent("agent-2").pool("red").env("SWITCHYARD_AMQP_URL", as_role(&roles[2])).start().await?;
    let mut upstream = scenario.upstream().await?;
    for (task, pool) in [("t-1", "default"), ("t-red", "red")] {
        let data = json!({ "task_id": task, "workspace_id": task, "kind": "plan", "pool": pool, "payload": { "do": "hang" } });
        upstream.accepted(EventType::TaskSubmitted, data).await?;
        until_running(&scenario, task).await?;
    }
    let session = accounts.session(&roles[2]).await?;
    let channel = session.channel().await?;
    session.request(channel.confirm_select(ConfirmSelectOptions::default())).await?;

    let Admin::Api(url) = &services.admin else { unreachable!("this instance has the management API") };
    let since = Instant::now();
    let command = ["pools", "revoke", "red", "--by", "ada", "--why", "credentials on a public page"];
    let launch = scenario.dispatcher("command").env("SWITCHYARD_BROKER_ADMIN_URL", url.expose());
    let ended = launch.run(&command)?;
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(ended.status.success(), "{said}{}", String::from_utf8_lossy(&ended.stderr));
    until("the connection of the pool to be closed", CLOSED_WITHIN, async || {
        Ok(Look::holds(!session.is_alive(), || "it is open".to_owned()))
    })
    .await?;
    println!("{said}the connection was closed {} ms after the command began", since.elapsed().as_millis());

    // Nobody gets in with the account any more, and nothing is in its hands.
    assert!(accounts.session(&roles[2]).await.is_err(), "the account still logs in");
    let task = scenario.until_task("t-red", "to be taken from the pool", CLOSED_WITHIN, |task| {
        // After the backoff of the lost attempt the reason is the pool.
        task.status == Status::Pending && task.waiting_for.contains("grant for its pool")
    });
    task.await?;
    assert_eq!(scenario.task("t-1").await?.status, Status::Running, "another pool's work");
    let audit = "SELECT count(*) FROM audit_log WHERE action = 'revoke_pool' AND subject = 'pool:red' AND actor = 'ada'";
    assert_eq!(scenario.count(audit).await?, 1);
    // A report that was on its way, or comes through another account, is refused.
    let ours = scenario.session("late").await?;
    let channel = ours.channel().await?;
    let lease =
        "SELECT session::text, lease_token::text FROM attempts WHERE task_id = 't-red' AND attempt = 1";
    let row = scenario.database.db.connection().await?.query_one(lease, &[]).await?;
    let claim = json!({ "task_id": "t-red", "attempt": 1, "session": row.get::<_, &str>(0), "lease": row.get::<_, &str>(1) });
    let late = json!({ "epoch": 1, "body": { "type": "started", "claims": [claim] } }).to_string();
    let exchange = scenario.namespace.reports_exchange();
    let publishing = channel.basic_publish(
        exchange.as_str().into(),
        "started.red.agent-2".into(),
        BasicPublishOptions::default(),
        late.as_bytes(),
        BasicProperties::default(),
    );
    ours.request(publishing).await?;
    red.kill()?;

    // A grant and a new account let the pool in again.
    let grant = scenario.dispatcher("command").run(&[
        "pools",
        "grant",
        "red",
        "--by",
        "ada",
        "--why",
        "new credentials",
    ])?;
    assert!(grant.status.success(), "{}", String::from_utf8_lossy(&grant.stderr));
    let anew =
        Accounts::make(services.admin.clone(), &services.amqp_url, &scenario.namespace, &roles[2..]).await?;
    let again = scenario.agent("agent-2").pool("red").env("SWITCHYARD_AMQP_URL", anew.url(&roles[2]));
    let _again = again.start().await?;
    until_running(&scenario, "t-red").await?;
    assert_eq!(scenario.attempts("t-red").await?.len(), 2);
    Ok(())
}

async fn until_running(scenario: &Scenario, task: &str) -> anyhow::Result<()> {
    scenario
        .until_task(task, "to run", CLOSED_WITHIN * 2, |task| task.status == Status::Running)
        .await
        .map(drop)
}
