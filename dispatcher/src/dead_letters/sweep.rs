//! Letters whose other half does not come: completed as they are, and the attempt behind a letter without a failure is stopped
//! (protocol D3).

use std::collections::BTreeSet;

use switchyard_common::contract::ids::TaskId;
use switchyard_common::failure::Failure;
use switchyard_common::task::{Input, RevokeReason};

use super::arrival::broker_failure;
use crate::store::letters::Letter;
use crate::store::letters::completion::{Completion, HALF_WAIT_SECONDS, complete, overdue};
use crate::store::{Applied, Db, Named, StoreError, apply};

/// Letters of one round.
const ROUND_MAX_COUNT: usize = 200;

/// What a round did.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SweepReport {
    /// Letters that were completed as they are.
    pub completed: u64,
    /// Attempts that were asked to end; the requests are durable and sent by the sweep that repeats them.
    pub revoked: Vec<Applied>,
    /// There may be more.
    pub more: bool,
}

/// One round.
pub async fn run_once(db: &Db) -> Result<SweepReport, StoreError> {
    let letters = overdue(db, ROUND_MAX_COUNT).await?;
    // The attempts first: a crash in between repeats the request, which changes nothing, and must not lose it.
    let (revoked, waiting) = revoke_all(db, &letters).await?;
    for applied in &revoked {
        tracing::warn!(
            task_id = %applied.named.task_id,
            attempt = applied.named.attempt,
            asked = applied.after().is_some(),
            "the broker dead-lettered an assignment and no failure report came; its attempt is asked to end where that is safe"
        );
    }
    let ready = letters.iter().filter(|letter| !waiting.contains(&letter.letter_id));
    let completions: Vec<Completion> = ready.map(completion).collect();
    let completed = complete(db, &completions).await?;
    Ok(SweepReport { completed, revoked, more: completed > 0 && letters.len() == ROUND_MAX_COUNT })
}

/// Asks the attempts behind letters to end. A task that cannot be read or written holds up its own letters alone, whose numbers are given:
/// the others' must be completed, or nobody is told of them (incident 59).
async fn revoke_all(db: &Db, letters: &[Letter]) -> Result<(Vec<Applied>, BTreeSet<i64>), StoreError> {
    let (ids, revokes): (Vec<i64>, Vec<Named>) =
        letters.iter().filter_map(|letter| Some((letter.letter_id, revoke(letter)?))).unzip();
    match apply(db, &revokes).await {
        Err(error) if error.is_of_the_row() => {}
        together => return Ok((together?, BTreeSet::new())),
    }
    let (mut revoked, mut waiting) = (Vec::new(), BTreeSet::new());
    for (letter_id, named) in ids.into_iter().zip(revokes) {
        match apply(db, std::slice::from_ref(&named)).await {
            Ok(one) => revoked.extend(one),
            Err(error) if error.is_of_the_row() => {
                tracing::error!(letter_id, task_id = %named.task_id, attempt = named.attempt, %error,
                    "the attempt behind a dead letter cannot be asked to end; the letter waits until it can");
                waiting.insert(letter_id);
            }
            Err(error) => return Err(error),
        }
    }
    Ok((revoked, waiting))
}

/// Only a copy that carries the attempt's lease has the origin `attempt`: a forged one never gets here. What a running step that is
/// not repeatable makes of the request is the transition function's: it is only recorded.
fn revoke(letter: &Letter) -> Option<Named> {
    if letter.failure_kind.is_some() || letter.origin != "attempt" {
        return None;
    }
    let task_id: TaskId = letter.task_id.as_ref()?.parse().ok()?;
    let attempt = u32::try_from(letter.attempt?).ok()?;
    Some(Named {
        task_id,
        attempt: Some(attempt),
        input: Input::Revoke { reason: RevokeReason::BrokerLetter },
    })
}

fn completion(letter: &Letter) -> Completion {
    if letter.failure_kind.is_some() {
        let remark = format!("the broker's copy did not come within {HALF_WAIT_SECONDS} s");
        return Completion { letter_id: letter.letter_id, failure: None, remark };
    }
    let (kind, what) = broker_failure(letter.x_death.as_ref());
    Completion {
        letter_id: letter.letter_id,
        failure: Some(Failure::new(kind, format!("the broker dead-lettered the message: {what}"))),
        remark: format!("no failure was reported within {HALF_WAIT_SECONDS} s"),
    }
}
