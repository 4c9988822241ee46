//! Spans and panics leave the real processes for real HTTP endpoints, and take no secret with them.

#![expect(
    clippy::expect_used,
    reason = "all of this is tests; clippy exempts only the test functions themselves"
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use switchyard_common::broker::Properties;
use switchyard_common::broker::headers::HeaderValue;
use switchyard_common::contract::cloudevent::STRUCTURED_CONTENT_TYPE;
use switchyard_common::contract::event::EventType;
use switchyard_common::guard::{GuardedTask, spawn_guarded};
use switchyard_common::task::Status;
use switchyard_tests::harness::scenario::upstream::{event, submission};
use switchyard_tests::harness::scenario::{Scenario, http};
use switchyard_tests::harness::seed::Seed;
use switchyard_tests::harness::wait::{Look, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const WITHIN: Duration = Duration::from_secs(60);
const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// One request: its head as text, its body as bytes.
#[derive(Debug, Clone)]
struct Received {
    head: String,
    body: Vec<u8>,
}

impl Received {
    fn has(&self, wanted: &[u8]) -> bool {
        self.body.windows(wanted.len()).any(|window| window == wanted)
    }
}

/// Takes every POST and answers 200.
struct Receiver {
    port: u16,
    received: Arc<Mutex<Vec<Received>>>,
    _serving: GuardedTask<()>,
}

impl Receiver {
    async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let received = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&received);
        let serving = spawn_guarded("receiver", async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(request) = take(stream).await {
                    kept.lock().expect("the list").push(request);
                }
            }
        });
        Ok(Self { port, received, _serving: serving })
    }

    fn all(&self) -> Vec<Received> {
        self.received.lock().expect("the list").clone()
    }

    async fn until_has(&self, wanted: &[u8]) -> anyhow::Result<Received> {
        until(format!("a request with {}", String::from_utf8_lossy(wanted)), WITHIN, async || {
            let found = self.all().into_iter().find(|request| request.has(wanted));
            Ok(Look::of(found, || format!("{} requests", self.all().len())))
        })
        .await
    }
}

async fn take(mut stream: TcpStream) -> anyhow::Result<Received> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        anyhow::ensure!(stream.read_buf(&mut bytes).await? > 0, "it breaks off");
    };
    let head = String::from_utf8(bytes[..end].to_vec())?;
    let lower = head.to_ascii_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")).context("a length")?;
    let length: usize = length.trim().parse()?;
    while bytes.len() < end + 4 + length {
        anyhow::ensure!(stream.read_buf(&mut bytes).await? > 0, "it breaks off");
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await?;
    Ok(Received { head, body: bytes[end + 4..].to_vec() })
}

/// Passwords of the services, and every lease token: nothing of it may leave.
async fn secrets(scenario: &Scenario) -> anyhow::Result<Vec<String>> {
    let password = |url: &str| -> anyhow::Result<String> {
        let userinfo = url.rsplit_once('@').and_then(|(head, _)| head.split_once("://")).context("a URL")?.1;
        Ok(userinfo.split_once(':').context("a password")?.1.to_owned())
    };
    let leases: String = Seed::new(&scenario.database.db)
        .value("SELECT coalesce(string_agg(lease_token::text, ' '), '') FROM attempts", &[])
        .await;
    let mut secrets = vec![password(&scenario.amqp_url)?, password(&scenario.database.url)?];
    secrets.extend(leases.split_whitespace().map(ToOwned::to_owned));
    Ok(secrets)
}

async fn holds_no_secret(scenario: &Scenario, receiver: &Receiver) -> anyhow::Result<()> {
    for secret in secrets(scenario).await? {
        let leak = receiver.all().into_iter().find(|request| request.has(secret.as_bytes()));
        assert!(
            leak.is_none(),
            "a secret has left with {}",
            leak.map(|request| request.head).unwrap_or_default()
        );
    }
    Ok(())
}

