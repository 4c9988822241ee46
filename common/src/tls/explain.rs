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

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "an enum of the TLS library, which grows: what is not named here gets no advice"
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
    reason = "an enum of the TLS library, which grows: what is not named here gets no advice"
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
    reason = "an enum of the TLS library, which grows: what is not named here gets no advice"
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
    fn other_errors_stay_as_they_are() {
        let files = TlsFiles::default();
        let error = explained(io::Error::other("something else"), "broker", &files);
        assert_eq!(error.to_string(), "something else");
    }
}
