//! Batches: how many messages are settled together, and what follows when that fails. Pure (protocol D4, D5).

use switchyard_common::failure::{Failure, FailureKind};
use switchyard_common::guard::PanicCapture;

use crate::store::StoreError;

/// Most messages that are settled in one transaction.
pub const BATCH_MAX_MESSAGES: usize = 256;
/// Most bytes of messages that are settled in one transaction (8 MiB); a single larger one still goes alone.
pub const BATCH_MAX_BYTES: usize = 8 * 1024 * 1024;
/// A message that was delivered this often before is settled alone: it may be what fails its batch.
pub const ALONE_FROM_DELIVERIES: u64 = 3;

/// Counts what is in a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fill {
    messages: usize,
    bytes: usize,
}

impl Fill {
    /// Adds a message.
    pub fn add(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Whether the batch takes no more.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.messages >= BATCH_MAX_MESSAGES || self.bytes >= BATCH_MAX_BYTES
    }
}

/// What follows when the store refuses a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum AfterError {
    /// Nothing is wrong with the messages: stop consuming, wait, try the same again. Never a reason to nack.
    Wait,
    /// One of them is at fault: settle each in a transaction of its own.
    Isolate,
    /// A stored row that this one concerns cannot be read by this replica: keep it for a while, then give it back to the broker. A newer
    /// replica may have written the row, and can settle it.
    PutBack(String),
    /// This one is at fault: record the failure, then nack it.
    Refuse(Failure),
}

impl AfterError {
    /// Whether one message is given up or given back.
    #[must_use]
    pub const fn is_of_the_message(&self) -> bool {
        match self {
            Self::PutBack(_) | Self::Refuse(_) => true,
            Self::Wait | Self::Isolate => false,
        }
    }

    /// What follows for a message of which several attempts cannot be settled: it is nacked only when nothing in it may still be settled
    /// by a later try.
    #[must_use]
    pub fn or_graver(self, other: Self) -> Self {
        let gravity = |after: &Self| match after {
            Self::Wait => 3,
            Self::Isolate => 2,
            Self::PutBack(_) => 1,
            Self::Refuse(_) => 0,
        };
        if gravity(&other) > gravity(&self) { other } else { self }
    }
}

/// Decides what follows an error of the store with a batch of `messages`.
#[must_use]
pub fn after_error(error: &StoreError, messages: usize) -> AfterError {
    match error {
        StoreError::PoisonRow { .. } | StoreError::Unreadable(_) if messages > 1 => AfterError::Isolate,
        StoreError::Unreadable(_) => AfterError::PutBack(error.to_string()),
        StoreError::PoisonRow { .. } => {
            AfterError::Refuse(Failure::new(FailureKind::PoisonRow, error.to_string()))
        }
        // A statement or schema that is wrong is our mistake, not the message's: what agents said must survive it.
        StoreError::Transient(_)
        | StoreError::Contention(_)
        | StoreError::FenceMiss { .. }
        | StoreError::Schema(_)
        | StoreError::Panicked(_)
        | StoreError::Statement(_) => AfterError::Wait,
    }
}

/// Decides what follows a panic while a batch of `messages` was settled.
#[must_use]
pub fn after_panic(panic: &PanicCapture, messages: usize) -> AfterError {
    if messages > 1 {
        return AfterError::Isolate;
    }
    let mut failure = Failure::new(FailureKind::DispatcherPanicked, panic.to_string());
    failure.location.clone_from(&panic.location);
    failure.backtrace = Some(panic.backtrace.clone());
    AfterError::Refuse(failure.bounded())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poison() -> StoreError {
        StoreError::PoisonRow { code: "22021".into(), constraint: None, message: "invalid byte".into() }
    }

    #[test]
    fn a_batch_is_full_at_its_limits_of_messages_and_of_bytes() {
        let mut fill = Fill::default();
        (1..BATCH_MAX_MESSAGES).for_each(|_| fill.add(1));
        assert!(!fill.is_full());
        fill.add(1);
        assert!(fill.is_full());
        let mut fill = Fill::default();
        fill.add(BATCH_MAX_BYTES - 1);
        assert!(!fill.is_full());
        fill.add(1);
        assert!(fill.is_full());
    }

    #[test]
    fn incident_59_a_poison_row_is_isolated_and_then_reported_alone() {
        assert_eq!(after_error(&poison(), 2), AfterError::Isolate);
        let AfterError::Refuse(failure) = after_error(&poison(), 1) else { panic!("not refused") };
        assert_eq!(failure.kind, FailureKind::PoisonRow);
    }

    #[test]
    fn a_stored_row_that_cannot_be_read_never_costs_the_report() {
        let unreadable = StoreError::Unreadable("tasks.steps: unknown".into());
        assert_eq!(after_error(&unreadable, 2), AfterError::Isolate);
        assert!(
            matches!(after_error(&unreadable, 1), AfterError::PutBack(why) if why.contains("tasks.steps"))
        );
    }

    #[test]
    fn a_message_of_which_something_may_still_be_settled_is_not_nacked() {
        let refuse = after_error(&poison(), 1);
        let put_back = after_error(&StoreError::Unreadable("tasks.steps".into()), 1);
        for (one, other, then) in [
            (&refuse, &refuse, &refuse),
            (&refuse, &put_back, &put_back),
            (&put_back, &refuse, &put_back),
            (&put_back, &AfterError::Wait, &AfterError::Wait),
        ] {
            assert_eq!(one.clone().or_graver(other.clone()), *then);
        }
    }

    #[test]
    fn trouble_that_is_not_the_messages_fault_never_nacks_it() {
        for error in [
            StoreError::Transient("away".into()),
            StoreError::Contention("deadlock".into()),
            StoreError::FenceMiss { table: "tasks", matched: 0, expected: 1 },
            StoreError::Statement("column does not exist".into()),
            StoreError::Schema("newer".into()),
        ] {
            for messages in [1, 2] {
                assert_eq!(after_error(&error, messages), AfterError::Wait, "{error}");
            }
        }
    }

    #[test]
    fn incident_01_a_panic_is_isolated_and_then_recorded_with_its_place_and_backtrace() {
        let panic = PanicCapture {
            message: "index out of bounds".into(),
            location: Some("settle.rs:1:1".into()),
            backtrace: "frames".into(),
            task_name: "settle".into(),
            thread: "main".into(),
            fields: Vec::new(),
        };
        assert_eq!(after_panic(&panic, 2), AfterError::Isolate);
        let AfterError::Refuse(failure) = after_panic(&panic, 1) else { panic!("not refused") };
        assert_eq!(failure.kind, FailureKind::DispatcherPanicked);
        assert_eq!(failure.location.as_deref(), Some("settle.rs:1:1"));
        assert_eq!(failure.backtrace.as_deref(), Some("frames"));
    }
}
