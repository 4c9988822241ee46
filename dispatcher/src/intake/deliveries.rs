//! What the number of its deliveries says of an event (protocol D4). Pure.

/// An event that was delivered this often is handled alone.
pub const ALONE_FROM_DELIVERIES: u64 = 3;
/// An event that was delivered this often is poison.
pub const POISON_FROM_DELIVERIES: u64 = 10;

/// How an event is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Handling {
    /// In a batch with others.
    Together,
    /// In a transaction of its own, after the others: whoever had it before may have died of it.
    Alone,
    /// Not any more: it is recorded and refused.
    Poison,
}

/// How an event that came back so often is handled.
#[must_use]
pub fn handling(deliveries: u64) -> Handling {
    if deliveries >= POISON_FROM_DELIVERIES {
        Handling::Poison
    } else if deliveries >= ALONE_FROM_DELIVERIES {
        Handling::Alone
    } else {
        Handling::Together
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_handled_alone_from_its_limit_on_and_is_poison_from_the_next() {
        assert_eq!(handling(0), Handling::Together);
        assert_eq!(handling(ALONE_FROM_DELIVERIES - 1), Handling::Together);
        assert_eq!(handling(ALONE_FROM_DELIVERIES), Handling::Alone);
        assert_eq!(handling(POISON_FROM_DELIVERIES - 1), Handling::Alone);
        assert_eq!(handling(POISON_FROM_DELIVERIES), Handling::Poison);
    }
}
