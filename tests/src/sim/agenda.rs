//! What is going to happen, in order of time; among equals, in the order in which it was planned.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Simulated time, in milliseconds since the start of the run.
pub type Millis = u64;

#[derive(Debug)]
struct Entry<E> {
    at: Millis,
    number: u64,
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// The events to come, and the time of the one that came last.
#[derive(Debug)]
pub struct Agenda<E> {
    heap: BinaryHeap<Reverse<Entry<E>>>,
    planned: u64,
    now: Millis,
}

impl<E> Default for Agenda<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), planned: 0, now: 0 }
    }
}

impl<E> Agenda<E> {
    /// The simulated time.
    #[must_use]
    pub const fn now(&self) -> Millis {
        self.now
    }

    /// Plans `event` for the time `at`; what would lie in the past comes next.
    pub fn plan_at(&mut self, at: Millis, event: E) {
        self.planned += 1;
        let entry = Entry { at: at.max(self.now), number: self.planned, event };
        self.heap.push(Reverse(entry));
    }

    /// Plans `event` for `wait` milliseconds from now.
    pub fn plan_in(&mut self, wait: Millis, event: E) {
        self.plan_at(self.now.saturating_add(wait), event);
    }

    /// The next event; time moves on to it.
    pub fn take_next(&mut self) -> Option<E> {
        let Reverse(entry) = self.heap.pop()?;
        self.now = entry.at;
        Some(entry.event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_by_the_order_of_planning() {
        let mut agenda = Agenda::default();
        agenda.plan_in(5, 'c');
        agenda.plan_in(1, 'a');
        agenda.plan_in(5, 'd');
        agenda.plan_in(3, 'b');
        let mut seen = Vec::new();
        while let Some(event) = agenda.take_next() {
            seen.push((agenda.now(), event));
        }
        assert_eq!(seen, [(1, 'a'), (3, 'b'), (5, 'c'), (5, 'd')]);
    }

    #[test]
    fn time_never_goes_back() {
        let mut agenda = Agenda::default();
        agenda.plan_at(10, 'a');
        assert_eq!(agenda.take_next(), Some('a'));
        agenda.plan_at(3, 'b');
        assert_eq!((agenda.take_next(), agenda.now()), (Some('b'), 10));
    }
}
