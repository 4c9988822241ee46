//! Incidents about what a task holds, its workspace above all: who lets go of it, when, and who cannot.

use super::fixtures::*;
use crate::contract::ids::Digest;
use crate::contract::report::{NotStarted, StoppedBy};
use crate::task::transition::{Input, LossReason, Refusal, ResolveTo};
use crate::task::{RevokeReason, Status, releases_workspace};

#[test]
fn incident_18_an_approval_of_other_bytes_says_so_and_leaves_a_task_that_can_still_go_on_or_end() {
    let mut story = Story::awaiting_approval();
    let waiting = story.subject.clone();
    let current = story.task().artifact.clone().unwrap().digest;
    let of_others = Input::Approve { by: "ann".into(), digest: Some(Digest::of(b"changed meanwhile")) };
    assert_eq!(refusal(&story.feed(of_others)), Refusal::DigestMismatch { current: current.clone() });
    assert_eq!(story.subject, waiting, "half an approval");
    let mut discarded = Story::awaiting_approval();
    let before = discarded.task().clone();
    discarded.feed(Input::Discard { by: "ann".into() });
    assert!(discarded.status().is_terminal() && releases_workspace(&before, discarded.task()));
    story.feed(Input::Approve { by: "ann".into(), digest: Some(current) });
    assert!(is_changed(&story.assign("worker-0")), "what waits can be approved as it is");
}

#[test]
fn incident_19_nothing_that_becomes_of_agents_and_replicas_ends_a_wait_for_approval() {
    let mut story = Story::awaiting_approval();
    let waiting = story.subject.clone();
    let session = story.attempt().assignee.session;
    for reason in [LossReason::Silent, LossReason::Superseded, LossReason::PoolRevoked, LossReason::Fenced] {
        story.feed(Input::SessionEnded { session, reason });
    }
    for reason in RevokeReason::ALL {
        story.revoke(reason);
    }
    for input in [Input::NotListed, Input::Returned { publish_no: 1 }, Input::QueueTimeout] {
        story.feed(input);
    }
    assert_eq!(story.subject, waiting);
    story.feed(Input::Approve { by: "ann".into(), digest: None });
    assert!(is_changed(&story.assign("worker-1")));
}

#[test]
fn incident_24_what_a_task_holds_never_stands_in_its_own_way() {
    let mut story = Story::awaiting_approval();
    assert!(story.attempt().end.is_some(), "its plan takes no place at its agent any more");
    story.feed(Input::Approve { by: "ann".into(), digest: None });
    assert_eq!((story.status(), story.task().holds), (Status::Pending, true));
    assert!(is_changed(&story.assign("worker-0")), "its workspace is held by itself");
    // Nor after a try that came to nothing, at the same agent or another one.
    story.report(not_started(NotStarted::Draining));
    assert!(story.task().holds && is_changed(&story.assign("worker-0")));
}

#[test]
fn incident_40_every_end_of_an_apply_lets_go_of_its_workspace() {
    let ends: [fn(&mut Story); 8] = [
        |story| drop(story.report(succeeded(&[]))),
        |story| drop(story.report(failed())),
        |story| drop(story.report(panicked())),
        |story| drop(story.report(timed_out())),
        |story| drop(story.report(stopped(StoppedBy::Drain))),
        |story| {
            story.cancel(true);
            story.report(stopped(StoppedBy::Dispatcher));
        },
        |story| {
            story.lose();
            let (by, to) = ("ann".into(), ResolveTo::Failed);
            story.feed(Input::Resolve { by, to, session_over: true, override_reason: None });
        },
        |story| {
            story.lose();
            let (by, to) = ("ann".into(), ResolveTo::Succeeded);
            story.feed(Input::Resolve { by, to, session_over: true, override_reason: None });
        },
    ];
    for (number, end) in ends.into_iter().enumerate() {
        let mut story = Story::apply_running();
        let before = story.task().clone();
        end(&mut story);
        assert!(story.status().is_terminal(), "end {number}: {}", story.status());
        assert!(!story.task().holds && releases_workspace(&before, story.task()), "end {number}");
    }
}

#[test]
fn incident_74_an_agent_that_does_not_hold_a_task_cannot_let_go_of_its_workspace() {
    for mut story in [Story::apply_assigned(), Story::apply_running()] {
        let held = story.subject.clone();
        let (mut reporter, claim) = (story.reporter(), story.claim());
        reporter.agent = agent("worker-1");
        for end in [succeeded(&[]), failed(), not_started(NotStarted::Revoked)] {
            let report = Input::Outcome { reporter: reporter.clone(), claim: claim.clone(), end };
            assert_eq!(refusal(&story.feed(report)), Refusal::ForeignAgent);
        }
        let session = crate::contract::ids::SessionId(uuid::Uuid::from_u128(999));
        story.feed(Input::SessionEnded { session, reason: LossReason::Silent });
        assert_eq!(story.subject, held, "the end of another session");
    }
}
