//! Ids: checked once, at the edge, and then carried as types (protocol A).

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::limits::{ID_MAX_CHARS, LABEL_MAX_CHARS};

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing in it.
    #[error("is empty: give 1 to {max} characters")]
    Empty {
        /// Longest allowed length, in characters.
        max: usize,
    },
    /// Over the limit.
    #[error("has {chars} characters: at most {max} are allowed")]
    TooLong {
        /// Length found, in characters.
        chars: usize,
        /// Longest allowed length, in characters.
        max: usize,
    },
    /// A character outside printable ASCII, or a blank at either end.
    #[error("has a character at position {at} that is not printable ASCII, or a blank at an end")]
    NotPrintable {
        /// Zero-based position, in characters.
        at: usize,
    },
    /// Not a DNS label.
    #[error(
        "is not a label: use a-z, 0-9 and '-', starting and ending with a letter or digit, at most 63 characters, no dots"
    )]
    NotLabel,
    /// Not `sha256:` and 64 hexadecimal digits.
    #[error("is not a digest: expected 'sha256:' and 64 hexadecimal digits")]
    NotDigest,
}

/// Checks a printable id (task, workspace): 1 to [`ID_MAX_CHARS`] printable ASCII characters, no blank at an end.
pub fn check_printable(text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty { max: ID_MAX_CHARS });
    }
    let chars = text.chars().count();
    if chars > ID_MAX_CHARS {
        return Err(IdError::TooLong { chars, max: ID_MAX_CHARS });
    }
    if let Some(at) = text.chars().position(|c| !(c.is_ascii_graphic() || c == ' ')) {
        return Err(IdError::NotPrintable { at });
    }
    if text.starts_with(' ') {
        return Err(IdError::NotPrintable { at: 0 });
    }
    if text.ends_with(' ') {
        return Err(IdError::NotPrintable { at: chars - 1 });
    }
    Ok(())
}

/// Checks a label (pool, agent, kind, handler, step): `[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?` (protocol A1). Kinds, handlers and steps
/// may also have `_`, since they never stand in a routing key.
pub fn check_label(text: &str, underscore: bool) -> Result<(), IdError> {
    let edge = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let inner = |c: u8| edge(c) || c == b'-' || (underscore && c == b'_');
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last))
            if bytes.len() <= LABEL_MAX_CHARS
                && edge(first)
                && edge(last)
                && bytes.iter().all(|&c| inner(c)) =>
        {
            Ok(())
        }
        _ => Err(IdError::NotLabel),
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $check:expr, $pattern:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// Checks `text` and makes an id of it.
            pub fn new(text: impl AsRef<str>) -> Result<Self, IdError> {
                let text = text.as_ref();
                let check: fn(&str) -> Result<(), IdError> = $check;
                check(text)?;
                Ok(Self(text.into()))
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.as_ref().to_owned()
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "minLength": 1, "maxLength": $max, "pattern": $pattern })
            }
        }
    };
}

text_id! {
    /// Names a task. Given by upstream or drawn by the dispatcher; unique for ever.
    TaskId, check_printable, "^[!-~]([ -~]*[!-~])?$", 128
}
text_id! {
    /// Names a workspace: the thing that tasks act on.
    WorkspaceId, check_printable, "^[!-~]([ -~]*[!-~])?$", 128
}
text_id! {
    /// Names a pool of agents: the boundary of trust.
    PoolId, |t| check_label(t, false), "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", 63
}
text_id! {
    /// Names an agent inside its pool (the StatefulSet pod name).
    AgentId, |t| check_label(t, false), "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", 63
}
text_id! {
    /// Names a replica of the dispatcher (its pod name).
    ReplicaId, |t| check_label(t, false), "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", 63
}
text_id! {
    /// Names somebody who reads notifications: the owner of an account at the broker.
    SubscriberId, |t| check_label(t, false), "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", 63
}
text_id! {
    /// Names a kind of task, such as `plan_and_apply`.
    KindName, |t| check_label(t, true), "^[a-z0-9]([-_a-z0-9]{0,61}[a-z0-9])?$", 63
}
text_id! {
    /// Names a step of a kind, such as `apply`.
    StepName, |t| check_label(t, true), "^[a-z0-9]([-_a-z0-9]{0,61}[a-z0-9])?$", 63
}
text_id! {
    /// Names a handler that agents offer and steps ask for.
    HandlerName, |t| check_label(t, true), "^[a-z0-9]([-_a-z0-9]{0,61}[a-z0-9])?$", 63
}

/// One start of an agent process, or one self-stop of it (protocol A2, C3). Sessions are compared for equality only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct SessionId(pub Uuid);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Drawn by an agent for one ask to start a non-repeatable step (protocol B7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Nonce(pub Uuid);

/// The secret of one attempt: whoever shows it was given the assignment (protocol A5). Never printed.
#[derive(Clone, Copy, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct LeaseToken(pub Uuid);

impl PartialEq for LeaseToken {
    /// Compares in constant time: the token is a secret.
    fn eq(&self, other: &Self) -> bool {
        let difference =
            self.0.as_bytes().iter().zip(other.0.as_bytes()).fold(0_u8, |acc, (a, b)| acc | (a ^ b));
        difference == 0
    }
}

impl fmt::Debug for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeaseToken(***)")
    }
}

/// A SHA-256 digest, written `sha256:<64 hex digits>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let digits = text.strip_prefix("sha256:").ok_or(IdError::NotDigest)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| IdError::NotDigest)?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl JsonSchema for Digest {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Digest".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^sha256:[0-9a-fA-F]{64}$" })
    }
}

/// Who reported: taken from the routing key, which the broker's topic permissions vouch for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct AgentRef {
    /// The agent's pool.
    pub pool: PoolId,
    /// The agent.
    pub agent: AgentId,
}

impl AgentRef {
    /// The routing key of what is sent to this agent: `<pool>.<agent>`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}.{}", self.pool, self.agent)
    }
}

impl fmt::Display for AgentRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.agent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_accepted_up_to_the_limit_and_refused_one_over() {
        assert!(TaskId::new("x".repeat(ID_MAX_CHARS)).is_ok());
        assert_eq!(
            TaskId::new("x".repeat(ID_MAX_CHARS + 1)),
            Err(IdError::TooLong { chars: ID_MAX_CHARS + 1, max: ID_MAX_CHARS })
        );
        assert!(PoolId::new("p".repeat(LABEL_MAX_CHARS)).is_ok());
        assert!(PoolId::new("p".repeat(LABEL_MAX_CHARS + 1)).is_err());
    }

    #[test]
    fn pool_and_agent_ids_cannot_change_a_routing_key() {
        for bad in ["", "a.b", "A", "-a", "a-", "a_b", "a*", "#", "a b", "é"] {
            assert!(PoolId::new(bad).is_err(), "{bad:?} was accepted");
        }
        assert!(AgentId::new("worker-0").is_ok());
    }

    #[test]
    fn printable_ids_refuse_control_characters_and_blank_ends() {
        for bad in ["", " a", "a ", "a\u{0}b", "a\nb", "ü"] {
            assert!(WorkspaceId::new(bad).is_err(), "{bad:?} was accepted");
        }
        assert!(WorkspaceId::new("prod / eu-west 1").is_ok());
    }

    #[test]
    fn a_lease_token_never_shows_in_debug_output() {
        let token = LeaseToken(Uuid::from_u128(7));
        assert!(!format!("{token:?}").contains(&token.0.to_string()));
    }

    #[test]
    fn a_digest_survives_its_text_form() {
        let digest = Digest::of(b"plan");
        assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        assert!("sha256:12".parse::<Digest>().is_err());
    }
}
