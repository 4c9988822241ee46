//! Passwords and tokens never appear in what a process says when it cannot start, however much it is told to log: a canary is planted in
//! every secret, and everything that was said is searched for it.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use switchyard_tests::harness::scenario::{Launch, Process, Scenario, http};
use switchyard_tests::harness::wait::{Look, until};

const CANARY: &str = "c4n4ry-in-a-c0al-mine";
const WITHIN: Duration = Duration::from_secs(60);

/// The canary in base64, in the three places that it can have in it, without the ends that depend on its neighbours: as a SASL response
/// or a header would carry it.
const CANARY_IN_BASE64: [&str; 3] =
    ["YzRuNHJ5LWluLWEtYzBhbC1t", "bjRyeS1pbi1hLWMwYWwt", "NG40cnktaW4tYS1jMGFs"];

fn search(what: &str, said: &str) -> anyhow::Result<()> {
    for form in [CANARY].iter().chain(&CANARY_IN_BASE64) {
        let line = said.lines().find(|line| line.contains(form));
        ensure!(line.is_none(), "{what} says the secret: {}", line.unwrap_or_default());
    }
    Ok(())
}

/// Waits until a process has said `expected`, lets it end, and searches all that it said.
async fn said(mut process: Process, what: &str, expected: &str) -> anyhow::Result<()> {
    let path = process.log().path().to_owned();
    until(format!("{what} to say {expected:?}"), WITHIN, async || {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let there = text.contains(expected);
        ensure!(
            there || process.ended()?.is_none(),
            "{what} ended without saying {expected:?}: {}",
            process.log().tail()
        );
        Ok(Look::holds(there, || process.log().tail()))
    })
    .await?;
    process.kill()?;
    search(what, &fs::read_to_string(&path)?)
}

/// `url` with another password.
fn with_password(url: &str, password: &str) -> anyhow::Result<String> {
    let (scheme, rest) = url.split_once("://").context("a URL")?;
    let (userinfo, place) = rest.rsplit_once('@').context("a URL with a password")?;
    let user = userinfo.split(':').next().context("a user")?;
    Ok(format!("{scheme}://{user}:{password}@{place}"))
}

/// Broker addresses that cannot work, with what a process must say of each.
fn brokers(scenario: &Scenario) -> anyhow::Result<Vec<(&'static str, String, &'static str)>> {
    let (nobody, url) = (http::free_port()?, &scenario.amqp_url);
    Ok(vec![
        ("a wrong host", format!("amqp://user:{CANARY}@no-such-host.invalid/v"), "broker connection is"),
        ("a wrong port", format!("amqp://user:{CANARY}@127.0.0.1:{nobody}/v"), "Connection refused"),
        ("a wrong password", with_password(url, CANARY)?, "ACCESS"),
        ("a URL that is none", format!("amqp:/user:{CANARY}@127.0.0.1/v"), "is not a broker URL"),
        (
            "a port that is none",
            format!("amqp://user:{CANARY}@127.0.0.1:port/v"),
            "amqp://user:***@127.0.0.1:port/v",
        ),
        ("another scheme", format!("https://user:{CANARY}@127.0.0.1/v"), "https://user:***@127.0.0.1/v"),
    ])
}

/// Everything that there is to say.
fn loud<'a>(launch: Launch<'a>) -> Launch<'a> {
    launch.env("RUST_LOG", "trace").env("SWITCHYARD_HTTP_TOKEN", CANARY)
}

