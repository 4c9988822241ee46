//! Lets acts happen to a task and checks every decision.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use switchyard_common::contract::artifact::Manifest;
use switchyard_common::contract::ids::{self, LeaseToken, Nonce, SessionId, TaskId};
use switchyard_common::contract::report::{Claim, NotStarted, OutcomeEnd};
use switchyard_common::failure::{Failure, FailureKind};
use switchyard_common::task::{
    AssignTo, Attempt, AttemptOutcome, Context, Decision, Effect, Input, Place, Reporter, ResolveTo, Status,
    Subject, Task, Verdict, check_subject, releases_workspace, transition,
};
use uuid::Uuid;

use super::act::{Act, Digest, End, Event, Flaw, Said, Speaker};
use super::valid;

/// A task with all its attempts, and what must be remembered to judge its life.
pub(crate) struct Machine {
    task: Task,
    attempts: BTreeMap<u32, Attempt>,
    now: DateTime<Utc>,
    draws: u128,
    /// Nonces that were ever granted, by step and attempt.
    granted: BTreeMap<usize, BTreeSet<(u32, Nonce)>>,
}

impl Machine {
    pub(crate) fn of(subject: Subject) -> Self {
        let mut granted: BTreeMap<usize, BTreeSet<_>> = BTreeMap::new();
        if let Some(Attempt { number, step, nonce: Some(nonce), .. }) = &subject.attempt {
            granted.entry(*step).or_default().insert((*number, *nonce));
        }
        let attempts = subject.attempt.into_iter().map(|attempt| (attempt.number, attempt)).collect();
        Self { task: subject.task, attempts, now: valid::start_of_time(), draws: 1_000, granted }
    }

    /// The task with its newest attempt.
    pub(crate) fn subject(&self) -> Subject {
        Subject { task: self.task.clone(), attempt: self.attempts.get(&self.task.attempts).cloned() }
    }

    pub(crate) fn perform(&mut self, act: &Act) {
        match act {
            Act::Wait { seconds } => self.now += TimeDelta::seconds(*seconds),
            Act::Publish => self.with_open_attempt(|attempt| attempt.publish_no += 1),
            Act::Confirm => self.with_open_attempt(|attempt| attempt.confirmed = true),
            Act::Report(by, said) => {
                let Some((reporter, claim)) = self.speak(*by) else { return };
                let subject = self.subject_with(claim.attempt);
                let input = self.report(*said, reporter, claim);
                self.decide(subject, &input, by.flaw != Flaw::None);
            }
            Act::Happen(event) => {
                let input = self.input(*event);
                self.decide(self.subject(), &input, false);
            }
        }
    }

    fn with_open_attempt(&mut self, change: impl FnOnce(&mut Attempt)) {
        if let Some(attempt) = self.attempts.get_mut(&self.task.attempts).filter(|a| a.end.is_none()) {
            change(attempt);
        }
    }

    /// The task with the attempt that a claim names, as the store loads it.
    fn subject_with(&self, number: u32) -> Subject {
        Subject { task: self.task.clone(), attempt: self.attempts.get(&number).cloned() }
    }

    fn draw(&mut self) -> Uuid {
        self.draws += 1;
        Uuid::from_u128(self.draws)
    }

    /// A report's sender and claim, with the flaw put in. None when there is no such attempt to speak for.
    fn speak(&mut self, by: Speaker) -> Option<(Reporter, Claim)> {
        let attempt = self.attempts.get(&self.task.attempts.checked_sub(by.back)?)?;
        let mut reporter =
            Reporter { agent: attempt.assignee.agent.clone(), granted: true, epoch_is_current: true };
        let mut claim = Claim {
            task_id: self.task.id.clone(),
            attempt: attempt.number,
            session: attempt.assignee.session,
            lease: attempt.assignee.lease,
        };
        match by.flaw {
            Flaw::None => {}
            Flaw::Agent => reporter.agent = valid::agent(9, true),
            Flaw::Pool => reporter.agent.pool = valid::pool(false),
            Flaw::Lease => claim.lease = LeaseToken(self.draw()),
            Flaw::Session => claim.session = SessionId(self.draw()),
            Flaw::Task => claim.task_id = TaskId::new("task-2").unwrap(),
            Flaw::Attempt => claim.attempt += 100,
            Flaw::Grant => reporter.granted = false,
            Flaw::Epoch => reporter.epoch_is_current = false,
        }
        Some((reporter, claim))
    }

