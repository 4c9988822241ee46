//! Random ids for the machine.

use switchyard_common::contract::ids::{Nonce, SessionId};
use uuid::Uuid;

use crate::machine::IdSource;

/// Draws from the operating system's randomness.
pub(super) struct RandomIds;

impl IdSource for RandomIds {
    fn session(&mut self) -> SessionId {
        SessionId(Uuid::new_v4())
    }

    fn nonce(&mut self) -> Nonce {
        Nonce(Uuid::new_v4())
    }
}
