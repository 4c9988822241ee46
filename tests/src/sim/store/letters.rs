//! Dead letters: one record per key; failure and broker copy meet in it, whichever comes first (protocol D2, D3).

use switchyard_common::contract::ids::TaskId;
use switchyard_common::failure::{Failure, FailureKind};
use switchyard_dispatcher::intake::command::{EventKey, Rejection};

use super::tables::Store;
use crate::sim::agenda::Millis;

fn event_key(key: &EventKey) -> String {
    format!("event:{}#{}", key.source, key.id)
}

/// A dead letter.
#[derive(Debug, Clone)]
pub struct Letter {
    /// Why; the first failure that was recorded.
    pub failure: Option<FailureKind>,
    /// Failures recorded after the first one.
    pub evidence: u32,
    /// A delivery is nacked: the broker's copy will come.
    pub copy_expected: bool,
    /// Copies that the broker sent.
    pub copies: u32,
    /// When the first half came.
    pub created_at: Millis,
    /// Both halves are here, or the missing one was waited for long enough.
    pub complete: bool,
}

/// The key of an attempt's letter.
pub(super) fn attempt_key(task: &TaskId, attempt: u32) -> String {
    switchyard_dispatcher::store::letters::attempts::attempt_key(task.as_str(), attempt)
}

impl Store {
    fn letter(&mut self, now: Millis, key: String) -> &mut Letter {
        self.letters.entry(key).or_insert(Letter {
            failure: None,
            evidence: 0,
            copy_expected: false,
            copies: 0,
            created_at: now,
            complete: false,
        })
    }

    /// The failure half, in the transaction that decides it.
    pub(super) fn record_failure(&mut self, now: Millis, key: String, failure: &Failure, broker_copy: bool) {
        let letter = self.letter(now, key);
        match letter.failure {
            None => letter.failure = Some(failure.kind),
            Some(_) => letter.evidence += 1,
        }
        letter.copy_expected |= broker_copy;
        letter.complete |= letter.copies > 0 || !broker_copy;
    }

    /// The broker's half.
    pub fn record_copy(&mut self, now: Millis, task: &TaskId, attempt: u32) {
        let letter = self.letter(now, attempt_key(task, attempt));
        letter.copies += 1;
        letter.complete |= letter.failure.is_some();
    }

    /// The broker's half of an event's letter.
    pub fn record_event_copy(&mut self, now: Millis, key: &EventKey) {
        let letter = self.letter(now, event_key(key));
        letter.copies += 1;
        letter.complete |= letter.failure.is_some();
    }

    /// The failure half of an event's letter.
    pub fn record_rejection(&mut self, now: Millis, key: &EventKey, rejection: &Rejection) {
        self.record_failure(now, event_key(key), &rejection.failure(), true);
    }

    /// The letter of an event.
    #[must_use]
    pub fn letter_of_event(&self, key: &EventKey) -> Option<&Letter> {
        self.letters.get(&event_key(key))
    }

    /// The letter of an attempt.
    #[must_use]
    pub fn letter_of(&self, task: &TaskId, attempt: u32) -> Option<&Letter> {
        self.letters.get(&attempt_key(task, attempt))
    }

    /// Letters whose other half did not come in time: completed as they are. Those without a failure are returned by key, so that
    /// their attempts can be revoked.
    pub fn complete_letters(&mut self, now: Millis, wait: Millis) -> Vec<String> {
        let mut without_failure = Vec::new();
        for (key, letter) in &mut self.letters {
            if letter.complete || now < letter.created_at + wait {
                continue;
            }
            letter.complete = true;
            if letter.failure.is_none() {
                letter.failure = Some(FailureKind::BrokerRejected);
                without_failure.push(key.clone());
            }
        }
        without_failure
    }
}
