//! A whole Switchyard over TLS: a dispatcher and an agent as processes, configured as an operator would.

use serde_json::json;
use switchyard_common::task::Status;
use switchyard_common::tls::TlsFiles;
use switchyard_tests::harness::certificates::Validity;
use switchyard_tests::harness::scenario::Scenario;
use switchyard_tests::harness::scenario::launch::Launch;
use switchyard_tests::harness::secured::{SERVER_NAME, secured};

use crate::INSTANCE;

fn with_files<'a>(launch: Launch<'a>, files: &TlsFiles) -> Launch<'a> {
    let named = [("CA", &files.ca), ("CERT", &files.cert), ("KEY", &files.key)];
    named.into_iter().fold(launch, |launch, (what, path)| match path {
        Some(path) => launch.env(&format!("{}_{what}_FILE", files.prefix), path.as_os_str()),
        None => launch,
    })
}

#[tokio::test]
async fn work_flows_when_the_broker_and_the_database_are_reached_over_tls_alone() -> anyhow::Result<()> {
    let services = secured(INSTANCE).await?;
    let scenario = Scenario::at("tls_whole", &services.amqp_url, &services.database_url).await?;
    let client = services.authority.issue(&["switchyard"], Validity::Now)?;
    let broker = services.files("SWITCHYARD_AMQP", "whole-broker", Some(&client))?;
    let database = services.files("SWITCHYARD_DATABASE", "whole-database", Some(&client))?;
    let dispatcher = with_files(with_files(scenario.dispatcher("dispatcher-1"), &broker), &database)
        .env("SWITCHYARD_AMQP_URL", &services.amqps_url)
        .env("SWITCHYARD_DATABASE_URL", scenario.database.url.replace("127.0.0.1", SERVER_NAME));
    let _dispatcher = dispatcher.start().await?;
    let agent =
        with_files(scenario.agent("agent-1"), &broker).env("SWITCHYARD_AMQP_URL", &services.amqps_url);
    let _agent = agent.start().await?;
    let mut upstream = scenario.upstream().await?;
    upstream.register("shop").await?;
    upstream.submit("t-1", "shop", "once", json!({ "do": "succeed" })).await?;
    scenario.until_status("t-1", Status::Succeeded).await?;
    let unencrypted = "SELECT count(*) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) \
        WHERE a.datname = current_database() AND a.application_name = 'switchyard-dispatcher' AND NOT s.ssl \
        AND a.client_port IS NOT NULL AND a.pid <> pg_backend_pid()";
    // The test's own store is such a client without TLS, and the only one.
    let others = scenario.count(unencrypted).await?;
    let with_tls = scenario.count(&unencrypted.replace("NOT s.ssl", "s.ssl")).await?;
    assert!(with_tls > 0 && others < 8, "{with_tls} with TLS, {others} without");
    Ok(())
}
