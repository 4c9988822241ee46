//! Services of their own for tests of security: with TLS listeners whose certificates were made just now, and with the broker's management
//! API. Started once per test binary, and taken down when its process is gone, however it went.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, ensure};
use switchyard_common::config::Secret;
use switchyard_common::tls::TlsFiles;
use switchyard_dispatcher::accounts::Admin;
use tokio::sync::OnceCell;

use super::certificates::{Authority, Issued, Validity, write};
use super::scenario::binaries::{build_folder, repository};

/// The host name that the servers' certificates are for; their address is not in them.
pub const SERVER_NAME: &str = "localhost";

/// A broker and a database with TLS.
pub struct Secured {
    /// The broker without TLS.
    pub amqp_url: String,
    /// The broker with TLS, by its name.
    pub amqps_url: String,
    /// The database server; takes TLS on the same port. By address.
    pub database_url: String,
    /// The broker's management API.
    pub admin: Admin,
    /// The CA that the servers' certificates are of, and that theirs must be of who log in over TLS.
    pub authority: Authority,
    /// Where certificates are.
    pub folder: PathBuf,
    _guard: Child,
}

static SECURED: OnceCell<Secured> = OnceCell::const_new();

/// The services, started if they are not.
///
/// # Errors
/// When they do not start.
pub async fn secured(name: &str) -> anyhow::Result<&'static Secured> {
    SECURED.get_or_try_init(async || Secured::start(name)).await
}

impl Secured {
    fn start(name: &str) -> anyhow::Result<Self> {
        let folder = build_folder()?.join("services").join(name);
        let certificates = build_folder()?.join("certificates").join(name);
        std::fs::create_dir_all(&certificates)?;
        run(&folder, &certificates, "reset")?;
        let authority = Authority::new("test CA")?;
        let server = authority.issue(&[SERVER_NAME], Validity::Now)?;
        write(&certificates, "ca.pem", &authority.pem)?;
        write(&certificates, "server.pem", &server.cert)?;
        write(&certificates, "server.key", &server.key)?;
        let guard = guard(&folder)?;
        run(&folder, &certificates, "up")?;
        let exports = run(&folder, &certificates, "env")?;
        let amqp_url = exported(&exports, "SWITCHYARD_AMQP_URL")?;
        let port = exported(&exports, "SWITCHYARD_LOCAL_AMQPS_PORT")?;
        let (account, vhost) = parts(&amqp_url)?;
        Ok(Self {
            amqps_url: format!("amqps://{account}@{SERVER_NAME}:{port}/{vhost}"),
            amqp_url,
            database_url: exported(&exports, "SWITCHYARD_DATABASE_URL")?,
            admin: Admin::Api(Secret::new(exported(&exports, "SWITCHYARD_BROKER_ADMIN_URL")?)),
            authority,
            folder: certificates,
            _guard: guard,
        })
    }

    /// The files of a client: the servers' CA, and `identity` as certificate and key.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn files(&self, prefix: &str, name: &str, identity: Option<&Issued>) -> anyhow::Result<TlsFiles> {
        let mut files = TlsFiles {
            prefix: prefix.to_owned(),
            ca: Some(write(&self.folder, &format!("{name}-ca.pem"), &self.authority.pem)?),
            ..TlsFiles::default()
        };
        if let Some(identity) = identity {
            files.cert = Some(write(&self.folder, &format!("{name}.pem"), &identity.cert)?);
            files.key = Some(write(&self.folder, &format!("{name}.key"), &identity.key)?);
        }
        Ok(files)
    }
}

/// Takes the services down when its input ends, which is when this process does.
fn guard(folder: &Path) -> anyhow::Result<Child> {
    let script = "cat >/dev/null; exec \"$0\" reset >/dev/null 2>&1";
    let mut command = Command::new("setsid");
    command.args(["sh", "-c", script]).arg(services()).env("SWITCHYARD_LOCAL_DIR", folder);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().context("setsid")
}

fn services() -> PathBuf {
    repository().join("deploy/local/services")
}

fn run(folder: &Path, certificates: &Path, verb: &str) -> anyhow::Result<String> {
    let mut command = Command::new(services());
    command.arg(verb).env("SWITCHYARD_LOCAL_DIR", folder).stdin(Stdio::null());
    command.env("SWITCHYARD_LOCAL_TLS_DIR", certificates).env("SWITCHYARD_LOCAL_MANAGEMENT", "yes");
    let output = command.output()?;
    ensure!(output.status.success(), "services {verb}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn exported(exports: &str, variable: &str) -> anyhow::Result<String> {
    let prefix = format!("export {variable}=");
    let found = exports.lines().find_map(|line| line.strip_prefix(&prefix));
    Ok(found.with_context(|| format!("no {variable} among the exports"))?.to_owned())
}

/// `user:password` and the virtual host of a broker URL.
fn parts(url: &str) -> anyhow::Result<(&str, &str)> {
    let rest = url.split_once("://").context("a URL")?.1;
    let (account, place) = rest.split_once('@').context("an account")?;
    Ok((account, place.split_once('/').context("a virtual host")?.1))
}
