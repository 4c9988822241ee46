//! The two phases of a non-repeatable step, and the started report of a repeatable one.

use super::fixtures::*;
use crate::contract::report::{NotStarted, OutcomeEnd};
use crate::task::transition::{Decision, Effect, Input, Refusal};
use crate::task::{RevokeReason, Status};

fn answer(decision: &Decision) -> &str {
    match decision.effects.as_slice() {
        [Effect::Go { .. }] => "go",
        [Effect::NoGo { .. }] => "no-go",
        other => panic!("an ask has exactly one answer: {other:?}"),
    }
}

#[test]
fn the_first_ask_commits_running_and_is_granted() {
    let mut story = Story::apply_assigned();
    let decision = story.ask(nonce(7));
    assert_eq!(decision.effects, [Effect::Go { nonce: nonce(7) }]);
    assert_eq!((story.status(), story.task().step_started), (Status::Running, true));
    assert_eq!(story.attempt().nonce, Some(nonce(7)));
}

#[test]
fn go_is_repeated_for_the_granted_nonce_alone() {
    let mut story = Story::apply_running();
    let version = story.task().version;
    assert_eq!(answer(&story.ask(nonce(7))), "go");
    assert_eq!(answer(&story.ask(nonce(8))), "no-go");
    assert_eq!(story.task().version, version);
}

#[test]
fn every_wrong_ask_gets_an_explicit_no_go_and_changes_nothing() {
    let story = Story::apply_assigned();
    let mut foreign = story.reporter();
    foreign.agent = agent("worker-9");
    let mut other_token = story.claim();
    other_token.lease = crate::contract::ids::LeaseToken(uuid::Uuid::nil());
    let mut other_attempt = story.claim();
    other_attempt.attempt = 1;
    let cases = [
        (foreign, story.claim(), Refusal::ForeignAgent),
        (story.reporter(), other_token, Refusal::WrongToken),
        (story.reporter(), other_attempt, Refusal::UnknownAttempt),
    ];
    for (reporter, claim, expected) in cases {
        let mut story = Story::apply_assigned();
        let decision = story.feed(Input::Ask { reporter, claim, nonce: nonce(7) });
        assert_eq!((answer(&decision), refusal(&decision)), ("no-go", expected));
        assert_eq!(story.status(), Status::Assigned);
    }
}

#[test]
fn an_ask_for_a_repeatable_step_is_refused() {
    let mut story = Story::of("plan");
    story.assign("worker-0");
    assert_eq!(answer(&story.ask(nonce(7))), "no-go");
    assert_eq!(story.status(), Status::Assigned);
}

#[test]
fn an_ask_of_a_withdrawn_attempt_is_refused() {
    let mut story = Story::apply_assigned();
    story.revoke(RevokeReason::StartTimeout);
    assert_eq!(story.status(), Status::Pending);
    assert_eq!(answer(&story.ask(nonce(7))), "no-go");
    assert_eq!(story.status(), Status::Pending);
}

#[test]
fn an_ask_of_an_uncertain_attempt_is_refused() {
    let mut story = Story::uncertain();
    assert_eq!(answer(&story.ask(nonce(7))), "no-go");
    assert_eq!(story.status(), Status::Uncertain);
}

#[test]
fn an_agent_that_got_its_go_too_late_may_give_the_step_back() {
    let mut story = Story::apply_running();
    story.report(not_started(NotStarted::NoGo));
    assert_eq!((story.status(), story.task().step_started), (Status::Pending, false));
    story.due();
    story.assign("worker-1");
    assert_eq!(answer(&story.ask(nonce(9))), "go");
}

#[test]
fn a_started_report_makes_a_repeatable_step_running_once() {
    let mut story = Story::of("plan");
    story.assign("worker-0");
    story.started();
    assert_eq!(story.status(), Status::Running);
    assert!(!story.task().step_started);
    assert_eq!(refusal(&story.started()), Refusal::Duplicate);
}

#[test]
fn a_started_report_for_a_non_repeatable_step_is_refused() {
    let mut story = Story::apply_assigned();
    assert_eq!(refusal(&story.started()), Refusal::NeverAllowed);
    assert_eq!(story.status(), Status::Assigned);
}

#[test]
fn a_short_repeatable_step_may_end_without_a_started_report() {
    let mut story = Story::of("plan");
    story.assign("worker-0");
    story.report(succeeded(&[]));
    assert_eq!(story.status(), Status::Succeeded);
}

#[test]
fn an_outcome_of_a_step_that_was_never_allowed_to_start_is_an_alarm() {
    let ends: [OutcomeEnd; 4] =
        [succeeded(&[]), failed(), panicked(), stopped(crate::contract::report::StoppedBy::Drain)];
    for end in ends {
        let mut story = Story::apply_assigned();
        let decision = story.report(end);
        assert_eq!(refusal(&decision), Refusal::NeverAllowed);
        assert_eq!(story.status(), Status::Assigned);
    }
    let mut story = Story::apply_assigned();
    assert!(is_changed(&story.report(not_started(NotStarted::Draining))));
}