    fn report(&mut self, said: Said, reporter: Reporter, claim: Claim) -> Input {
        match said {
            Said::Ask { nonce } => {
                // Each delivery draws its own nonce: a few per attempt are enough.
                let nonce = Nonce(Uuid::from_u128(u128::from(claim.attempt) * 10 + u128::from(nonce)));
                Input::Ask { reporter, claim, nonce }
            }
            Said::Started => Input::Started { reporter, claim },
            Said::Outcome(end) => Input::Outcome { reporter, claim, end: self.end(end) },
        }
    }

    fn end(&mut self, end: End) -> OutcomeEnd {
        let failure = |kind| Failure::new(kind, "as drawn");
        match end {
            End::Succeeded { changes, artifact } => {
                let bytes = self.draw().as_bytes().to_vec();
                let files = artifact.then(|| ("plan".to_owned(), bytes)).into_iter().collect();
                OutcomeEnd::Succeeded { changes, artifacts: Manifest::of(&files).unwrap(), result: None }
            }
            End::Failed => OutcomeEnd::Failed { failure: failure(FailureKind::HandlerFailed) },
            End::Panicked => OutcomeEnd::Panicked { failure: failure(FailureKind::HandlerPanicked) },
            End::TimedOut => OutcomeEnd::TimedOut { failure: failure(FailureKind::RunTimeout) },
            End::Cancelled(by) => OutcomeEnd::Cancelled { by },
            End::NotStarted(reason) => OutcomeEnd::NotStarted { reason },
        }
    }

    fn input(&mut self, event: Event) -> Input {
        match event {
            Event::Due { is_head } => Input::Due { place: Some(Place { position: 5, is_head }) },
            Event::Promote => Input::Promote,
            Event::Assign { agent, own_pool } => self.assignment(agent, own_pool),
            Event::Returned { publish_no } => Input::Returned { publish_no },
            Event::SessionEnded { own, reason } => {
                let session = self.attempts.get(&self.task.attempts).map(|a| a.assignee.session);
                let session = session.filter(|_| own).unwrap_or(SessionId(Uuid::max()));
                Input::SessionEnded { session, reason }
            }
            Event::NotListed => Input::NotListed,
            Event::Revoke(reason) => Input::Revoke { reason },
            Event::DeadlinePassed => Input::DeadlinePassed,
            Event::QueueTimeout => Input::QueueTimeout,
            Event::ApprovalExpired => Input::ApprovalExpired,
            Event::Approve(which) => {
                let current = self.task.artifact.as_ref().map(|artifact| artifact.digest.clone());
                let digest = match which {
                    Digest::Current => current,
                    Digest::Other => Some(ids::Digest::of(b"other")),
                    Digest::Unnamed => None,
                };
                Input::Approve { by: "ann".into(), digest }
            }
            Event::Discard => Input::Discard { by: "ann".into() },
            Event::Cancel { force } => Input::Cancel { by: "bob".into(), force },
            Event::Resolve { to, session_over, named } => Input::Resolve {
                by: "ann".into(),
                to,
                session_over,
                override_reason: named.then(|| "host is gone".to_owned()),
            },
            Event::RetryNow => Input::RetryNow,
        }
    }

    fn assignment(&mut self, agent: u8, own_pool: bool) -> Input {
        let agent = valid::agent(agent, own_pool);
        let (session, lease) = (SessionId(self.draw()), LeaseToken(self.draw()));
        Input::Assign(AssignTo { agent, pod: "pod".into(), session, lease })
    }

