//! Why a report by some claim has no effect: the same judgement as that of the transition function, for reports that never reach it.
//! Read only where there is something to explain.

use std::collections::HashMap;

use switchyard_common::contract::ids::{AgentRef, TaskId};
use switchyard_common::contract::report::Claim;
use switchyard_common::task::{Attempt, Refusal, prove};

use super::db::Transaction;
use super::error::StoreError;
use super::reports::Standing;
use super::rows::{self, ATTEMPT_COLUMNS};
use super::save::int;

/// A claim with whoever makes it, and the restore epoch that it carries.
pub(crate) type Claimed<'a> = (&'a AgentRef, i64, &'a Claim);

/// The reason of each, in order.
pub(crate) async fn reasons(
    transaction: &Transaction,
    claims: &[Claimed<'_>],
) -> Result<Vec<Refusal>, StoreError> {
    if claims.is_empty() {
        return Ok(Vec::new());
    }
    let standing = Standing::load(transaction, claims.iter().map(|(sender, ..)| &sender.pool)).await?;
    let attempts = named(transaction, claims).await?;
    let reason = |(sender, epoch, claim): &Claimed<'_>| {
        let attempt = attempts.get(&(claim.task_id.clone(), claim.attempt));
        match prove(attempt, &standing.reporter(sender, *epoch), claim) {
            Err(refusal) => refusal,
            // It is open, and was not a moment ago: nobody can have been given it then.
            Ok(attempt) => {
                attempt.end.as_ref().map_or(Refusal::UnknownAttempt, |end| Refusal::Ended(end.outcome))
            }
        }
    };
    Ok(claims.iter().map(reason).collect())
}

async fn named(
    transaction: &Transaction,
    claims: &[Claimed<'_>],
) -> Result<HashMap<(TaskId, u32), Attempt>, StoreError> {
    let ids: Vec<&str> = claims.iter().map(|(.., claim)| claim.task_id.as_str()).collect();
    let numbers: Vec<i32> = claims.iter().map(|(.., claim)| int(claim.attempt)).collect();
    let mut attempts = HashMap::new();
    for row in transaction.query(&named_sql(), &[&ids, &numbers]).await? {
        let task_id: TaskId = rows::parsed("task_id", row.get::<_, &str>("task_id").parse())?;
        let attempt = rows::attempt(&row)?;
        attempts.insert((task_id, attempt.number), attempt);
    }
    Ok(attempts)
}

pub(super) fn named_sql() -> String {
    format!(
        "SELECT {ATTEMPT_COLUMNS} FROM (SELECT DISTINCT * FROM unnest($1::text[], $2::integer[]) u(task_id, attempt)) u \
         JOIN attempts a ON a.task_id = u.task_id AND a.attempt = u.attempt"
    )
}
