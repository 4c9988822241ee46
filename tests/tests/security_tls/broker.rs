//! The broker.

use switchyard_common::broker::{BrokerConfig, Session};
use switchyard_common::config::Secret;
use switchyard_common::tls::TlsFiles;
use switchyard_tests::harness::certificates::{Authority, Validity, write};
use switchyard_tests::harness::secured::{SERVER_NAME, Secured, secured};

use crate::INSTANCE;
use crate::impostor::{Greeting, impostor};

async fn opened(url: &str, tls: TlsFiles) -> Result<Session, String> {
    let config = BrokerConfig { tls, ..BrokerConfig::new(Secret::new(url), "tls tests") };
    Session::open(&config, "test").await.map_err(|error| error.to_string())
}

async fn refused(url: &str, tls: TlsFiles) -> String {
    opened(url, tls).await.expect_err("this connection must be refused")
}

fn good(services: &Secured, name: &str) -> anyhow::Result<TlsFiles> {
    let client = services.authority.issue(&["client"], Validity::Now)?;
    services.files("SWITCHYARD_AMQP", name, Some(&client))
}

#[tokio::test]
async fn a_client_with_a_certificate_of_the_ca_gets_in_and_can_work() -> anyhow::Result<()> {
    let services = secured(INSTANCE).await?;
    let session = opened(&services.amqps_url, good(services, "broker-good")?).await.unwrap();
    session.channel().await?;
    session.close().await;
    Ok(())
}

#[tokio::test]
async fn a_renewed_client_certificate_is_used_from_the_next_connection_on() -> anyhow::Result<()> {
    let services = secured(INSTANCE).await?;
    let over = services.authority.issue(&["client"], Validity::Over)?;
    let files = services.files("SWITCHYARD_AMQP", "broker-renewed", Some(&over))?;
    let error = refused(&services.amqps_url, files.clone()).await;
    assert!(error.contains("SWITCHYARD_AMQP_CERT_FILE"), "{error}");
    let renewed = services.authority.issue(&["client"], Validity::Now)?;
    services.files("SWITCHYARD_AMQP", "broker-renewed", Some(&renewed))?;
    opened(&services.amqps_url, files).await.unwrap();
    Ok(())
}

#[tokio::test]
async fn a_broker_under_a_name_that_its_certificate_is_not_for_is_refused() -> anyhow::Result<()> {
    let services = secured(INSTANCE).await?;
    let by_address = services.amqps_url.replace(SERVER_NAME, "127.0.0.1");
    let error = refused(&by_address, good(services, "broker-name")?).await;
    assert!(error.contains("another name") && error.contains("issue it for 127.0.0.1"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_broker_of_another_ca_is_refused() -> anyhow::Result<()> {
    let services = secured(INSTANCE).await?;
    let other = Authority::new("another CA")?;
    let mut files = good(services, "broker-ca")?;
    files.ca = Some(write(&services.folder, "broker-other-ca.pem", &other.pem)?);
    let error = refused(&services.amqps_url, files).await;
    assert!(error.contains("not issued by a CA in") && error.contains("SWITCHYARD_AMQP_CA_FILE"), "{error}");
    // Nor does the machine's own list know the CA.
    let error =
        refused(&services.amqps_url, TlsFiles { prefix: "SWITCHYARD_AMQP".into(), ..TlsFiles::default() })
            .await;
    assert!(error.contains("SWITCHYARD_AMQP_CA_FILE"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_client_without_a_certificate_or_with_one_of_another_ca_is_told_what_to_do() -> anyhow::Result<()> {
    let services = secured(INSTANCE).await?;
    let none = services.files("SWITCHYARD_AMQP", "broker-none", None)?;
    let error = refused(&services.amqps_url, none).await;
    assert!(error.contains("SWITCHYARD_AMQP_CERT_FILE and SWITCHYARD_AMQP_KEY_FILE"), "{error}");
    let other = Authority::new("another CA")?.issue(&["client"], Validity::Now)?;
    let files = services.files("SWITCHYARD_AMQP", "broker-stranger", Some(&other))?;
    let error = refused(&services.amqps_url, files).await;
    assert!(error.contains("SWITCHYARD_AMQP_CERT_FILE"), "{error}");
    Ok(())
}

#[tokio::test]
async fn an_expired_certificate_of_the_broker_is_refused() -> anyhow::Result<()> {
    let services = secured(INSTANCE).await?;
    let over = services.authority.issue(&[SERVER_NAME], Validity::Over)?;
    let port = impostor(&over, Greeting::None).await?;
    let error =
        refused(&format!("amqps://u:p@{SERVER_NAME}:{port}/v"), good(services, "broker-expired")?).await;
    assert!(error.contains("has expired") && error.contains("renew it on the server"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_port_without_tls_is_said_to_be_one() -> anyhow::Result<()> {
    let services = secured(INSTANCE).await?;
    let plain = services.amqp_url.replace("amqp://", "amqps://").replace("127.0.0.1", SERVER_NAME);
    let error = refused(&plain, good(services, "broker-plain")?).await;
    assert!(error.contains("does not speak TLS"), "{error}");
    Ok(())
}
