//! A report as a compromised agent may send it: routing key on a line, then the body. What can be read is within its limits and stays
//! the same when it is written and read again, and whatever an attempt is told by it leaves a state that the invariants allow.

use chrono::{DateTime, Utc};
use switchyard_common::contract::ids::{
    AgentId, AgentRef, LeaseToken, PoolId, SessionId, TaskId, WorkspaceId,
};
use switchyard_common::contract::limits::{
    ARTIFACT_PART_MAX_BYTES, FAILURE_MESSAGE_MAX_CHARS, HANDLERS_MAX_COUNT, LOG_LINE_MAX_CHARS,
    LOG_REPORT_MAX_LINES, RESULT_MAX_BYTES, SLOTS_MAX_COUNT,
};
use switchyard_common::contract::report::{Outcome, OutcomeEnd, Report, ReportBody};
use switchyard_common::contract::routing::ReportKind;
use switchyard_common::task::{
    AssignTo, Context, Effect, Input, Kinds, Reporter, Status, Subject, Task, Verdict, check_subject,
    transition,
};
use switchyard_dispatcher::presence::beat::{NAME_MAX_CHARS, read_beat};
use switchyard_dispatcher::settle::manifest::Verified;
use switchyard_dispatcher::settle::outcome::admitted;
use switchyard_dispatcher::settle::read::{Heard, read};
use switchyard_dispatcher::settle::refusal;
use uuid::Uuid;

use super::fields::{escapes_nul, line};

/// What each queue takes.
const QUEUES: [&[ReportKind]; 3] = [
    &[ReportKind::Outcome, ReportKind::Artifact],
    &[ReportKind::Ask, ReportKind::Started],
    &[ReportKind::Log],
];
/// Longest complaint about a report, in characters.
const COMPLAINT_MAX_CHARS: usize = 1_000;

/// Offers a report to every queue, and what is said in it to an attempt that is assigned and to one that runs.
pub fn check(data: &[u8]) {
    let (routing_key, body) = line(data);
    for kinds in QUEUES {
        match read(&routing_key, body, kinds) {
            Ok(heard) => check_heard(&routing_key, &heard, kinds),
            Err(malformed) => check_complaint(&malformed.0),
        }
    }
    match read_beat(&routing_key, body) {
        Ok(beat) => {
            let presence = &beat.presence;
            assert!((1..=SLOTS_MAX_COUNT).contains(&presence.slots) && presence.credit <= SLOTS_MAX_COUNT);
            assert!(presence.handlers.len() <= HANDLERS_MAX_COUNT);
            let names = [Some(&presence.pod), presence.node.as_ref(), Some(&presence.version)];
            assert!(names.into_iter().flatten().all(|name| fits(name, NAME_MAX_CHARS)));
        }
        Err(malformed) => check_complaint(&malformed.0),
    }
}

fn check_complaint(text: &str) {
    assert!(!text.is_empty() && text.chars().count() <= COMPLAINT_MAX_CHARS, "{text}");
}

/// Bounded, and taken by PostgreSQL as text.
fn fits(text: &str, chars_max: usize) -> bool {
    text.chars().nth(chars_max).is_none() && !text.contains('\0')
}

fn check_heard(routing_key: &str, heard: &Heard, kinds: &[ReportKind]) {
    assert!(kinds.contains(&heard.body.kind()));
    let sender = heard.sender.key();
    assert_eq!(routing_key, format!("{}.{sender}", heard.body.name()), "the routing key names the sender");
    let report = Report { epoch: heard.epoch, body: heard.body.clone() };
    let written = serde_json::to_vec(&report).expect("a report can be written");
    assert_eq!(read(routing_key, &written, kinds).as_ref(), Ok(heard), "and read again as the same");
    match &heard.body {
        ReportBody::Outcome(batch) => batch.outcomes.iter().for_each(|outcome| check_outcome(heard, outcome)),
        ReportBody::Artifact(left) => {
            assert!((1..=ARTIFACT_PART_MAX_BYTES).contains(&left.part.bytes.len()));
        }
        ReportBody::Log(log) => {
            assert!(log.lines.len() <= LOG_REPORT_MAX_LINES);
            assert!(log.lines.iter().all(|line| line.sequence > 0 && fits(&line.text, LOG_LINE_MAX_CHARS)));
        }
        ReportBody::Ask(ask) => {
            let (reporter, claim) = (reporter(heard), ask.claim.clone());
            told(&Input::Ask { reporter, claim, nonce: ask.nonce });
        }
        ReportBody::Started(batch) => {
            for claim in batch.claims.iter().cloned() {
                told(&Input::Started { reporter: reporter(heard), claim });
            }
        }
        ReportBody::Hello(_) | ReportBody::Heartbeat(_) => unreachable!("no queue here takes them"),
    }
}

