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

/// The order in which events are handled alone: another one begins each time that they come back. The one that whoever had them died of
/// cannot be told from the others that were in hand with it, so each of these must have had its turn before it is taken for poison.
#[must_use]
pub fn in_turn<T>(mut alone: Vec<T>, deliveries: impl Fn(&T) -> u64) -> Vec<T> {
    let most = alone.iter().map(deliveries).max().unwrap_or_default();
    let first = usize::try_from(most).unwrap_or_default().checked_rem(alone.len()).unwrap_or_default();
    alone.rotate_left(first);
    alone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_in_hand_with_a_poison_event_has_its_turn_before_it() {
        let mut left = vec!["poison", "a", "b", "c", "d"];
        for deliveries in ALONE_FROM_DELIVERIES..POISON_FROM_DELIVERIES {
            let turns = in_turn(left.clone(), |_| deliveries);
            let handled: Vec<&str> = turns.into_iter().take_while(|event| *event != "poison").collect();
            left.retain(|event| !handled.contains(event));
        }
        assert_eq!(left, ["poison"]);
        assert_eq!(in_turn(Vec::<u64>::new(), |deliveries| *deliveries), Vec::<u64>::new());
    }

    #[test]
    fn an_event_is_handled_alone_from_its_limit_on_and_is_poison_from_the_next() {
        assert_eq!(handling(0), Handling::Together);
        assert_eq!(handling(ALONE_FROM_DELIVERIES - 1), Handling::Together);
        assert_eq!(handling(ALONE_FROM_DELIVERIES), Handling::Alone);
        assert_eq!(handling(POISON_FROM_DELIVERIES - 1), Handling::Alone);
        assert_eq!(handling(POISON_FROM_DELIVERIES), Handling::Poison);
    }
}
