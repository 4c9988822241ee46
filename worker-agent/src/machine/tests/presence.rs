//! Hello, heartbeats and silence (protocol C2, C3).

use std::time::Duration;

use switchyard_common::contract::assignment::Assignment;
use switchyard_common::contract::report::{NotStarted, StoppedBy};

use super::rig::{Rig, settings, succeeded};
use crate::machine::{Effect, HandlerEnd, Input, SettingsError};

#[test]
fn nothing_is_said_before_the_id_is_ours_and_then_hello_comes_first() {
    let mut rig = Rig::new(settings());
    assert!(rig.pass(60_000).presences().is_empty());
    let came = rig.give(Input::ConsumeReady);
    assert!(came.presences()[0].1.0, "not a hello");
    let again = rig.pass(5_000);
    assert!(again.presences()[0].1.0, "hello is repeated until it is confirmed");
    rig.give(Input::Confirmed(again.presence_id()));
    let (_, (hello, presence)) = rig.pass(5_000).presences()[0].clone();
    assert!(!hello);
    assert_eq!(presence.sequence, 3);
}

#[test]
fn no_handler_starts_before_the_session_was_heard() {
    let mut rig = Rig::new(settings());
    let hello = rig.give(Input::ConsumeReady).presence_id();
    let work = rig.work(1);
    assert!(rig.deliver(&work).1.started().is_empty());
    assert_eq!(rig.give(Input::Confirmed(hello)).started(), ["task-1"]);
}

#[test]
fn a_heartbeat_lists_everything_in_hand_until_its_outcome_is_confirmed() {
    let mut rig = Rig::heard();
    let works: Vec<Assignment> = (1..=3).map(|n| rig.work(n)).collect();
    for work in &works {
        rig.deliver(work);
    }
    let came = rig.end(&works[0], succeeded());
    let mut listed: Vec<(String, bool)> = rig.pass(5_000).presences()[0]
        .1
        .1
        .in_hand
        .iter()
        .map(|one| (one.key.task_id.to_string(), one.running))
        .collect();
    listed.sort();
    let named = |n: u32, running| (format!("task-{n}"), running);
    assert_eq!(listed, [named(1, false), named(2, true), named(3, true)]);
    rig.confirm_outcome(&came);
    assert_eq!(rig.pass(5_000).presences()[0].1.1.in_hand.len(), 2);
}

#[test]
fn heartbeats_stop_while_the_control_queue_is_not_ours() {
    let mut rig = Rig::heard();
    rig.give(Input::ConsumeLost);
    assert!(rig.pass(5_000).presences().is_empty());
    assert_eq!(rig.reconnect().presences().len(), 1);
}

#[test]
fn a_lost_heartbeat_is_followed_by_another_soon() {
    let mut rig = Rig::heard();
    let id = rig.pass(5_000).presence_id();
    rig.give(Input::Lost(id));
    assert_eq!(rig.pass(1_000).presences().len(), 1);
}

#[test]
fn silence_counts_from_the_send_time_of_the_last_confirmed_heartbeat() {
    let mut rig = Rig::heard();
    let id = rig.pass(5_000).presence_id();
    rig.pass(4_000);
    let came = rig.give(Input::Confirmed(id));
    let sent = rig.now.boot.0 - Duration::from_secs(4);
    assert_eq!(came.keep_alive().map(|at| at.0), Some(sent + Duration::from_secs(18)));
    rig.skip(13_999);
    let session = rig.machine.session();
    rig.give(Input::Tick);
    assert_eq!(rig.machine.session(), session);
    rig.skip(1);
    rig.give(Input::Tick);
    assert_ne!(rig.machine.session(), session);
}

#[test]
fn a_confirm_that_comes_late_does_not_move_silence_back() {
    let mut rig = Rig::heard();
    let first = rig.pass(5_000).presence_id();
    let second = rig.pass(5_000).presence_id();
    assert!(rig.give(Input::Confirmed(second)).keep_alive().is_some());
    assert!(rig.give(Input::Confirmed(first)).keep_alive().is_none());
}

#[test]
fn exclusive_repeatable_handlers_are_stopped_one_kill_grace_before_the_session_ends() {
    let mut rig = Rig::heard();
    let work = rig.exclusive(1);
    assert!(rig.deliver(&work).1.dead_by()[0].is_some());
    assert!(rig.pass(12_999).stopped().is_empty());
    assert_eq!(rig.pass(1).stopped(), [StoppedBy::Silence]);
    assert_eq!(rig.end(&work, HandlerEnd::Stopped).outcomes()[0].name(), "cancelled");
}

#[test]
fn shared_handlers_and_those_that_are_not_repeatable_run_on_in_silence_under_their_old_claim() {
    let mut rig = Rig::heard();
    let (shared, once) = (rig.work(1), rig.run_once(2));
    assert_eq!(rig.deliver(&shared).1.dead_by(), [None]);
    let came = rig.pass(60_000);
    assert!(came.stopped().is_empty());
    let listed = &came.presences()[0].1.1;
    assert_ne!(listed.session, shared.session);
    assert_eq!(listed.in_hand.iter().filter(|one| one.running && one.session == shared.session).count(), 2);
    for work in [shared, once] {
        assert_eq!(rig.end(&work, succeeded()).claims()[0].session, work.session);
    }
}

#[test]
fn no_handler_starts_in_silence() {
    let mut rig = Rig::heard();
    rig.skip(12_999);
    assert_eq!(rig.deliver(&rig.work(1)).1.started().len(), 1);
    rig.skip(1);
    assert!(rig.deliver(&rig.work(2)).1.started().is_empty());
    rig.skip(5_000);
    let came = rig.give(Input::Tick);
    assert_eq!(came.refusals(), [NotStarted::Silence]);
}

#[test]
fn a_paused_agent_notices_its_silence_before_it_does_anything_else() {
    let mut rig = Rig::heard();
    let work = rig.work(1);
    rig.skip(60_000);
    let (_, came) = rig.deliver(&work);
    assert!(came.started().is_empty());
    assert_eq!(came.refusals(), [NotStarted::OtherSession]);
    assert!(came.has(&Effect::SessionStarted(rig.machine.session())));
}

#[test]
fn settings_that_cannot_work_are_named_all_at_once() {
    let good = settings();
    assert_eq!(good.check(), Ok(()));
    let at_limit = Duration::from_secs(2 * 5 + 5 + 2);
    let mut least = good.clone();
    least.lost_timeout = at_limit;
    assert_eq!(least.check(), Ok(()));
    let mut bad = good;
    bad.slots = 0;
    bad.credit = 1_025;
    bad.max_exclusive = 0;
    bad.handlers.clear();
    bad.start_window = Duration::ZERO;
    bad.lost_timeout = at_limit - Duration::from_millis(1);
    let errors = bad.check().unwrap_err();
    assert_eq!(errors.len(), 6);
    assert!(matches!(errors[5], SettingsError::LostTimeout { needed_ms: 17_000, .. }));
}
