//! How to reach the broker and how patient to be with it.

use std::time::Duration;

use lapin::uri::AMQPUri;

use super::limits::{FRAME_MAX_DEFAULT_BYTES, PUBLISH_WINDOW_DEFAULT_COUNT, PUBLISH_WINDOW_MAX_COUNT};
use crate::config::{Secret, mask_url};
use crate::retry::RetryPolicy;
use crate::tls::TlsFiles;

/// Settings of the connections to one broker. `Debug` shows no password.
#[derive(Clone, Debug, PartialEq)]
pub struct BrokerConfig {
    /// `amqp://user:password@host:port/vhost`, or `amqps://`. A secret because of the password.
    pub url: Secret,
    /// Certificates, for `amqps://`.
    pub tls: TlsFiles,
    /// What the broker shows for the connections; each adds its role to it.
    pub connection_name: String,
    /// Heartbeat interval. A peer that is silent for two of them is gone. 1 s to 18 h.
    pub heartbeat: Duration,
    /// Longest wait for a TCP connection, and again for the AMQP handshake on it.
    pub connect_timeout: Duration,
    /// Longest wait for the answer to one request (declare, consume, close).
    pub request_timeout: Duration,
    /// Longest time from the call of `publish` to its outcome, waiting for a connection included.
    pub publish_timeout: Duration,
    /// Longest time that the broker may take to confirm what was written; beyond, the publishing connection is given up, because only
    /// then may anybody send a copy, and because its channel may hang at a queue that does not answer, with everything behind it. The
    /// time in which the broker blocks the connection does not count.
    pub confirm_timeout: Duration,
    /// Most publishes sent and not yet confirmed.
    pub publish_window: usize,
    /// The delays between tries to connect.
    pub reconnect: RetryPolicy,
    /// Largest frame that is agreed on with the broker, in bytes, unless the URL says one (`?frame_max=`). The client library has memory for
    /// 64 of them per connection, and all properties and headers of a message must fit into one: a larger one ends the connection.
    pub frame_max_bytes: u32,
}

/// Why broker settings are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokerConfigError {
    /// The URL is not an AMQP URL. The parser's text is not repeated: it may quote the URL with its password.
    #[error("`{url}` is not a broker URL; expected amqp://user:password@host:port/vhost or amqps://...")]
    Url {
        /// The URL, masked.
        url: String,
    },
    /// The window is out of range.
    #[error("the publish window is {given}; it must be 1 to {PUBLISH_WINDOW_MAX_COUNT}")]
    Window {
        /// What was given.
        given: usize,
    },
    /// The heartbeat is out of range.
    #[error("the heartbeat is {given_seconds} s; it must be 1 to {}", u16::MAX)]
    Heartbeat {
        /// What was given, in seconds.
        given_seconds: u64,
    },
}

impl BrokerConfig {
    /// The standard settings for a URL.
    #[must_use]
    pub fn new(url: Secret, connection_name: impl Into<String>) -> Self {
        Self {
            url,
            tls: TlsFiles::default(),
            connection_name: connection_name.into(),
            heartbeat: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(20),
            publish_timeout: Duration::from_secs(30),
            confirm_timeout: Duration::from_secs(10),
            publish_window: PUBLISH_WINDOW_DEFAULT_COUNT,
            reconnect: RetryPolicy::RECONNECT,
            frame_max_bytes: FRAME_MAX_DEFAULT_BYTES,
        }
    }

    /// Checks everything that can be checked without connecting.
    ///
    /// # Errors
    /// The first value that is refused.
    pub fn check(&self) -> Result<(), BrokerConfigError> {
        if self.publish_window == 0 || self.publish_window > PUBLISH_WINDOW_MAX_COUNT {
            return Err(BrokerConfigError::Window { given: self.publish_window });
        }
        self.uri().map(|_| ())
    }

    /// The URL with its password masked, for logs.
    #[must_use]
    pub fn masked_url(&self) -> String {
        mask_url(self.url.expose())
    }

