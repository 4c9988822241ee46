//! The folder of secrets: for each account one file with its whole broker URL, fit for `SWITCHYARD_AMQP_URL_FILE` and readable by its owner
//! alone. A password is drawn once and kept; drawing it anew is asked for.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use switchyard_common::config::Secret;

/// Random bytes of a password.
const PASSWORD_BYTES: usize = 32;
/// Mode of the folder and of its files: nobody else reads them.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Why a secret cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// The folder or a file cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// What is there is not the URL of an account.
    #[error(
        "{path} does not hold the broker URL of the account {user}: move it away, or ask for a new password"
    )]
    NotOurs {
        /// Which.
        path: String,
        /// Whose it should be.
        user: String,
    },
    /// The broker's address cannot be used.
    #[error(
        "{0:?} is not the address of a broker: expected amqp://host:port or amqps://host:port, without user and virtual host"
    )]
    Address(String),
}

/// The folder, and the broker that the URLs in it lead to.
#[derive(Debug, Clone)]
pub struct Secrets {
    folder: PathBuf,
    scheme: String,
    place: String,
    vhost: String,
}

impl Secrets {
    /// Secrets in `folder` for the broker at `address` (`amqps://host:port`).
    ///
    /// # Errors
    /// When the address is not one.
    pub fn new(folder: &Path, address: &str, vhost: &str) -> Result<Self, SecretsError> {
        let refused = || SecretsError::Address(switchyard_common::config::mask_url(address));
        let (scheme, place) = address.split_once("://").ok_or_else(refused)?;
        let place = place.trim_end_matches('/');
        if !matches!(scheme, "amqp" | "amqps") || place.is_empty() || place.contains(['/', '@', '?']) {
            return Err(refused());
        }
        Ok(Self {
            folder: folder.to_owned(),
            scheme: scheme.to_owned(),
            place: place.to_owned(),
            vhost: vhost.to_owned(),
        })
    }

    /// The file with the URL of an account.
    #[must_use]
    pub fn path(&self, user: &str) -> PathBuf {
        self.folder.join(format!("{user}.amqp-url"))
    }

    /// The password of an account: the one that is kept, or a new one where none is or `anew` asks for it. Its file is written either way,
    /// so that it leads to the broker that is named now.
    ///
    /// # Errors
    /// When the file cannot be read or written, or holds something else.
    pub fn password(&self, user: &str, anew: bool) -> Result<Secret, SecretsError> {
        let kept = if anew { None } else { self.kept(user)? };
        let password = kept.unwrap_or_else(draw);
        self.write(user, &password)?;
        Ok(password)
    }

    /// Takes the file of an account away.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn forget(&self, user: &str) -> Result<(), SecretsError> {
        let path = self.path(user);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(told(&path, error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn kept(&self, user: &str) -> Result<Option<Secret>, SecretsError> {
        let path = self.path(user);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(told(&path, error)),
        };
        let password = text
            .split_once("://")
            .and_then(|(_, rest)| rest.split_once('@'))
            .and_then(|(userinfo, _)| userinfo.split_once(':'))
            .filter(|(name, password)| *name == user && !password.is_empty());
        match password {
            Some((_, password)) => Ok(Some(Secret::new(password))),
            None => Err(SecretsError::NotOurs { path: path.display().to_string(), user: user.to_owned() }),
        }
    }

    /// Written beside and renamed: a reader sees the old one or the new one.
    fn write(&self, user: &str, password: &Secret) -> Result<(), SecretsError> {
        let folder = DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&self.folder);
        folder.map_err(|error| told(&self.folder, error))?;
        let path = self.path(user);
        let beside = path.with_extension("new");
        let Self { scheme, place, vhost, .. } = self;
        let vhost = vhost.replace('%', "%25").replace('/', "%2f");
        let url = format!("{scheme}://{user}:{}@{place}/{vhost}\n", password.expose());
        let written = || -> io::Result<()> {
            let _left_behind = fs::remove_file(&beside);
            let mut file = File::options().create_new(true).write(true).mode(FILE_MODE).open(&beside)?;
            file.write_all(url.as_bytes())?;
            file.sync_all()?;
            fs::rename(&beside, &path)
        };
        written().map_err(|error| told(&path, error))
    }
}

fn draw() -> Secret {
    Secret::new(hex::encode(rand::random::<[u8; PASSWORD_BYTES]>()))
}

fn told(path: &Path, error: io::Error) -> SecretsError {
    SecretsError::File { path: path.display().to_string(), error }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn folder() -> PathBuf {
        std::env::temp_dir().join(format!("switchyard-secrets-{}", uuid::Uuid::new_v4()))
    }

    #[test]
    fn a_password_is_drawn_once_kept_and_drawn_anew_when_asked() {
        let secrets = Secrets::new(&folder(), "amqps://broker:5671", "a/b").unwrap();
        let first = secrets.password("u", false).unwrap();
        assert_eq!(first.expose().len(), 2 * PASSWORD_BYTES);
        assert_eq!(secrets.password("u", false).unwrap(), first);
        let url = fs::read_to_string(secrets.path("u")).unwrap();
        assert_eq!(url, format!("amqps://u:{}@broker:5671/a%2fb\n", first.expose()));
        assert_ne!(secrets.password("u", true).unwrap(), first);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&secrets.path("u")), mode(&secrets.folder)), (FILE_MODE, FOLDER_MODE));
        secrets.forget("u").unwrap();
        secrets.forget("u").unwrap();
        fs::remove_dir(&secrets.folder).unwrap();
    }

    #[test]
    fn a_file_of_somebody_else_is_refused_and_a_broken_address_too() {
        let secrets = Secrets::new(&folder(), "amqp://broker", "v").unwrap();
        secrets.password("u", false).unwrap();
        fs::rename(secrets.path("u"), secrets.path("w")).unwrap();
        assert!(matches!(secrets.password("w", false), Err(SecretsError::NotOurs { .. })));
        fs::remove_dir_all(&secrets.folder).unwrap();
        for wrong in ["broker:5672", "http://broker", "amqp://u:hunter2@broker", "amqp://broker/v", "amqp://"]
        {
            let error = Secrets::new(&folder(), wrong, "v").unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
