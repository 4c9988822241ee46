//! What the dispatcher tells an agent on its control queue: exclusive, classic, not durable. Losing one is harmless: whatever
//! must arrive is durable in the database and sent again until answered (protocol B4).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::assignment::AttemptKey;
use super::ids::{Nonce, SessionId};
use super::report::Claim;

/// One control message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// The restore epoch of the sender; an agent ignores epochs older than the newest it has seen (protocol G).
    pub epoch: i64,
    /// What to do.
    pub order: Order,
}

/// What an agent is told to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Order {
    /// The ask with this nonce is granted: `running` is committed.
    Go {
        /// The attempt.
        #[serde(flatten)]
        key: AttemptKey,
        /// The ask's nonce.
        nonce: Nonce,
    },
    /// The ask with this nonce is refused: do not start, now or later.
    NoGo {
        /// The attempt.
        #[serde(flatten)]
        key: AttemptKey,
        /// The ask's nonce.
        nonce: Nonce,
        /// Why, for the log.
        reason: String,
    },
    /// Somebody cancelled the task: stop the attempt, or never start it, and answer.
    Cancel {
        /// The attempt, with its secret: an agent that never received the assignment can answer all the same.
        claim: Claim,
        /// Stop it even where its step is not repeatable and runs.
        force: bool,
    },
    /// The dispatcher wants the attempt no longer: stop it, or never start it, and answer.
    Revoke {
        /// The attempt, with its secret: an agent that never received the assignment can answer all the same.
        claim: Claim,
        /// Why, for the log.
        reason: String,
        /// Stop it even where its step is not repeatable and runs.
        force: bool,
    },
    /// Take no more work; finish what runs.
    Drain,
    /// This session has ended for the dispatcher: stop what is no longer yours and take a new one (protocol C5).
    EndSession {
        /// The session that ended.
        session: SessionId,
    },
}