fn check_outcome(heard: &Heard, outcome: &Outcome) {
    if let OutcomeEnd::Succeeded { result: Some(result), .. } = &outcome.end {
        let text = result.to_string();
        // Replacing a NUL by the character that stands for it makes two bytes of six; the rest is as it came.
        assert!(text.len() <= RESULT_MAX_BYTES && !escapes_nul(&text), "a result that cannot be stored");
    }
    let settling = admitted(&heard.sender, heard.epoch, outcome, Verified::Complete, false);
    let named = settling.expect("nothing is missing").named(reporter(heard));
    assert_eq!(named.task_id, outcome.claim.task_id);
    told(&named.input);
}

fn reporter(heard: &Heard) -> Reporter {
    Reporter { agent: heard.sender.clone(), granted: true, epoch_is_current: true }
}

/// What an input leaves of every stage of a task must be allowed by the invariants, and its letters must be bounded.
fn told(input: &Input) {
    for subject in stages() {
        let decision = transition(&subject, input, &context());
        match &decision.verdict {
            Verdict::Changed(after) => assert_eq!(check_subject(after), Ok(()), "{input:?}"),
            Verdict::Refused(why) => {
                let _quiet_or_loud = (refusal::word(why), refusal::loudness(why));
            }
            Verdict::Unchanged => {}
        }
        for effect in &decision.effects {
            if let Effect::Letter { failure, .. } = effect {
                assert!(fits(&failure.clone().bounded().message, FAILURE_MESSAGE_MAX_CHARS));
            }
        }
    }
}

fn context() -> Context {
    Context::new(DateTime::<Utc>::UNIX_EPOCH, 0.5)
}

/// The agent, session and lease of the attempt that a seed of the corpus speaks for.
fn assignee() -> AssignTo {
    AssignTo {
        agent: AgentRef {
            pool: PoolId::new("default").expect("an id"),
            agent: AgentId::new("worker-0").expect("an id"),
        },
        pod: "worker-0".to_owned(),
        session: SessionId(Uuid::from_u128(1)),
        lease: LeaseToken(Uuid::from_u128(3)),
    }
}

/// One task of each built-in kind: pending, assigned, and running where its step can say so by itself.
fn stages() -> Vec<Subject> {
    let kinds = Kinds::with_built_in([]).expect("the built-in kinds are in order");
    let mut stages = Vec::new();
    for kind in kinds.iter() {
        let pending = Subject { task: pending(kind), attempt: None };
        let assigned = changed(&pending, &Input::Assign(assignee()));
        stages.extend([pending, assigned]);
    }
    stages
}

fn changed(subject: &Subject, input: &Input) -> Subject {
    let Verdict::Changed(after) = transition(subject, input, &context()).verdict else {
        panic!("{input:?} must be possible")
    };
    *after
}

fn pending(kind: &switchyard_common::task::Kind) -> Task {
    Task {
        id: TaskId::new("t").expect("an id"),
        workspace: WorkspaceId::new("w").expect("an id"),
        pool: PoolId::new("default").expect("an id"),
        kind: kind.name.clone(),
        exclusive: kind.exclusive,
        steps: kind.steps.clone(),
        step: 0,
        status: Status::Pending,
        holds: false,
        position: kind.exclusive.then_some(1),
        run_after: None,
        deadline: None,
        since: DateTime::<Utc>::UNIX_EPOCH,
        attempts: 0,
        charge: 0,
        losses: 0,
        step_started: false,
        assignee: None,
        approval: None,
        auto_approve: false,
        artifact: None,
        cancel: None,
        failure: None,
        finished_at: None,
        version: 1,
    }
}
