//! What a failed handshake means, and what to do about it.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

use super::files::TlsFiles;

/// An error of a TLS connection to `host`, in words that say what to do. Errors of other kinds are given back as they are.
#[must_use]
pub fn explained(error: io::Error, host: &str, files: &TlsFiles) -> io::Error {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return error;
    };
    io::Error::new(error.kind(), explanation(tls, host, files))
}

/// As [`explained`], for a connection on which the server has said nothing yet since the handshake. A server that refuses the client's
/// certificate in TLS 1.3 says so and closes; where it had not read what was sent meanwhile, the reset overtakes its words.
#[must_use]
pub fn explained_unheard(error: io::Error, host: &str, files: &TlsFiles) -> io::Error {
    let closed = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe, io::ErrorKind::UnexpectedEof];
    if !closed.contains(&error.kind()) {
        return explained(error, host, files);
    }
    let (cert, key) = (files.variable("cert"), files.variable("key"));
    let advice = match files.cert {
        None => format!("it may want a client certificate: name it and its key in {cert} and {key}"),
        Some(_) => format!(
            "it may not accept the client certificate in {cert}: look whether it has expired and who issued it"
        ),
    };
    io::Error::new(
        error.kind(),
        format!("{host} closed the connection right after the TLS handshake ({error}): {advice}"),
    )
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "not our enum, and it may grow: what is not known gets no advice"
)]
fn explanation(error: &Error, host: &str, files: &TlsFiles) -> String {
    let said = format!("TLS to {host} failed ({error})");
    let advice = match error {
        Error::InvalidCertificate(why) => certificate(why, host, files),
        Error::AlertReceived(alert) => refusal(*alert, files),
        Error::InvalidMessage(_) => Some(
            "the port that is named does not speak TLS: use the port that does, or a URL without TLS"
                .to_owned(),
        ),
        _ => None,
    };
    match advice {
        Some(advice) => format!("{said}: {advice}"),
        None => said,
    }
}

/// What is wrong with the server's certificate.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "not our enum, and it may grow: what is not known gets no advice"
)]
fn certificate(why: &CertificateError, host: &str, files: &TlsFiles) -> Option<String> {
    let trusted = match &files.ca {
        Some(path) => format!("a CA in {}", path.display()),
        None => "a CA that this machine trusts".to_owned(),
    };
    Some(match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired, or this machine's clock is wrong: renew it on the server".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: look at the clocks of both machines".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!(
                "its certificate is for another name: use a name that it is for in the URL, or issue it for {host}"
            )
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            format!(
                "its certificate was not issued by {trusted}: name the file of the CA that issued it in {}",
                files.variable("ca")
            )
        }
        _ => return None,
    })
}

/// What the server has against us.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "not our enum, and it may grow: what is not known gets no advice"
)]
fn refusal(alert: AlertDescription, files: &TlsFiles) -> Option<String> {
    let (cert, key) = (files.variable("cert"), files.variable("key"));
    Some(match alert {
        AlertDescription::CertificateRequired => {
            format!("the server wants a client certificate: name it and its key in {cert} and {key}")
        }
        // OpenSSL servers of TLS 1.2 say this when none is shown.
        AlertDescription::HandshakeFailure if files.cert.is_none() => {
            format!("the server may want a client certificate: name it and its key in {cert} and {key}")
        }
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown => {
            format!(
                "the server does not accept the client certificate in {cert}: it must be issued by a CA that the server trusts"
            )
        }
        AlertDescription::CertificateExpired => {
            format!("the client certificate in {cert} has expired: renew it")
        }
        AlertDescription::CertificateRevoked => format!("the client certificate in {cert} is revoked"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(error: Error) -> String {
        let files = TlsFiles { prefix: "SWITCHYARD_AMQP".into(), ..TlsFiles::default() };
        explained(io::Error::new(io::ErrorKind::InvalidData, error), "broker", &files).to_string()
    }

    #[test]
    fn each_refusal_says_what_to_do() {
        let cases = [
            (Error::InvalidCertificate(CertificateError::Expired), "renew it on the server"),
            (Error::InvalidCertificate(CertificateError::NotValidForName), "issue it for broker"),
            (Error::InvalidCertificate(CertificateError::UnknownIssuer), "SWITCHYARD_AMQP_CA_FILE"),
            (Error::AlertReceived(AlertDescription::CertificateRequired), "SWITCHYARD_AMQP_CERT_FILE"),
            (Error::AlertReceived(AlertDescription::UnknownCA), "must be issued by a CA"),
        ];
        for (error, advice) in cases {
            let said = told(error);
            assert!(said.contains("broker") && said.contains(advice), "{said}");
        }
    }

    #[test]
    fn a_reset_right_after_the_handshake_says_that_it_may_be_the_certificate() {
        let mut files = TlsFiles { prefix: "SWITCHYARD_AMQP".into(), ..TlsFiles::default() };
        let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
        let none = explained_unheard(reset(), "broker", &files).to_string();
        assert!(none.contains("SWITCHYARD_AMQP_CERT_FILE and SWITCHYARD_AMQP_KEY_FILE"), "{none}");
        files.cert = Some("/c".into());
        let shown = explained_unheard(reset(), "broker", &files).to_string();
        assert!(shown.contains("expired") && shown.contains("SWITCHYARD_AMQP_CERT_FILE"), "{shown}");
        assert_eq!(explained_unheard(io::Error::other("x"), "broker", &files).to_string(), "x");
    }

    #[test]
    fn other_errors_stay_as_they_are() {
        let files = TlsFiles::default();
        let error = explained(io::Error::other("something else"), "broker", &files);
        assert_eq!(error.to_string(), "something else");
    }
}
