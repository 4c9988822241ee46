//! The files that make a TLS client.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use crate::config::{Loader, env_key};

/// Why TLS cannot be used with these files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds something else.
    #[error("{variable}: {path}: {wrong}")]
    File {
        /// The variable that names it.
        variable: String,
        /// The file.
        path: String,
        /// What is wrong with it.
        wrong: String,
    },
    /// One of certificate and key is named without the other.
    #[error("{given} is set without {missing}: a client certificate needs both")]
    Half {
        /// The variable that is set.
        given: String,
        /// The variable that is not.
        missing: String,
    },
    /// Certificate and key do not fit.
    #[error("{cert} and {key} do not fit together: {wrong}")]
    Pair {
        /// The variable of the certificate.
        cert: String,
        /// The variable of the key.
        key: String,
        /// What is wrong with them.
        wrong: String,
    },
    /// The machine has no certificates that it trusts, and none were named.
    #[error(
        "this machine trusts no CA: name the file of the one that issued the server's certificate in {ca}"
    )]
    NoRoots {
        /// The variable that names a CA.
        ca: String,
    },
    /// The name of the server is none.
    #[error("{0:?} is neither a host name nor an address")]
    Name(String),
}

/// The files of one TLS client. Without any, the machine's CAs are trusted and no certificate is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// What the variables begin with: `SWITCHYARD_AMQP`.
    pub prefix: String,
    /// CA certificates (PEM): the only ones that are trusted.
    pub ca: Option<PathBuf>,
    /// The client's certificate and those between it and the CA (PEM).
    pub cert: Option<PathBuf>,
    /// The key of the client's certificate (PEM).
    pub key: Option<PathBuf>,
}

impl TlsFiles {
    /// The variables of the broker: `SWITCHYARD_AMQP_CA_FILE`, `_CERT_FILE`, `_KEY_FILE`.
    #[must_use]
    pub fn for_broker(loader: &mut Loader) -> Self {
        Self::load(
            loader,
            "SWITCHYARD_AMQP",
            ["SWITCHYARD_AMQP_CA_FILE", "SWITCHYARD_AMQP_CERT_FILE", "SWITCHYARD_AMQP_KEY_FILE"],
        )
    }

    /// The variables of the database: `SWITCHYARD_DATABASE_CA_FILE`, `_CERT_FILE`, `_KEY_FILE`.
    #[must_use]
    pub fn for_database(loader: &mut Loader) -> Self {
        let names =
            ["SWITCHYARD_DATABASE_CA_FILE", "SWITCHYARD_DATABASE_CERT_FILE", "SWITCHYARD_DATABASE_KEY_FILE"];
        Self::load(loader, "SWITCHYARD_DATABASE", names)
    }

    fn load(loader: &mut Loader, prefix: &str, names: [&'static str; 3]) -> Self {
        let mut path = |name| loader.optional::<PathBuf>(env_key(name));
        let files =
            Self { prefix: prefix.to_owned(), ca: path(names[0]), cert: path(names[1]), key: path(names[2]) };
        // At the start, where somebody looks; later ones are told at the connection.
        if files.any()
            && let Err(error) = files.client_config()
        {
            loader.error(env_key(names[0]), &error.to_string());
        }
        files
    }

    /// True when at least one file is named.
    #[must_use]
    pub const fn any(&self) -> bool {
        self.ca.is_some() || self.cert.is_some() || self.key.is_some()
    }

    /// The variable for a file: `ca`, `cert`, `key`.
    pub(super) fn variable(&self, what: &str) -> String {
        format!("{}_{}_FILE", self.prefix, what.to_uppercase())
    }

    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be used; the variable that names it is in the error.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Name(error.to_string()))?
            .with_root_certificates(self.roots()?);
        let config = match self.identity()? {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                builder.with_client_auth_cert(chain, key).map_err(|error| TlsError::Pair {
                    cert: self.variable("cert"),
                    key: self.variable("key"),
                    wrong: error.to_string(),
                })?
            }
        };
        Ok(Arc::new(config))
    }

    /// The name that the server's certificate must be for.
    ///
    /// # Errors
    /// When it is neither a host name nor an address.
    pub fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
        ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        match &self.ca {
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if roots.is_empty() {
                    return Err(TlsError::NoRoots { ca: self.variable("ca") });
                }
            }
            Some(path) => {
                for certificate in self.certificates("ca", path)? {
                    roots.add(certificate).map_err(|error| self.file("ca", path, &error.to_string()))?;
                }
            }
        }
        Ok(roots)
    }

    fn identity(&self) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, TlsError> {
        let half =
            |given, missing| TlsError::Half { given: self.variable(given), missing: self.variable(missing) };
        match (&self.cert, &self.key) {
            (None, None) => Ok(None),
            (Some(_), None) => Err(half("cert", "key")),
            (None, Some(_)) => Err(half("key", "cert")),
            (Some(cert), Some(key)) => {
                let chain = self.certificates("cert", cert)?;
                // The parser's text is about the form of the file and never quotes the key.
                let key = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| self.file("key", key, &error.to_string()))?;
                Ok(Some((chain, key)))
            }
        }
    }

    fn certificates(&self, what: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let wrong = |error: &rustls::pki_types::pem::Error| self.file(what, path, &error.to_string());
        let found: Result<Vec<_>, _> =
            CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))?.collect();
        let found = found.map_err(|error| wrong(&error))?;
        if found.is_empty() {
            return Err(self.file(what, path, "there is no certificate in it: expected PEM"));
        }
        Ok(found)
    }

    fn file(&self, what: &str, path: &Path, wrong: &str) -> TlsError {
        TlsError::File {
            variable: self.variable(what),
            path: path.display().to_string(),
            wrong: wrong.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> TlsFiles {
        TlsFiles { prefix: "SWITCHYARD_AMQP".into(), ..TlsFiles::default() }
    }

    #[test]
    fn a_certificate_without_its_key_is_refused_by_name() {
        let half = TlsFiles { cert: Some("/c".into()), ca: None, ..files() };
        let error = half.identity().unwrap_err().to_string();
        assert!(error.contains("SWITCHYARD_AMQP_CERT_FILE") && error.contains("SWITCHYARD_AMQP_KEY_FILE"));
    }

    #[test]
    fn a_file_that_is_not_there_or_holds_something_else_is_named() {
        let error = TlsFiles { ca: Some("/does/not/exist".into()), ..files() }.client_config().unwrap_err();
        assert!(error.to_string().starts_with("SWITCHYARD_AMQP_CA_FILE: /does/not/exist: "), "{error}");
        let error = TlsFiles { ca: Some("/etc/hostname".into()), ..files() }.client_config().unwrap_err();
        assert!(error.to_string().contains("no certificate in it"), "{error}");
    }
}
