//! What a handler of a chaos run does: told by the payload of its task, so that the handler itself decides nothing.

use serde::{Deserialize, Serialize};

/// The variable that names the ledger's file to the handler program.
pub const LEDGER_VARIABLE: &str = "CHAOS_LEDGER";
/// Time between two signs of life of a running handler, in milliseconds. What a killed handler did after its last one is not known, so
/// it is short.
pub const ALIVE_PERIOD_MS: u64 = 50;
/// Exit code of a plan that finds nothing to do.
pub const NO_CHANGES_CODE: u8 = 2;
/// Exit code of a handler that fails.
pub const FAILED_CODE: u8 = 1;

/// What one step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behaviour {
    /// How long it runs in the first attempt of its task, in milliseconds.
    pub first_ms: u64,
    /// How long it runs in every later attempt. Shorter than the first where a run that should be dead is to be met by its successors.
    pub later_ms: u64,
    /// How it ends.
    pub ends: Ends,
}

/// How a handler ends when nobody disturbs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ends {
    /// Well.
    Succeeds,
    /// Well, with nothing to apply.
    FindsNothing,
    /// It fails in the first attempt of its task, and does well in later ones.
    FailsOnce,
    /// It always fails.
    Fails,
    /// It always dies of a signal that nobody sent.
    Crashes,
}

impl Behaviour {
    /// How long this attempt runs, in milliseconds.
    #[must_use]
    pub const fn run_ms(&self, attempt: u64) -> u64 {
        if attempt <= 1 { self.first_ms } else { self.later_ms }
    }

    /// How this attempt ends.
    #[must_use]
    pub const fn end(&self, attempt: u64) -> Ends {
        match self.ends {
            Ends::FailsOnce if attempt > 1 => Ends::Succeeds,
            Ends::FailsOnce => Ends::Fails,
            Ends::Succeeds | Ends::FindsNothing | Ends::Fails | Ends::Crashes => self.ends,
        }
    }
}

impl Ends {
    /// Whether a task whose step ends so can succeed.
    #[must_use]
    pub const fn can_succeed(self) -> bool {
        match self {
            Self::Succeeds | Self::FindsNothing | Self::FailsOnce => true,
            Self::Fails | Self::Crashes => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_once_does_well_in_later_attempts_and_is_quicker_then() {
        let behaviour = Behaviour { first_ms: 900, later_ms: 10, ends: Ends::FailsOnce };
        assert_eq!((behaviour.run_ms(1), behaviour.end(1)), (900, Ends::Fails));
        assert_eq!((behaviour.run_ms(2), behaviour.end(2)), (10, Ends::Succeeds));
        assert!(Ends::FailsOnce.can_succeed() && !Ends::Crashes.can_succeed());
    }
}
