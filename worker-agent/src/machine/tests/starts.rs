//! Slots, credit, started reports and the two-phase start (protocol B7, B10).

use switchyard_common::contract::control::Order;
use switchyard_common::contract::ids::Nonce;
use switchyard_common::contract::report::NotStarted;
use uuid::Uuid;

use super::rig::{Rig, first_nonce, settings, succeeded};
use crate::machine::limits::STARTED_AFTER_MS;
use crate::machine::{Input, Settings, What};

#[test]
fn repeatable_work_starts_at_once_and_in_order_as_slots_become_free() {
    let mut rig = Rig::heard();
    let works: Vec<_> = (1..=4).map(|n| rig.work(n)).collect();
    let started: Vec<usize> = works.iter().map(|work| rig.deliver(work).1.started().len()).collect();
    assert_eq!(started, [1, 1, 0, 0]);
    assert_eq!(rig.end(&works[0], succeeded()).started(), ["task-3"]);
    assert_eq!(rig.end(&works[1], succeeded()).started(), ["task-4"]);
}

#[test]
fn exclusive_work_beyond_its_limit_waits_and_lets_shared_work_pass() {
    let mut rig = Rig::heard();
    let (one, two, three) = (rig.exclusive(1), rig.exclusive(2), rig.work(3));
    assert_eq!(rig.deliver(&one).1.started().len(), 1);
    assert!(rig.deliver(&two).1.started().is_empty());
    assert_eq!(rig.deliver(&three).1.started(), ["task-3"]);
    assert!(rig.end(&three, succeeded()).started().is_empty());
    assert_eq!(rig.end(&one, succeeded()).started(), ["task-2"]);
}

#[test]
fn started_is_reported_once_and_only_for_what_runs_longer_than_a_moment() {
    let mut rig = Rig::heard();
    let (short, long) = (rig.work(1), rig.work(2));
    rig.deliver(&short);
    rig.deliver(&long);
    assert!(rig.pass(STARTED_AFTER_MS).started_reports().is_empty());
    rig.end(&short, succeeded());
    assert_eq!(rig.pass(1).started_reports().len(), 1);
    assert!(rig.pass_heard(1_000).started_reports().is_empty());
}

#[test]
fn a_started_report_that_was_lost_is_sent_again_while_the_attempt_runs() {
    let mut rig = Rig::heard();
    rig.deliver(&rig.work(1));
    let (id, attempts) = rig.pass(STARTED_AFTER_MS + 1).started_reports()[0];
    assert_eq!(attempts, 1);
    rig.give(Input::Lost(id));
    assert_eq!(rig.pass(100).started_reports().len(), 1);
}

#[test]
fn a_step_that_is_not_repeatable_starts_only_after_go_for_its_own_nonce() {
    let mut rig = Rig::heard();
    let work = rig.once(1);
    let (_, came) = rig.deliver(&work);
    assert!(came.started().is_empty());
    assert_eq!(came.asks(), [first_nonce()]);
    let other = Nonce(Uuid::from_u128(7));
    assert!(rig.order(Order::Go { key: work.key(), nonce: other }).started().is_empty());
    let came = rig.order(Order::Go { key: work.key(), nonce: first_nonce() });
    assert_eq!(came.started(), ["task-1"]);
    assert!(rig.pass_heard(1_000).started_reports().is_empty());
}

#[test]
fn an_unanswered_ask_is_repeated_with_the_same_nonce() {
    let mut rig = Rig::heard();
    rig.deliver(&rig.once(1));
    let asks = rig.pass_heard(10_000).asks();
    assert!(asks.len() >= 5, "{} asks", asks.len());
    assert!(asks.iter().all(|nonce| *nonce == first_nonce()));
}

#[test]
fn a_go_after_the_start_window_is_not_acted_on() {
    for (late_ms, starts) in [(0, 1), (1, 0)] {
        let mut rig = Rig::heard();
        let work = rig.once(1);
        rig.deliver(&work);
        rig.pass_heard(14_900);
        rig.skip(100 + late_ms);
        let came = rig.order(Order::Go { key: work.key(), nonce: first_nonce() });
        assert_eq!(came.started().len(), starts);
        assert_eq!(came.refusals().len(), 1 - starts);
    }
}

#[test]
fn an_ask_without_an_answer_ends_as_not_started_and_a_later_go_finds_nobody() {
    let mut rig = Rig::heard();
    let work = rig.once(1);
    rig.deliver(&work);
    assert_eq!(rig.pass_heard(15_100).refusals(), [NotStarted::NoGo]);
    let came = rig.order(Order::Go { key: work.key(), nonce: first_nonce() });
    assert!(came.started().is_empty() && came.noted(&What::GoIgnored));
}

#[test]
fn a_second_go_does_not_start_the_step_again() {
    let mut rig = Rig::heard();
    let work = rig.run_once(1);
    let go = Order::Go { key: work.key(), nonce: first_nonce() };
    assert!(rig.order(go.clone()).started().is_empty());
    let came = rig.end(&work, succeeded());
    rig.confirm_outcome(&came);
    assert!(rig.order(go).started().is_empty());
}

#[test]
fn a_no_go_ends_the_attempt_and_a_redelivery_of_it_never_asks_again() {
    let mut rig = Rig::heard();
    let work = rig.once(1);
    let (tag, _) = rig.deliver(&work);
    let came = rig.order(Order::NoGo { key: work.key(), nonce: first_nonce(), reason: "ended".to_owned() });
    assert_eq!(came.refusals(), [NotStarted::NoGo]);
    assert_eq!(rig.confirm_outcome(&came).acks(), [tag]);
    rig.reconnect();
    assert!(rig.deliver(&work).1.asks().is_empty());
}

#[test]
fn a_redelivery_while_asking_keeps_the_nonce() {
    let mut rig = Rig::heard();
    let work = rig.once(1);
    rig.deliver(&work);
    rig.reconnect();
    assert!(rig.deliver(&work).1.asks().is_empty());
    let came = rig.order(Order::Go { key: work.key(), nonce: first_nonce() });
    assert_eq!(came.started(), ["task-1"]);
}

#[test]
fn an_ask_holds_a_slot_so_that_a_go_can_be_acted_on_at_once() {
    let mut rig = Rig::heard_with(Settings { slots: 1, ..settings() });
    let work = rig.once(1);
    rig.deliver(&work);
    assert!(rig.deliver(&rig.work(2)).1.started().is_empty());
    assert_eq!(rig.order(Order::Go { key: work.key(), nonce: first_nonce() }).started(), ["task-1"]);
}