#[tokio::test]
async fn a_broker_that_cannot_be_reached_makes_nobody_say_its_password() -> anyhow::Result<()> {
    let scenario = Scenario::new("secrets_broker").await?;
    for (n, (what, url, expected)) in brokers(&scenario)?.into_iter().enumerate() {
        let dispatcher =
            loud(scenario.dispatcher(&format!("dispatcher-{n}"))).env("SWITCHYARD_AMQP_URL", &url);
        said(dispatcher.spawn()?, &format!("dispatcher, {what}"), expected).await?;
        let agent = loud(scenario.agent(&format!("agent-{n}"))).env("SWITCHYARD_AMQP_URL", &url);
        said(agent.spawn()?, &format!("agent, {what}"), expected).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_connection_that_works_is_not_told_with_its_password_either() -> anyhow::Result<()> {
    let scenario = Scenario::new("secrets_working").await?;
    let dispatcher = scenario.dispatcher("dispatcher-1").env("RUST_LOG", "trace").start().await?;
    let agent = scenario.agent("agent-1").env("RUST_LOG", "trace").start().await?;
    let password = |url: &str| -> anyhow::Result<String> {
        let userinfo = url.rsplit_once('@').and_then(|(head, _)| head.split_once("://")).context("a URL")?.1;
        Ok(userinfo.split_once(':').context("a password")?.1.to_owned())
    };
    for secret in [password(&scenario.amqp_url)?, password(&scenario.database.url)?] {
        ensure!(secret.len() > 8, "the local services have generated passwords");
        for process in [&dispatcher, &agent] {
            let said = fs::read_to_string(process.log().path())?;
            let line = said.lines().find(|line| line.contains(&secret));
            let shown: Option<String> =
                line.map(|line| line.replace(&secret, "<the password>").chars().take(300).collect());
            assert_eq!(shown, None, "{}", process.name());
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_database_that_cannot_be_reached_makes_nobody_say_its_password() -> anyhow::Result<()> {
    let scenario = Scenario::new("secrets_database").await?;
    let nobody = http::free_port()?;
    let wrong = [
        ("a wrong host", format!("postgres://user:{CANARY}@no-such-host.invalid/d")),
        ("a wrong port", format!("postgres://user:{CANARY}@127.0.0.1:{nobody}/d")),
        ("a wrong password", with_password(&scenario.database.url, CANARY)?),
        ("a URL that is none", format!("postgres:/user:{CANARY}@127.0.0.1/d")),
        (
            "an option that is none",
            format!("postgres://user:{CANARY}@127.0.0.1/d?nonsense=1&password={CANARY}"),
        ),
    ];
    for (what, url) in wrong {
        for command in [&["tasks", "list"][..], &["migrate"], &["serve"]] {
            if command == ["serve"] && what != "a URL that is none" && what != "an option that is none" {
                continue;
            }
            let launch = loud(scenario.dispatcher("command")).env("SWITCHYARD_DATABASE_URL", &url);
            let output = launch.run(command)?;
            ensure!(!output.status.success(), "{what}: {command:?} succeeded");
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(!told.trim().is_empty(), "{what}: {command:?} says nothing");
            search(
                &format!("{command:?}, {what}"),
                &format!("{told}\n{}", String::from_utf8_lossy(&output.stdout)),
            )?;
        }
        let name = format!("serving-{}", what.replace(' ', "-"));
        let serving = loud(scenario.dispatcher(&name)).env("SWITCHYARD_DATABASE_URL", &url).spawn()?;
        said(serving, &format!("dispatcher, {what}"), "database").await?;
    }
    Ok(())
}

#[tokio::test]
async fn secrets_in_files_and_certificates_that_cannot_be_used_are_not_told() -> anyhow::Result<()> {
    let scenario = Scenario::new("secrets_files").await?;
    let url = format!("amqps://user:{CANARY}@127.0.0.1:{}/v", http::free_port()?);
    let pem = scenario
        .write("key.pem", &format!("-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----\n"))?;
    let not_text = scenario.folder.join("not-text");
    fs::write(&not_text, [CANARY.as_bytes(), &[0xff]].concat())?;
    let both = scenario.write("both", CANARY)?;
    for (n, (what, variable, path)) in [
        ("a key that is none", "SWITCHYARD_AMQP_KEY_FILE", pem.clone()),
        ("a certificate that is none", "SWITCHYARD_AMQP_CA_FILE", pem),
        ("a secret that is not text", "SWITCHYARD_AMQP_URL_FILE", not_text),
        ("a secret in two places", "SWITCHYARD_AMQP_URL_FILE", both),
    ]
    .into_iter()
    .enumerate()
    {
        for launch in [scenario.dispatcher(&format!("dispatcher-{n}")), scenario.agent(&format!("agent-{n}"))]
        {
            let launch = loud(launch).env("SWITCHYARD_AMQP_URL", &url).env(variable, &path);
            let launch = if what == "a secret that is not text" {
                launch.without_env("SWITCHYARD_AMQP_URL")
            } else {
                launch
            };
            said(launch.spawn()?, what, variable).await?;
        }
    }
    Ok(())
}
