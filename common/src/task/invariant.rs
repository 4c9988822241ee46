//! What must hold of every task at rest. The CHECK constraints of the schema say the same; tests hold the two together.

use super::model::Task;
use super::status::Status;

/// A broken invariant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Incidents 1, 42.
    #[error("agent, pod, session and lease must be set exactly in assigned, running and uncertain")]
    Assignee,
    /// Incident 38.
    #[error("finished_at must be set exactly in terminal states")]
    FinishedAt,
    /// Incidents 20 to 22.
    #[error("a step that needs approval is past awaiting_approval without its approval record")]
    Unapproved,
    /// Incident 21.
    #[error("awaiting_approval needs a step that asks for approval, without one, and an artifact to approve")]
    Awaiting,
    /// Incident 9, 46.
    #[error(
        "an exclusive task must hold its workspace while it is assigned, running, uncertain or awaiting approval"
    )]
    Holds,
    /// Incident 10.
    #[error("a kind that is not exclusive holds and waits for no workspace")]
    NotExclusive,
    /// Design 4.
    #[error("a terminal task holds nothing")]
    TerminalHolds,
    /// Design 4.
    #[error("the step index is outside the steps")]
    Step,
    /// Protocol B8.
    #[error("uncertain is only for a non-repeatable step that has started")]
    Uncertain,
}

/// Checks a task at rest.
pub fn check(task: &Task) -> Result<(), Violation> {
    let status = task.status;
    let ensure = |holds: bool, violation: Violation| if holds { Ok(()) } else { Err(violation) };
    ensure(task.step < task.steps.len(), Violation::Step)?;
    ensure(task.assignee.is_some() == status.has_assignee(), Violation::Assignee)?;
    ensure(task.finished_at.is_some() == status.is_terminal(), Violation::FinishedAt)?;
    ensure(!(status.is_terminal() && task.holds), Violation::TerminalHolds)?;
    ensure(
        task.exclusive || (!task.holds && task.position.is_none() && status != Status::Blocked),
        Violation::NotExclusive,
    )?;
    let past_gate = status == Status::Pending || status.has_assignee();
    ensure(!past_gate || task.is_approved_for_step(), Violation::Unapproved)?;
    if status == Status::AwaitingApproval {
        let waits = task.current_step().approval && task.approval.is_none() && task.artifact.is_some();
        ensure(waits, Violation::Awaiting)?;
    }
    let in_progress = status.has_assignee() || status == Status::AwaitingApproval;
    ensure(!(task.exclusive && in_progress) || task.holds, Violation::Holds)?;
    let uncertain = status == Status::Uncertain;
    ensure(!uncertain || (task.step_started && !task.current_step().repeatable), Violation::Uncertain)
}
