//! What went wrong on a connection or channel, in plain values.

use std::fmt;
use std::time::Duration;

use lapin::{Error, ErrorKind};

use super::limits::BROKER_TEXT_MAX_BYTES;
use crate::text::bounded;

/// AMQP reply codes that the client looks at.
pub mod code {
    /// The broker closes the connection on an operator's wish.
    pub const CONNECTION_FORCED: u16 = 320;
    /// Not allowed by the broker's permissions.
    pub const ACCESS_REFUSED: u16 = 403;
    /// No such exchange or queue.
    pub const NOT_FOUND: u16 = 404;
    /// An exclusive queue belongs to another connection.
    pub const RESOURCE_LOCKED: u16 = 405;
    /// Other arguments than the existing ones, a message over the size limit, or a delivery held too long.
    pub const PRECONDITION_FAILED: u16 = 406;
}

/// Why a connection, a channel or a request on it failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The broker's reply code, when the broker said so itself (405, 406 ...).
    pub code: Option<u16>,
    /// What the broker or the operating system said, bounded.
    pub text: String,
    /// The broker gave no answer at all in time, on a connection that is alive.
    pub no_answer: bool,
}

impl Fault {
    /// A fault that the broker gave no code for.
    #[must_use]
    pub fn local(text: impl AsRef<str>) -> Self {
        Self { code: None, text: bounded(text.as_ref(), BROKER_TEXT_MAX_BYTES), no_answer: false }
    }

    /// The broker did not answer a request within `waited`.
    #[must_use]
    pub fn no_answer(waited: Duration) -> Self {
        let text = format!("the broker does not answer: waited {} ms", waited.as_millis());
        Self { no_answer: true, ..Self::local(text) }
    }

    /// True when the broker gave this code.
    #[must_use]
    pub fn is(&self, code: u16) -> bool {
        self.code == Some(code)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "{code} {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

impl std::error::Error for Fault {}

impl From<&Error> for Fault {
    fn from(error: &Error) -> Self {
        if let ErrorKind::ProtocolError(said) = error.kind() {
            return Self {
                code: Some(said.get_id()),
                text: bounded(said.get_message().as_str(), BROKER_TEXT_MAX_BYTES),
                no_answer: false,
            };
        }
        Self::local(error.to_string())
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}