#[tokio::test]
async fn spans_of_dispatcher_and_agent_reach_a_collector_under_the_trace_of_the_event() -> anyhow::Result<()>
{
    let collector = Receiver::start().await?;
    let endpoint = format!("http://127.0.0.1:{}", collector.port);
    let scenario = Scenario::new("export_spans").await?;
    let variable = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let mut dispatcher = scenario.dispatcher("dispatcher-1").env(variable, &endpoint).start().await?;
    let mut agent = scenario.agent("agent-1").env(variable, &endpoint).start().await?;
    let mut upstream = scenario.upstream().await?;
    upstream.register("shop").await?;
    let mut properties = Properties::persistent(STRUCTURED_CONTENT_TYPE);
    let traceparent = format!("00-{TRACE_ID}-00f067aa0ba902b7-01");
    properties.headers.insert("traceparent".to_owned(), HeaderValue::Text(traceparent));
    let submitted = event(EventType::TaskSubmitted, submission("t-1", "shop", "once", json!({})));
    upstream.request(&submitted.event_type, properties, serde_json::to_vec(&submitted)?).await?;
    scenario.until_status("t-1", Status::Succeeded).await?;
    // The handler passes its own span on, in the same trace.
    let result = scenario.attempts("t-1").await?[0].result.clone().context("a result")?;
    let passed_on = result["traceparent"].as_str().context("a trace")?.to_owned();
    assert!(passed_on.contains(TRACE_ID) && !passed_on.contains("00f067aa0ba902b7"), "{passed_on}");

    // At their end both send what they still have.
    assert!(agent.stop().await?.success());
    assert!(dispatcher.stop().await?.success());
    for (name, service) in
        [("switchyard.event", "switchyard-dispatcher"), ("switchyard.attempt", "switchyard-worker-agent")]
    {
        let request = collector.until_has(name.as_bytes()).await?;
        assert!(request.head.starts_with("POST /v1/traces HTTP/1.1"), "{}", request.head);
        assert!(request.has(service.as_bytes()), "{name} is not of {service}");
        assert!(request.has(&hex::decode(TRACE_ID)?), "{name} is not in the trace of the event");
    }
    holds_no_secret(&scenario, &collector).await
}

#[tokio::test]
async fn a_panic_reaches_sentry_with_what_explains_it_and_without_secrets() -> anyhow::Result<()> {
    let sentry = Receiver::start().await?;
    let dsn = format!("http://public@127.0.0.1:{}/42", sentry.port);
    let scenario = Scenario::new("export_panics").await?;
    let _dispatcher = scenario.dispatcher("dispatcher-1").start().await?;
    let _agent = scenario.agent("agent-1").env("SENTRY_DSN", &dsn).start().await?;
    let mut upstream = scenario.upstream().await?;
    upstream.register("shop").await?;
    let message = format!("index out of range while reading {}", scenario.amqp_url);
    upstream.submit("t-1", "shop", "once", json!({ "do": "panic", "message": message })).await?;
    scenario.until_status("t-1", Status::Failed).await?;

    let envelope = sentry.until_has(b"index out of range").await?;
    assert!(envelope.head.starts_with("POST /api/42/envelope/ HTTP/1.1"), "{}", envelope.head);
    assert!(envelope.head.to_ascii_lowercase().contains("x-sentry-auth: sentry"), "{}", envelope.head);
    for wanted in ["\"panic\"", "t-1", "test_handler.rs", "switchyard-worker-agent", "backtrace"] {
        assert!(
            envelope.has(wanted.as_bytes()),
            "{wanted} is not in {}",
            String::from_utf8_lossy(&envelope.body)
        );
    }
    holds_no_secret(&scenario, &sentry).await
}

#[tokio::test]
async fn an_endpoint_that_is_away_disturbs_nothing_and_one_that_is_none_ends_the_process()
-> anyhow::Result<()> {
    let scenario = Scenario::new("export_away").await?;
    let nobody = http::free_port()?;
    let (endpoint, dsn) =
        (format!("http://127.0.0.1:{nobody}"), format!("http://public@127.0.0.1:{nobody}/42"));
    let mut dispatcher = scenario
        .dispatcher("dispatcher-1")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
        .env("SENTRY_DSN", &dsn)
        .start()
        .await?;
    let mut agent = scenario
        .agent("agent-1")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
        .env("SENTRY_DSN", &dsn)
        .start()
        .await?;
    let mut upstream = scenario.upstream().await?;
    upstream.register("shop").await?;
    upstream.submit("fails", "shop", "once", json!({ "do": "panic" })).await?;
    upstream.submit("works", "shop", "once", json!({})).await?;
    scenario.until_status("fails", Status::Failed).await?;
    scenario.until_status("works", Status::Succeeded).await?;
    assert!(agent.stop().await?.success() && dispatcher.stop().await?.success());

    for (variable, value) in
        [("OTEL_EXPORTER_OTLP_ENDPOINT", "s3cret@nowhere"), ("SENTRY_DSN", "s3cret@nowhere")]
    {
        let mut wrong = scenario.agent("agent-2").env(variable, value).spawn()?;
        assert!(!wrong.until_ended(WITHIN).await?.success());
        let said = wrong.log().tail();
        assert!(said.contains(variable) && !said.contains("s3cret"), "{said}");
    }
    Ok(())
}