    /// Decides, checks, and keeps what changed.
    fn decide(&mut self, subject: Subject, input: &Input, flawed: bool) {
        let decision = transition(&subject, input, &Context::new(self.now, 0.5));
        check_effects(&subject, input, &decision, flawed);
        if let Verdict::Changed(next) = &decision.verdict {
            assert!(!flawed, "{input:?} was believed");
            check_change(&subject, next, input);
            self.check_life(next, input);
            self.task = next.task.clone();
            if let Some(attempt) = &next.attempt {
                self.attempts.insert(attempt.number, attempt.clone());
            }
        }
        self.check_starts(&decision);
    }

    /// What must hold over the task's whole life.
    fn check_life(&self, next: &Subject, input: &Input) {
        let Some(attempt) = &next.attempt else { return };
        if next.task.attempts != self.task.attempts {
            assert!(matches!(input, Input::Assign(_)), "{input:?} made an attempt");
            assert_eq!(next.task.attempts, self.task.attempts + 1);
            assert!(!self.attempts.contains_key(&attempt.number), "attempt {} is used twice", attempt.number);
            let step = next.task.current_step();
            assert!(!step.approval || next.task.is_approved_for_step(), "an unapproved step was assigned");
        }
        if let Some(before) = self.attempts.get(&attempt.number) {
            assert!(before.end.is_none() || before == attempt, "{input:?} changed an attempt that had ended");
            assert!(before.nonce.is_none() || before.nonce == attempt.nonce, "{input:?} changed the nonce");
        }
    }

    /// A non-repeatable step is allowed to start for one nonce, save where its agent proves that it did not use it.
    fn check_starts(&mut self, decision: &Decision) {
        for effect in &decision.effects {
            if let Effect::Go { nonce } = effect {
                let attempt = &self.attempts[&self.task.attempts];
                assert_eq!((self.task.status, attempt.nonce), (Status::Running, Some(*nonce)));
                self.granted.entry(attempt.step).or_default().insert((attempt.number, *nonce));
            }
        }
        for (step, granted) in &self.granted {
            let given_back = |number: &u32| {
                let end = self.attempts.get(number).and_then(|attempt| attempt.end);
                end.is_some_and(|end| end.outcome == AttemptOutcome::NotStarted)
            };
            let open: Vec<_> = granted.iter().filter(|(number, _)| !given_back(number)).collect();
            assert!(open.len() <= 1, "step {step} was allowed to start as {open:?}");
            let numbers: BTreeSet<_> = granted.iter().map(|(number, _)| number).collect();
            assert_eq!(numbers.len(), granted.len(), "one attempt was granted two nonces");
            let reassigned = self.task.step == *step && self.task.status == Status::Assigned;
            assert!(open.is_empty() || !reassigned, "a started step was assigned again");
        }
    }

    /// Does what a friendly world would do until the task has ended.
    pub(crate) fn drive_to_the_end(&mut self) {
        const INPUTS_MAX: usize = 60;
        for _ in 0..INPUTS_MAX {
            if self.task.status.is_terminal() {
                return;
            }
            let before = self.task.version;
            self.now += TimeDelta::minutes(5);
            let input = self.friendly_input();
            self.decide(self.subject(), &input, false);
            assert!(self.task.version > before, "{input:?} brings no progress from {:?}", self.task);
        }
        panic!("no end in sight: {:?}", self.task);
    }

