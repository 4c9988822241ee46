//! Whether whoever reports may speak for an attempt: the one judgement of claims.

use crate::contract::report::Claim;
use crate::task::model::{Attempt, Subject};

use super::types::{Refusal, Reporter};

/// The attempt that a claim names, once the claim is proven (protocol A5).
pub(super) fn proven<'a>(
    subject: &'a Subject,
    reporter: &Reporter,
    claim: &Claim,
) -> Result<&'a Attempt, Refusal> {
    let named = subject
        .attempt
        .as_ref()
        .filter(|attempt| attempt.number == claim.attempt && subject.task.id == claim.task_id);
    prove(named, reporter, claim)
}

/// Whether `reporter` may speak by `claim` for the attempt that it names, if there is one (protocol A5).
///
/// # Errors
/// The first reason why not.
pub fn prove<'a>(
    named: Option<&'a Attempt>,
    reporter: &Reporter,
    claim: &Claim,
) -> Result<&'a Attempt, Refusal> {
    let attempt = named.ok_or(Refusal::UnknownAttempt)?;
    if !reporter.granted {
        return Err(Refusal::PoolRevoked);
    }
    if attempt.assignee.agent != reporter.agent {
        return Err(Refusal::ForeignAgent);
    }
    if attempt.assignee.lease != claim.lease {
        return Err(Refusal::WrongToken);
    }
    if attempt.assignee.session != claim.session {
        return Err(Refusal::OtherSession);
    }
    if !reporter.epoch_is_current {
        return Err(Refusal::StaleEpoch);
    }
    Ok(attempt)
}