    /// The URL in the form of the client library, with the heartbeat and the largest frame in it.
    pub(super) fn uri(&self) -> Result<AMQPUri, BrokerConfigError> {
        let refused = || BrokerConfigError::Url { url: self.masked_url() };
        if !names_a_host(self.url.expose()) {
            return Err(refused());
        }
        let mut uri: AMQPUri = self.url.expose().parse().map_err(|_| refused())?;
        if let Some(host) = bracketed_host(self.url.expose()) {
            // The library's parser turns an IPv6 literal into "localhost".
            uri.authority.host = host.to_owned();
        }
        let seconds = self.heartbeat.as_secs();
        let heartbeat = u16::try_from(seconds).ok().filter(|seconds| *seconds > 0);
        uri.query.heartbeat = Some(heartbeat.ok_or(BrokerConfigError::Heartbeat { given_seconds: seconds })?);
        uri.query.frame_max.get_or_insert(self.frame_max_bytes);
        Ok(uri)
    }
}

/// Whether the URL says where the broker is. The library's parser takes one that does not, such as `amqp:/user:password@host/v`, for
/// "localhost" with a virtual host of that name, and would send the password to it in clear.
fn names_a_host(url: &str) -> bool {
    let Some((_, rest)) = url.split_once("://") else { return false };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    !place.is_empty() && !place.starts_with(':')
}

/// The address between brackets of a URL with an IPv6 literal.
fn bracketed_host(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    place.strip_prefix('[')?.split_once(']').map(|(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> BrokerConfig {
        BrokerConfig::new(Secret::new(url), "test")
    }

    #[test]
    fn no_error_and_no_debug_output_shows_the_password() {
        let config = config("http://user:hunter2@host/%2f");
        let error = config.check().unwrap_err();
        let shown = format!("{config:?} {error} {error:?} {}", config.masked_url());
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn a_url_that_does_not_say_where_the_broker_is_is_refused() {
        for url in [
            "amqp:/u:p@host/v",
            "amqp:u:p@host",
            "amqp://",
            "amqp:///v",
            "amqp://u:p@/v",
            "amqp://:5672/v",
            "amqp://u:p@:5672",
        ] {
            assert!(matches!(config(url).check(), Err(BrokerConfigError::Url { .. })), "{url}");
        }
        for url in
            ["amqp://host", "amqp://u:p@host/v", "amqps://u:p@[::1]:5671/v", "amqp://host:5672?heartbeat=3"]
        {
            config(url).check().unwrap();
        }
    }

    #[test]
    fn the_heartbeat_and_ipv6_addresses_reach_the_library() {
        let uri = config("amqp://u:p@[::1]:5673/v").uri().unwrap();
        assert_eq!((uri.authority.host.as_str(), uri.authority.port), ("::1", 5673));
        assert_eq!(uri.query.heartbeat, Some(10));
        assert_eq!(config("amqp://u:p@broker/v").uri().unwrap().authority.host, "broker");
    }

    #[test]
    fn the_largest_frame_is_that_of_the_url_or_else_that_of_the_settings() {
        let frame_max = |url: &str| {
            let config = BrokerConfig { frame_max_bytes: 8_192, ..config(url) };
            config.uri().unwrap().query.frame_max
        };
        assert_eq!(frame_max("amqp://broker/v"), Some(8_192));
        assert_eq!(frame_max("amqp://broker/v?frame_max=65536"), Some(65_536));
    }

    #[test]
    fn the_window_limits_are_exact() {
        let with = |publish_window| BrokerConfig { publish_window, ..config("amqp://localhost/%2f") };
        assert!(with(0).check().is_err() && with(PUBLISH_WINDOW_MAX_COUNT + 1).check().is_err());
        assert!(with(1).check().is_ok() && with(PUBLISH_WINDOW_MAX_COUNT).check().is_ok());
    }

    #[test]
    fn a_heartbeat_out_of_range_is_refused() {
        let with = |heartbeat| BrokerConfig { heartbeat, ..config("amqp://localhost/%2f") };
        assert!(with(Duration::ZERO).check().is_err());
        assert!(with(Duration::from_secs(65_536)).check().is_err());
        assert!(with(Duration::from_secs(65_535)).check().is_ok());
    }
}
