//! Ends of sessions and draining (protocol C3, C5, C6).

use switchyard_common::contract::control::Order;
use switchyard_common::contract::report::{NotStarted, OutcomeEnd, StoppedBy};

use super::rig::{Rig, first_nonce, revoke, succeeded};
use crate::machine::{Effect, HandlerEnd, Input};

#[test]
fn silence_refuses_unstarted_work_under_the_old_session_and_takes_a_new_one() {
    let mut rig = Rig::heard();
    let (asking, waiting) = (rig.once(1), rig.exclusive(2));
    rig.deliver(&asking);
    rig.deliver(&waiting);
    let came = rig.pass(18_000);
    assert_eq!(came.refusals(), [NotStarted::Silence, NotStarted::Silence]);
    assert!(came.claims().iter().all(|claim| claim.session == asking.session));
    assert_ne!(rig.machine.session(), asking.session);
    assert!(came.presences()[0].1.0, "the new session begins with hello");
    let go = Order::Go { key: asking.key(), nonce: first_nonce() };
    assert!(rig.order(go).started().is_empty());
}

#[test]
fn a_session_that_was_never_heard_does_not_end_by_silence() {
    let mut rig = Rig::heard();
    rig.pass(18_000);
    let session = rig.machine.session();
    rig.pass(3_600_000);
    assert_eq!(rig.machine.session(), session);
}

#[test]
fn a_confirm_for_the_old_session_does_not_make_the_new_one_heard() {
    let mut rig = Rig::heard();
    let old = rig.pass(5_000).presence_id();
    rig.pass(18_000);
    rig.give(Input::Confirmed(old));
    assert!(rig.deliver(&rig.work(1)).1.started().is_empty());
}

#[test]
fn a_failed_attempt_of_an_ended_session_is_still_nacked_when_its_delivery_comes_back() {
    let mut rig = Rig::heard();
    let work = rig.work(1);
    rig.deliver(&work);
    let came = rig.end(&work, super::rig::failed());
    rig.confirm_outcome(&came);
    rig.pass(18_000);
    rig.reconnect();
    let (tag, came) = rig.deliver(&work);
    assert_eq!(came.nacks(), [tag]);
}

#[test]
fn an_order_ends_the_session_and_stops_what_is_repeatable() {
    let mut rig = Rig::heard();
    let (shared, once, waiting) = (rig.work(1), rig.run_once(2), rig.work(3));
    rig.deliver(&shared);
    rig.deliver(&waiting);
    let came = rig.order(Order::EndSession { session: shared.session });
    assert_eq!(came.refusals(), [NotStarted::Revoked]);
    assert_eq!(came.stopped(), [StoppedBy::Dispatcher]);
    assert_ne!(rig.machine.session(), once.session);
}

#[test]
fn an_order_for_an_ended_session_stops_its_handlers_and_keeps_the_new_session() {
    let mut rig = Rig::heard();
    let shared = rig.work(1);
    rig.deliver(&shared);
    rig.pass(18_000);
    let session = rig.machine.session();
    let came = rig.order(Order::EndSession { session: shared.session });
    assert_eq!(came.stopped(), [StoppedBy::Dispatcher]);
    assert_eq!(rig.machine.session(), session);
}

#[test]
fn a_redelivery_of_what_runs_on_from_an_ended_session_is_joined_to_it() {
    let mut rig = Rig::heard();
    let work = rig.run_once(1);
    rig.pass(18_000);
    rig.reconnect();
    let (tag, came) = rig.deliver(&work);
    assert!(came.outcomes().is_empty() && came.acks().is_empty());
    let came = rig.end(&work, succeeded());
    assert_eq!(rig.confirm_outcome(&came).acks(), [tag]);
}

#[test]
fn a_drain_hands_back_what_was_not_started_and_lets_the_rest_finish() {
    let mut rig = Rig::heard();
    let (running, asking, waiting) = (rig.work(1), rig.once(2), rig.work(3));
    for work in [&running, &asking, &waiting] {
        rig.deliver(work);
    }
    let came = rig.give(Input::DrainRequested);
    assert!(came.has(&Effect::StopConsuming) && !came.has(&Effect::Drained));
    assert_eq!(came.refusals(), [NotStarted::Draining, NotStarted::Draining]);
    assert!(came.presences()[0].1.1.draining);
    assert_eq!(rig.deliver(&rig.work(4)).1.refusals(), [NotStarted::Draining]);
    assert!(came.stopped().is_empty());
    assert_eq!(rig.end(&running, succeeded()).outcomes()[0].name(), "succeeded");
}

#[test]
fn what_runs_at_the_end_of_the_grace_is_stopped_and_reported_as_drained() {
    let mut rig = Rig::heard();
    let (repeatable, once) = (rig.work(1), rig.run_once(2));
    rig.deliver(&repeatable);
    rig.give(Input::DrainRequested);
    assert_eq!(rig.give(Input::DrainGraceOver).stopped(), [StoppedBy::Drain, StoppedBy::Drain]);
    for work in [repeatable, once] {
        let came = rig.end(&work, HandlerEnd::Stopped);
        assert_eq!(came.outcomes(), [OutcomeEnd::Cancelled { by: StoppedBy::Drain }]);
    }
}

#[test]
fn drained_is_said_once_when_every_outcome_is_confirmed() {
    let mut rig = Rig::heard();
    let work = rig.work(1);
    rig.deliver(&work);
    rig.give(Input::DrainRequested);
    let came = rig.end(&work, succeeded());
    assert!(!came.has(&Effect::Drained));
    assert!(rig.confirm_outcome(&came).has(&Effect::Drained));
    assert!(!rig.pass(1_000).has(&Effect::Drained));
}

#[test]
fn a_drain_by_order_takes_no_work_but_does_not_end_the_process() {
    let mut rig = Rig::heard();
    let came = rig.order(Order::Drain);
    assert!(came.has(&Effect::StopConsuming) && !came.has(&Effect::Drained));
    // It was on its way when consuming ended.
    let (_, late) = rig.deliver(&rig.work(1));
    assert!(late.started().is_empty());
    assert_eq!(late.refusals(), [NotStarted::Draining]);
    rig.confirm_outcome(&late);
    assert!(rig.give(Input::DrainRequested).has(&Effect::Drained));
}

#[test]
fn a_revoke_during_a_drain_is_answered() {
    let mut rig = Rig::heard();
    let work = rig.work(1);
    rig.deliver(&work);
    rig.give(Input::DrainRequested);
    assert_eq!(rig.order(revoke(&work, false)).stopped(), [StoppedBy::Dispatcher]);
}
