//! Secrets are planted, work succeeds and fails, commands go wrong; then everything that was written is searched for them: the logs of all
//! processes, every table, the notifications, the metrics, and what commands print.
#![expect(
    clippy::expect_used,
    reason = "all of this is tests; clippy exempts only the test functions themselves"
)]

use std::path::Path;

use lapin::options::{BasicGetOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use serde_json::json;
use switchyard_common::contract::access::Role;
use switchyard_common::contract::ids::PoolId;
use switchyard_common::task::Status;
use switchyard_tests::harness::accounts::{Accounts, local_ctl};
use switchyard_tests::harness::scenario::Scenario;
use switchyard_tests::harness::scenario::process::Process;

/// A secret that the handler may see, and says aloud.
const MASKED: &str = "canary-masked-5b1d0c";
/// A secret of the agent's environment that the handler may not see.
const HIDDEN: &str = "canary-hidden-77aa90";
/// A password of a command that cannot log in.
const WRONG: &str = "canary-wrong-c3e1f2";
/// A field of a payload whose name says what it is.
const PAYLOAD_SECRET: &str = "the field of the payload";
const PAYLOAD: &str = "canary-payload-e0b7d4";
/// A token of the HTTP API.
const TOKEN: &str = "canary-token-0123456789";

const HANDLERS: &str = r#"
[handlers.test]
command = ["/bin/sh", "-c", "echo said $CANARY; echo wrong $CANARY >&2; echo hidden $SWITCHYARD_HIDDEN $HIDDEN; env; exit ${CODE:-3}"]
env_pass = ["CANARY", "PATH"]
mask = ["CANARY"]
[handlers.plan]
command = ["/bin/sh", "-c", "echo said $CANARY; env"]
env_pass = ["CANARY", "PATH"]
mask = ["CANARY"]
"#;

/// What was written where.
struct Written {
    place: String,
    text: String,
}

fn password(url: &str) -> String {
    let rest = url.split_once("://").expect("a URL").1;
    let userinfo = rest.split_once('@').expect("an account").0;
    userinfo.split_once(':').expect("a password").1.to_owned()
}

/// Every file of the scenario but the configuration.
fn files(folder: &Path, found: &mut Vec<Written>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, found)?;
        } else if path.extension().is_none_or(|extension| extension != "toml") {
            let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
            found.push(Written { place: path.display().to_string(), text });
        }
    }
    Ok(())
}

/// Every row of every table. A lease token is kept where it is compared, and nowhere else.
async fn tables(scenario: &Scenario, found: &mut Vec<Written>) -> anyhow::Result<()> {
    let connection = scenario.database.db.connection().await?;
    let names = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1";
    for row in connection.query(names, &[]).await? {
        let table: String = row.get(0);
        let kept = if matches!(table.as_str(), "tasks" | "attempts") { " - 'lease_token'" } else { "" };
        let sql =
            format!("SELECT coalesce(string_agg((to_jsonb(t){kept})::text, E'\\n'), '') FROM {table} t");
        let text = connection.query_one(&sql, &[]).await?.get(0);
        found.push(Written { place: format!("table {table}"), text });
    }
    Ok(())
}

async fn http(dispatcher: &Process, found: &mut Vec<Written>) -> anyhow::Result<()> {
    for path in ["/metrics", "/readyz", "/livez", "/api/v1/tasks/t-fails/artifacts"] {
        found.push(Written { place: path.to_owned(), text: dispatcher.get(path).await?.body });
    }
    Ok(())
}

