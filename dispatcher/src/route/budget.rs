//! What the inputs of assignments may cost: all batches of a replica together, however many are published at the same time.

use std::sync::Arc;

use switchyard_common::contract::limits::ARTIFACTS_TOTAL_MAX_BYTES;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most bytes of inputs that one replica reads and publishes at the same time: those of four assignments at their limit. Until they are
/// confirmed they are in memory as text, a third more, and while they are written a few times over.
pub const INPUTS_IN_HAND_MAX_BYTES: usize = 4 * ARTIFACTS_TOTAL_MAX_BYTES;
/// What is counted, since a semaphore counts less than bytes.
const UNIT_BYTES: usize = 1024;
const UNITS: usize = INPUTS_IN_HAND_MAX_BYTES / UNIT_BYTES;

/// The budget of one replica. Clones share it.
#[derive(Debug, Clone)]
pub struct InputsBudget(Arc<Semaphore>);

impl Default for InputsBudget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(UNITS)))
    }
}

impl InputsBudget {
    /// Waits until `bytes` of inputs may be read; they may until what this returns is dropped. Whoever asks for more than there is gets
    /// everything, alone. None for nothing.
    pub(super) async fn take(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        if bytes == 0 {
            return None;
        }
        let units = usize::try_from(bytes).unwrap_or(usize::MAX).div_ceil(UNIT_BYTES).min(UNITS);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        // It is never closed.
        Arc::clone(&self.0).acquire_many_owned(units).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const ALL: u64 = INPUTS_IN_HAND_MAX_BYTES as u64;

    #[test]
    fn no_more_is_in_hand_than_the_budget_and_what_is_given_back_is_there_for_the_next() {
        let budget = InputsBudget::default();
        let first = budget.take(ALL - 1024).now_or_never().flatten();
        let second = budget.clone().take(1024).now_or_never().flatten();
        assert!(first.is_some() && second.is_some());
        assert!(budget.take(1).now_or_never().is_none());
        drop(second);
        assert!(budget.take(1).now_or_never().flatten().is_some());
    }

    #[test]
    fn what_is_larger_than_the_budget_goes_alone_and_nothing_costs_nothing() {
        let budget = InputsBudget::default();
        let everything = budget.take(u64::MAX).now_or_never().flatten();
        assert!(everything.is_some());
        assert!(matches!(budget.take(0).now_or_never(), Some(None)));
        assert!(budget.take(1).now_or_never().is_none());
    }
}
