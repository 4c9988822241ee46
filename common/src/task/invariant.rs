//! What must hold of every task at rest. The CHECK constraints of the schema say the same; tests hold the two together.

use super::model::{Subject, Task};
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
    /// Protocol E2, H.
    #[error(
        "a task that is blocked, holds its workspace, or is exclusive and due must have a position in it"
    )]
    Position,
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
    /// Design 6.4: `assigned` proves that nothing has run.
    #[error("step_started must be set for a running non-repeatable step, and before that for none")]
    StepStarted,
    /// Protocol H: a cancel of a task that nobody has in hand ends it at once.
    #[error("a task with a cancel request cannot go on waiting")]
    CancelledWaits,
    /// Design 4: one open attempt per task, exactly while somebody has it in hand.
    #[error(
        "the open attempt must be the newest one, of the current step, and the task's assignee must have it"
    )]
    OpenAttempt,
    /// Protocol A4.
    #[error("the attempt's number is not among those that the task has used")]
    AttemptNumber,
    /// Protocol B7.
    #[error("an open attempt has a start time exactly when it runs, and a nonce only when it was asked for")]
    AttemptStart,
}

fn ensure(holds: bool, violation: Violation) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(violation) }
}

/// Checks a task at rest.
pub fn check(task: &Task) -> Result<(), Violation> {
    let status = task.status;
    ensure(task.step < task.steps.len(), Violation::Step)?;
    ensure(task.assignee.is_some() == status.has_assignee(), Violation::Assignee)?;
    ensure(task.finished_at.is_some() == status.is_terminal(), Violation::FinishedAt)?;
    let past_gate = status == Status::Pending || status.has_assignee();
    ensure(!past_gate || task.is_approved_for_step(), Violation::Unapproved)?;
    if status == Status::AwaitingApproval {
        let waits = task.current_step().approval && task.approval.is_none() && task.artifact.is_some();
        ensure(waits, Violation::Awaiting)?;
    }
    let waits = matches!(status, Status::Blocked | Status::Pending | Status::AwaitingApproval);
    ensure(!waits || task.cancel.is_none(), Violation::CancelledWaits)?;
    check_start(task)?;
    check_workspace(task)
}

/// What is said about the start of a non-repeatable step.
fn check_start(task: &Task) -> Result<(), Violation> {
    let status = task.status;
    let repeatable = task.current_step().repeatable;
    let started = task.step_started && !repeatable;
    ensure(status != Status::Uncertain || started, Violation::Uncertain)?;
    let must_not =
        matches!(status, Status::Blocked | Status::Pending | Status::AwaitingApproval | Status::Assigned);
    ensure(!(task.step_started && (must_not || repeatable)), Violation::StepStarted)?;
    ensure(status != Status::Running || repeatable || started, Violation::StepStarted)
}

/// What is said about the workspace.
fn check_workspace(task: &Task) -> Result<(), Violation> {
    let status = task.status;
    ensure(!(status.is_terminal() && task.holds), Violation::TerminalHolds)?;
    if !task.exclusive {
        let free = !task.holds && task.position.is_none() && status != Status::Blocked;
        return ensure(free, Violation::NotExclusive);
    }
    let in_progress = status.has_assignee() || status == Status::AwaitingApproval;
    ensure(!in_progress || task.holds, Violation::Holds)?;
    let due = status == Status::Pending && task.run_after.is_none();
    let needs_position = due || task.holds || status == Status::Blocked;
    ensure(!needs_position || task.position.is_some(), Violation::Position)
}

/// Checks a task at rest together with one of its attempts.
pub fn check_subject(subject: &Subject) -> Result<(), Violation> {
    let task = &subject.task;
    check(task)?;
    let Some(attempt) = &subject.attempt else {
        return ensure(!task.status.has_assignee() || task.attempts > 0, Violation::AttemptNumber);
    };
    ensure((1..=task.attempts).contains(&attempt.number), Violation::AttemptNumber)?;
    let open = attempt.end.is_none();
    let newest = attempt.number == task.attempts;
    ensure(open == (newest && task.status.has_assignee()), Violation::OpenAttempt)?;
    if !open {
        return Ok(());
    }
    let in_hand = task.assignee.as_ref() == Some(&attempt.assignee);
    ensure(in_hand && attempt.step == task.step, Violation::OpenAttempt)?;
    ensure(attempt.repeatable == task.current_step().repeatable, Violation::OpenAttempt)?;
    let runs = task.status != Status::Assigned;
    ensure(attempt.started_at.is_some() == runs, Violation::AttemptStart)?;
    ensure(attempt.nonce.is_some() == (runs && !attempt.repeatable), Violation::AttemptStart)
}