#[tokio::test]
async fn no_planted_secret_is_found_in_anything_that_is_written() -> anyhow::Result<()> {
    let scenario = Scenario::new("canaries").await?;
    let roles = [Role::Dispatcher, Role::Upstream, Role::Pool(PoolId::new("default")?)];
    let accounts = Accounts::make(local_ctl(), &scenario.amqp_url, &scenario.namespace, &roles).await?;
    let tokens = scenario.write("tokens", &format!("operator ada {TOKEN}\n"))?;
    let dispatcher = scenario
        .dispatcher("dispatcher-1")
        .env("SWITCHYARD_AMQP_URL", accounts.url(&roles[0]))
        .env("SWITCHYARD_HTTP_TOKENS_FILE", &tokens)
        .env("RUST_LOG", "debug");
    let dispatcher = dispatcher.start().await?;
    let admin = scenario.session("notifications").await?;
    let channel = admin.channel().await?;
    let queue = format!("{}.canaries", scenario.namespace);
    channel
        .queue_declare(queue.as_str().into(), QueueDeclareOptions::default(), FieldTable::default())
        .await?;
    let exchange = scenario.namespace.notifications_exchange();
    let (options, none) = (QueueBindOptions::default(), FieldTable::default());
    channel.queue_bind(queue.as_str().into(), exchange.as_str().into(), "#".into(), options, none).await?;
    let agent =
        scenario.agent("agent-1").config(HANDLERS).env("SWITCHYARD_AMQP_URL", accounts.url(&roles[2]));
    let mut agent =
        agent.env("CANARY", MASKED).env("HIDDEN", HIDDEN).env("RUST_LOG", "debug").start().await?;
    let mut upstream = scenario.upstream().await?;
    upstream.submit("t-fails", "shop", "once", json!({ "db_password": PAYLOAD })).await?;
    scenario.until_status("t-fails", Status::Failed).await?;
    let letter = scenario.until_letter_of("t-fails").await?;
    upstream.submit("t-works", "shop", "plan", json!({})).await?;
    scenario.until_status("t-works", Status::Succeeded).await?;
    agent.stop().await?;

    let mut found = Vec::new();
    let number = letter.letter_id.to_string();
    let commands: [&[&str]; 6] = [
        &["tasks", "show", "t-fails"],
        &["tasks", "list", "--json"],
        &["tasks", "why", "t-works"],
        &["dead-letters", "show", &number],
        &["dead-letters", "list", "--json"],
        &["audit"],
    ];
    let mut run = |name: &str,
                   launch: switchyard_tests::harness::scenario::launch::Launch<'_>,
                   arguments: &[&str]|
     -> anyhow::Result<bool> {
        let output = launch.run(arguments)?;
        let text = [&output.stdout[..], &output.stderr[..]].concat();
        found.push(Written {
            place: format!("{name} {arguments:?}"),
            text: String::from_utf8_lossy(&text).into_owned(),
        });
        Ok(output.status.success())
    };
    for command in commands {
        run("dispatcher", scenario.dispatcher("command"), command)?;
    }
    // What cannot log in, and what is not even a URL.
    let wrong_database = scenario.database.url.replace(&password(&scenario.database.url), WRONG);
    let wrong_broker = scenario.amqp_url.replace(&password(&scenario.amqp_url), WRONG);
    for (variable, value) in [
        ("SWITCHYARD_DATABASE_URL", wrong_database),
        ("SWITCHYARD_DATABASE_URL", format!("postgres//u:{WRONG}@nowhere")),
        ("SWITCHYARD_AMQP_URL", wrong_broker),
        ("SWITCHYARD_AMQP_URL", format!("http://u:{WRONG}@nowhere")),
    ] {
        let launch = scenario.dispatcher("command").env(variable, value).env("RUST_LOG", "debug");
        let command: &[&str] = if variable.contains("DATABASE") {
            &["tasks", "list"]
        } else {
            &["publish", "workspace", "w", "--pool", "p"]
        };
        assert!(!run("wrong", launch, command)?, "{variable}");
    }

    http(&dispatcher, &mut found).await?;
    files(&scenario.folder, &mut found)?;
    found.retain(|written| !written.place.ends_with("/tokens"));
    tables(&scenario, &mut found).await?;
    while let Some(got) = channel.basic_get(queue.as_str().into(), BasicGetOptions { no_ack: true }).await? {
        let text = String::from_utf8_lossy(&got.delivery.data).into_owned();
        found.push(Written { place: "a notification".to_owned(), text });
    }
    channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await?;
    search(&scenario, &accounts, &roles, &found).await
}

/// Looks for every secret in everything, and that what was searched is what was meant to be.
async fn search(
    scenario: &Scenario,
    accounts: &Accounts,
    roles: &[Role],
    found: &[Written],
) -> anyhow::Result<()> {
    let mut secrets: Vec<(String, String)> = vec![
        ("the masked value".into(), MASKED.into()),
        ("the hidden variable".into(), HIDDEN.into()),
        ("the wrong password".into(), WRONG.into()),
        ("the HTTP token".into(), TOKEN.into()),
        (PAYLOAD_SECRET.into(), PAYLOAD.into()),
        ("the database password".into(), password(&scenario.database.url)),
        ("the administrator's broker password".into(), password(&scenario.amqp_url)),
    ];
    secrets.extend(
        roles.iter().map(|role| (format!("the broker password of {role}"), password(accounts.url(role)))),
    );
    let leases = "SELECT lease_token::text FROM attempts";
    let connection = scenario.database.db.connection().await?;
    let leases = connection.query(leases, &[]).await?;
    assert!(leases.len() >= 2, "attempts with leases");
    secrets.extend(leases.iter().map(|row| ("a lease token".to_owned(), row.get(0))));

    let has = |place: &str, text: &str| {
        found.iter().any(|one| one.place.contains(place) && one.text.contains(text))
    };
    assert!(has("table logs", "said ***"), "the handler's words are stored, masked");
    assert!(has("agent-1.log", "{") && has("dispatcher-1.log", "dead letter"), "the logs are there");
    assert!(
        has("a notification", "t-fails") && has("/metrics", "switchyard_"),
        "notifications and metrics are there"
    );
    let mut leaks = Vec::new();
    for one in found {
        for (what, secret) in &secrets {
            // The payload is kept whole for its replay, and the task's own is shown to whoever asks for the task.
            let kept = one.place.starts_with("table ") || one.place.contains("\"tasks\", \"show\"");
            if *what == PAYLOAD_SECRET && kept {
                continue;
            }
            // A lease without its dashes would be one too.
            if one.text.contains(secret.as_str()) || one.text.contains(&secret.replace('-', "")) {
                leaks.push(format!("{what} is in {}", one.place));
            }
        }
    }
    assert!(leaks.is_empty(), "{}", leaks.join("\n"));
    Ok(())
}
