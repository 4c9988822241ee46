//! Accepted events are remembered by source and id; a copy gets the same answer again (protocol H). Rejected ones are not.

use std::collections::HashMap;

use switchyard_common::contract::answer::Accepted;
use switchyard_common::failure::FailureKind;

use super::Batch;
use crate::intake::command::{Admitted, EventKey, Rejection, Verdict};
use crate::store::rows::parsed;
use crate::store::{StoreError, Transaction};

const FIND: &str = "SELECT e.source, e.event_id, e.body_hash, e.answer FROM events e \
    JOIN unnest($1::text[], $2::text[]) u(source, event_id) ON e.source = u.source AND e.event_id = u.event_id";

const INSERT: &str = "INSERT INTO events (source, event_id, event_type, body_hash, task_id, answer) \
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::text[], $6::jsonb[]) \
    ON CONFLICT (source, event_id) DO NOTHING";

/// What is known of an event with the same key.
pub(super) struct Known {
    body_hash: Vec<u8>,
    answer: Option<Accepted>,
    /// The place of the first one in this batch.
    first: Option<usize>,
}

impl Batch<'_> {
    /// Gives copies of stored events their answer, and refuses ids that were used for another body.
    pub(super) fn answer_copies(&mut self, mut known: HashMap<EventKey, Known>) {
        for (index, event) in self.events.iter().enumerate() {
            match known.get(&event.key) {
                Some(earlier) if earlier.body_hash != event.body_hash.as_bytes() => {
                    if earlier.answer.is_some() {
                        self.copies.insert(event.key.clone());
                    }
                    self.verdicts[index] = Some(Verdict::Rejected(conflict(&event.key)));
                }
                Some(Known { answer: Some(answer), .. }) => {
                    metrics::counter!("switchyard_event_copies_total").increment(1);
                    self.copies.insert(event.key.clone());
                    self.verdicts[index] = Some(Verdict::Accepted(answer.clone()));
                }
                Some(Known { first: Some(first), .. }) => self.inner_copies.push((index, *first)),
                // Stored events have an answer, and those of this batch a place.
                Some(Known { answer: None, first: None, .. }) => {}
                None => {
                    let first = Known {
                        body_hash: event.body_hash.as_bytes().to_vec(),
                        answer: None,
                        first: Some(index),
                    };
                    known.insert(event.key.clone(), first);
                }
            }
        }
    }

    /// A rejection may be the work of a copy that another replica stored since this batch looked: the event met its own effect. Then
    /// the batch is repeated, and finds the copy.
    pub(super) async fn recheck_rejected(&self) -> Result<(), StoreError> {
        let rejected =
            |verdict: &Option<Verdict>| matches!(verdict, Some(Verdict::Rejected(_) | Verdict::Hold(_)));
        let suspects: Vec<&EventKey> = self
            .events
            .iter()
            .zip(&self.verdicts)
            .filter(|(event, verdict)| rejected(verdict) && !self.copies.contains(&event.key))
            .map(|(event, _)| &event.key)
            .collect();
        if suspects.is_empty() {
            return Ok(());
        }
        let sources: Vec<&str> = suspects.iter().map(|key| key.source.as_str()).collect();
        let ids: Vec<&str> = suspects.iter().map(|key| key.id.as_str()).collect();
        if self.transaction.query(FIND, &[&sources, &ids]).await?.is_empty() {
            return Ok(());
        }
        Err(StoreError::Contention(
            "another replica stored a copy of an event that this batch would reject".into(),
        ))
    }

    /// Writes what was accepted. Another replica may have stored a copy meanwhile: then the batch is repeated and finds it.
    pub(super) async fn remember(&self) -> Result<(), StoreError> {
        let mut accepted: Vec<_> = self
            .events
            .iter()
            .zip(&self.verdicts)
            .filter_map(|(event, verdict)| match verdict {
                Some(Verdict::Accepted(answer)) => Some((event, answer)),
                Some(Verdict::Rejected(_) | Verdict::Hold(_)) | None => None,
            })
            .collect();
        accepted.retain(|(event, _)| !self.copies.contains(&event.key));
        accepted.sort_by(|(a, _), (b, _)| a.key.cmp(&b.key));
        if accepted.is_empty() {
            return Ok(());
        }
        let sources: Vec<&str> = accepted.iter().map(|(event, _)| event.key.source.as_str()).collect();
        let ids: Vec<&str> = accepted.iter().map(|(event, _)| event.key.id.as_str()).collect();
        let types: Vec<&str> = accepted.iter().map(|(event, _)| event.event_type).collect();
        let hashes: Vec<&[u8]> =
            accepted.iter().map(|(event, _)| event.body_hash.as_bytes().as_slice()).collect();
        let tasks: Vec<Option<&str>> =
            accepted.iter().map(|(_, answer)| answer.task_id.as_ref().map(|id| id.as_str())).collect();
        let answers: Vec<serde_json::Value> = parsed(
            "events.answer",
            accepted.iter().map(|(_, answer)| serde_json::to_value(answer)).collect::<Result<_, _>>(),
        )?;
        let written =
            self.transaction.execute(INSERT, &[&sources, &ids, &types, &hashes, &tasks, &answers]).await?;
        if written == accepted.len() as u64 {
            return Ok(());
        }
        Err(StoreError::Contention("another replica stored a copy of an event of this batch".into()))
    }
}

/// What is stored under the keys of `events`.
pub(super) async fn stored(
    transaction: &Transaction,
    events: &[Admitted],
) -> Result<HashMap<EventKey, Known>, StoreError> {
    let sources: Vec<&str> = events.iter().map(|event| event.key.source.as_str()).collect();
    let ids: Vec<&str> = events.iter().map(|event| event.key.id.as_str()).collect();
    let mut known = HashMap::new();
    for row in transaction.query(FIND, &[&sources, &ids]).await? {
        let key = EventKey { source: row.get("source"), id: row.get("event_id") };
        let answer = parsed("events.answer", serde_json::from_value(row.get("answer")))?;
        known.insert(key, Known { body_hash: row.get("body_hash"), answer: Some(answer), first: None });
    }
    Ok(known)
}

fn conflict(key: &EventKey) -> Rejection {
    Rejection::new(
        FailureKind::IdConflict,
        format!("event {} of {} was accepted before with another body", key.id, key.source),
        "publish a changed event under a new id",
    )
}
