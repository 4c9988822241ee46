//! Order per task: a notification is sent only when the one before it, of the same task, was confirmed. Different tasks do not wait
//! for each other.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::store::outbox::Pending;

/// The notifications of one batch, one line per task.
#[derive(Debug, Default)]
pub struct Waves {
    lines: Vec<VecDeque<Pending>>,
}

impl Waves {
    /// Puts `pending`, oldest first, into lines.
    #[must_use]
    pub fn new(pending: Vec<Pending>) -> Self {
        let mut waves = Self::default();
        let mut places: HashMap<String, usize> = HashMap::new();
        for notification in pending {
            let place = match &notification.task_id {
                // What concerns no task waits for nobody.
                None => waves.lines.len(),
                Some(task) => *places.entry(task.clone()).or_insert(waves.lines.len()),
            };
            if place == waves.lines.len() {
                waves.lines.push(VecDeque::new());
            }
            waves.lines[place].push_back(notification);
        }
        waves
    }

    /// The first of every line: they may be sent together.
    #[must_use]
    pub fn wave(&mut self) -> Vec<Pending> {
        self.lines.iter_mut().filter_map(VecDeque::pop_front).collect()
    }

    /// Those of the last wave were not confirmed: what follows them in their lines is not sent in this batch.
    pub fn stop(&mut self, unconfirmed: &[Pending]) {
        let tasks: HashSet<&str> = unconfirmed.iter().filter_map(|p| p.task_id.as_deref()).collect();
        self.lines.retain(|line| {
            !line.front().and_then(|first| first.task_id.as_deref()).is_some_and(|task| tasks.contains(task))
        });
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use serde_json::Value;
    use uuid::Uuid;

    use super::*;

    fn pending(all: &[(i64, Option<&str>)]) -> Vec<Pending> {
        all.iter()
            .map(|(id, task)| Pending {
                notification_id: *id,
                event_id: Uuid::nil(),
                task_id: task.map(ToOwned::to_owned),
                event_type: "t".into(),
                body: Value::Null,
                traceparent: None,
                created_at: DateTime::UNIX_EPOCH,
            })
            .collect()
    }

    fn ids(wave: &[Pending]) -> Vec<i64> {
        wave.iter().map(|pending| pending.notification_id).collect()
    }

    #[test]
    fn one_notification_of_a_task_is_on_its_way_at_a_time() {
        let mut waves = Waves::new(pending(&[
            (1, Some("a")),
            (2, Some("b")),
            (3, Some("a")),
            (4, None),
            (5, Some("a")),
            (6, None),
        ]));
        assert_eq!(ids(&waves.wave()), [1, 2, 4, 6]);
        assert_eq!(ids(&waves.wave()), [3]);
        assert_eq!(ids(&waves.wave()), [5]);
        assert!(waves.wave().is_empty());
    }

    #[test]
    fn what_follows_an_unconfirmed_one_is_not_sent() {
        let mut waves =
            Waves::new(pending(&[(1, Some("a")), (2, Some("b")), (3, Some("a")), (4, Some("b"))]));
        let first = waves.wave();
        waves.stop(&first[..1]);
        assert_eq!(ids(&waves.wave()), [4]);
    }
}