    fn friendly_input(&mut self) -> Input {
        let honest = Speaker { back: 0, flaw: Flaw::None };
        let end = End::Succeeded { changes: true, artifact: true };
        match self.task.status {
            Status::Blocked => Input::Promote,
            Status::Pending if self.task.run_after.is_some() => self.input(Event::Due { is_head: true }),
            Status::Pending => self.assignment(0, true),
            Status::Assigned if !self.task.current_step().repeatable => {
                let (reporter, claim) = self.speak(honest).unwrap();
                let revoked = self.subject().attempt.is_some_and(|attempt| attempt.revoke.is_some());
                if revoked {
                    let end = OutcomeEnd::NotStarted { reason: NotStarted::Revoked };
                    return Input::Outcome { reporter, claim, end };
                }
                self.report(Said::Ask { nonce: 0 }, reporter, claim)
            }
            Status::Assigned | Status::Running => {
                let (reporter, claim) = self.speak(honest).unwrap();
                self.report(Said::Outcome(end), reporter, claim)
            }
            Status::AwaitingApproval => self.input(Event::Approve(Digest::Unnamed)),
            Status::Uncertain => {
                self.input(Event::Resolve { to: ResolveTo::Failed, session_over: true, named: false })
            }
            Status::Succeeded | Status::Failed | Status::Cancelled => Input::Promote,
        }
    }
}

/// What must hold of what a decision asks for.
fn check_effects(subject: &Subject, input: &Input, decision: &Decision, flawed: bool) {
    let mut broker_letters = 0;
    for effect in &decision.effects {
        match effect {
            Effect::Go { .. } | Effect::SendRevoke => assert!(!flawed, "{input:?} had {effect:?}"),
            Effect::NoGo { .. } => assert!(matches!(input, Input::Ask { .. })),
            Effect::Letter { broker_copy, .. } => {
                assert!(!flawed, "{input:?} left evidence");
                broker_letters += usize::from(*broker_copy);
            }
        }
    }
    if let Input::Ask { .. } = input {
        assert_eq!(decision.effects.len(), 1, "an ask has exactly one answer");
    }
    // Every nack has one dead letter with its failure.
    let nacks = matches!(input, Input::Outcome { end, .. } if end.failure().is_some());
    assert_eq!(broker_letters, usize::from(nacks && !flawed), "{input:?} on {:?}", subject.task.status);
}

/// What must hold between a subject and what an input made of it.
fn check_change(before: &Subject, after: &Subject, input: &Input) {
    let (old, new) = (&before.task, &after.task);
    assert_eq!(check_subject(after), Ok(()), "{input:?} on {before:?}");
    assert!(!old.status.is_terminal(), "{input:?} changed a task that had ended");
    let unstarted = old.status == Status::Assigned && !old.current_step().repeatable;
    if let (true, Input::Outcome { end, .. }) = (unstarted, input) {
        assert!(
            matches!(end, OutcomeEnd::NotStarted { .. }),
            "{input:?} of a step that was never allowed to start"
        );
    }
    assert!(old.status.may_become(new.status), "{input:?}: {} -> {}", old.status, new.status);
    assert_eq!(new.version, old.version + 1);
    let given =
        |task: &Task| (task.id.clone(), task.workspace.clone(), task.pool.clone(), task.steps.clone());
    assert_eq!(given(old), given(new));
    assert_eq!(
        (old.exclusive, old.auto_approve, old.deadline),
        (new.exclusive, new.auto_approve, new.deadline)
    );
    assert!(old.position.is_none() || old.position == new.position, "{input:?} moved the task");
    assert!(!old.holds || new.holds || new.status.is_terminal(), "{input:?} let go of the workspace");
    assert!(old.step == new.step || old.step + 1 == new.step);
    assert!(old.cancel.is_none() || new.cancel.is_some(), "{input:?} forgot the cancel");
    let max = Context::LOSSES_MAX_DEFAULT;
    assert!(new.losses < max || new.status.is_terminal(), "{input:?}: {} losses", new.losses);
    let tries_max = new.current_step().policy.max_attempts;
    assert!(new.charge < tries_max || new.status.is_terminal(), "{input:?}: {} tries", new.charge);
    if new.status.is_terminal() && old.position.is_some() && old.status != Status::Blocked {
        assert!(releases_workspace(old, new), "{input:?} ended a holder without releasing its waiters");
    }
    if new.step == old.step && old.status.has_assignee() && new.status.has_assignee() {
        assert_eq!(old.approval, new.approval, "{input:?} changed the approval under a running step");
    }
}
