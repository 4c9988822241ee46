//! The database.

use switchyard_common::tls::TlsFiles;
use switchyard_dispatcher::store::{Db, DbConfig, Plans};
use switchyard_tests::harness::certificates::{Authority, Validity, write};
use switchyard_tests::harness::secured::{SERVER_NAME, Secured, secured};
use uuid::Uuid;

use crate::INSTANCE;
use crate::impostor::{Greeting, impostor};

fn db(url: &str, tls: TlsFiles) -> Db {
    Db::new(&DbConfig {
        url: url.to_owned(),
        tls,
        connections_max: 1,
        replica: Uuid::new_v4(),
        plans: Plans::Free,
        notifies: true,
    })
    .unwrap()
}

async fn refused(url: &str, tls: TlsFiles) -> String {
    let refused = db(url, tls).connection().await.map(drop);
    refused.expect_err("this connection must be refused").to_string()
}

fn good(services: &Secured, name: &str) -> anyhow::Result<TlsFiles> {
    let client = services.authority.issue(&["client"], Validity::Now)?;
    services.files("SWITCHYARD_DATABASE", name, Some(&client))
}

fn by_name(services: &Secured) -> String {
    services.database_url.replace("127.0.0.1", SERVER_NAME)
}

#[tokio::test]
async fn a_client_with_a_certificate_of_the_ca_speaks_tls_with_the_database() -> anyhow::Result<()> {
    let services = secured(INSTANCE).await?;
    for url in [by_name(services), format!("{}?sslmode=verify-full", by_name(services))] {
        let connection = db(&url, good(services, "database-good")?).connection().await?;
        let sql = "SELECT ssl, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let row = connection.query_one(sql, &[]).await?;
        assert!(row.get::<_, bool>("ssl"));
        assert_eq!(row.get::<_, &str>("client_dn"), "/CN=client");
    }
    Ok(())
}

#[tokio::test]
async fn a_database_under_another_name_or_of_another_ca_is_refused() -> anyhow::Result<()> {
    let services = secured(INSTANCE).await?;
    let error = refused(&services.database_url, good(services, "database-name")?).await;
    assert!(error.contains("another name") && error.contains("127.0.0.1"), "{error}");
    let mut files = good(services, "database-ca")?;
    files.ca = Some(write(&services.folder, "database-other-ca.pem", &Authority::new("another CA")?.pem)?);
    let error = refused(&by_name(services), files).await;
    assert!(error.contains("not issued by") && error.contains("SWITCHYARD_DATABASE_CA_FILE"), "{error}");
    let machine = TlsFiles { prefix: "SWITCHYARD_DATABASE".into(), ..TlsFiles::default() };
    let error = refused(&format!("{}?sslmode=require", by_name(services)), machine).await;
    assert!(error.contains("SWITCHYARD_DATABASE_CA_FILE"), "{error}");
    Ok(())
}

#[tokio::test]
async fn an_expired_certificate_of_the_database_is_refused() -> anyhow::Result<()> {
    let services = secured(INSTANCE).await?;
    let over = services.authority.issue(&[SERVER_NAME], Validity::Over)?;
    let port = impostor(&over, Greeting::Postgres).await?;
    let url = format!("postgres://u:hunter2@{SERVER_NAME}:{port}/d");
    let error = refused(&url, good(services, "database-expired")?).await;
    assert!(error.contains("has expired") && !error.contains("hunter2"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused_by_the_database() -> anyhow::Result<()> {
    let services = secured(INSTANCE).await?;
    let none = services.files("SWITCHYARD_DATABASE", "database-none", None)?;
    let error = refused(&by_name(services), none).await;
    assert!(error.contains("client certificate"), "{error}");
    let other = Authority::new("another CA")?.issue(&["client"], Validity::Now)?;
    let files = services.files("SWITCHYARD_DATABASE", "database-stranger", Some(&other))?;
    let error = refused(&by_name(services), files).await;
    assert!(error.contains("SWITCHYARD_DATABASE_CERT_FILE"), "{error}");
    Ok(())
}
