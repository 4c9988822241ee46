//! Cancel and revoke (protocol B4, H), epochs (G).

use switchyard_common::contract::control::{Control, Order};
use switchyard_common::contract::ids::SessionId;
use switchyard_common::contract::report::{NotStarted, OutcomeEnd, StoppedBy};
use uuid::Uuid;

use super::rig::{Rig, claim, failed, first_nonce, revoke, settings, succeeded};
use crate::machine::limits::OUTCOMES_KEPT_PER_PLACE_COUNT;
use crate::machine::{HandlerEnd, Input, What};

#[test]
fn work_that_waits_or_asks_is_refused_when_it_is_revoked() {
    let mut rig = Rig::heard();
    let asking = rig.once(1);
    rig.deliver(&asking);
    assert_eq!(rig.order(revoke(&asking, false)).refusals(), [NotStarted::Revoked]);
    let came = rig.order(Order::Go { key: asking.key(), nonce: first_nonce() });
    assert!(came.started().is_empty());
    rig.deliver(&rig.work(2));
    rig.deliver(&rig.work(3));
    let waiting = rig.work(4);
    assert!(rig.deliver(&waiting).1.started().is_empty());
    let cancel = Order::Cancel { claim: claim(&waiting), force: false };
    assert_eq!(rig.order(cancel).refusals(), [NotStarted::Revoked]);
    assert!(rig.end(&rig.work(2), succeeded()).started().is_empty());
}

#[test]
fn a_running_repeatable_step_is_stopped_once_and_reported_as_cancelled() {
    let mut rig = Rig::heard();
    let work = rig.work(1);
    let (tag, _) = rig.deliver(&work);
    assert_eq!(rig.order(revoke(&work, false)).stopped(), [StoppedBy::Dispatcher]);
    assert!(rig.order(revoke(&work, true)).stopped().is_empty());
    let came = rig.end(&work, HandlerEnd::Stopped);
    assert_eq!(came.outcomes(), [OutcomeEnd::Cancelled { by: StoppedBy::Dispatcher }]);
    assert_eq!(rig.confirm_outcome(&came).acks(), [tag]);
}

#[test]
fn success_wins_over_a_stop() {
    let mut rig = Rig::heard();
    let work = rig.work(1);
    rig.deliver(&work);
    rig.order(revoke(&work, false));
    assert_eq!(rig.end(&work, succeeded()).outcomes()[0].name(), "succeeded");
}

#[test]
fn a_running_step_that_is_not_repeatable_is_stopped_only_with_force() {
    let mut rig = Rig::heard();
    let work = rig.run_once(1);
    let came = rig.order(revoke(&work, false));
    assert!(came.stopped().is_empty() && came.noted(&What::NotStopped));
    assert_eq!(rig.order(revoke(&work, true)).stopped(), [StoppedBy::Dispatcher]);
}

#[test]
fn a_revoke_for_a_finished_attempt_is_answered_with_its_outcome() {
    let mut rig = Rig::heard();
    let work = rig.work(1);
    rig.deliver(&work);
    let came = rig.end(&work, failed());
    let outcome = came.outcomes();
    rig.confirm_outcome(&came);
    for _ in 0..2 {
        let came = rig.order(revoke(&work, false));
        assert_eq!(came.outcomes(), outcome);
        assert_eq!(came.claims(), [claim(&work)]);
        assert!(rig.give(Input::Confirmed(came.outcome_id())).nacks().is_empty());
    }
}

#[test]
fn a_revoke_for_an_attempt_whose_outcome_is_no_longer_kept_is_answered_all_the_same() {
    let mut rig = Rig::heard();
    let finish = |rig: &mut Rig, number| {
        let work = rig.work(number);
        rig.deliver(&work);
        let came = rig.end(&work, succeeded());
        rig.confirm_outcome(&came);
        work
    };
    let work = finish(&mut rig, 1);
    let kept = u32::from(settings().prefetch()) * u32::try_from(OUTCOMES_KEPT_PER_PLACE_COUNT).unwrap();
    for number in 2..2 + kept {
        assert_eq!(rig.order(revoke(&work, false)).outcomes()[0].name(), "succeeded");
        finish(&mut rig, number);
    }
    for _ in 0..2 {
        let came = rig.order(revoke(&work, false));
        assert!(came.noted(&What::OutcomeForgotten));
        assert_eq!(came.outcomes(), [OutcomeEnd::NotStarted { reason: NotStarted::OutcomeForgotten }]);
        assert_eq!(came.claims(), [claim(&work)]);
    }
}

#[test]
fn a_revoke_while_the_outcome_is_on_its_way_needs_no_second_answer() {
    let mut rig = Rig::heard();
    let work = rig.work(1);
    rig.deliver(&work);
    rig.end(&work, succeeded());
    assert!(rig.order(revoke(&work, false)).outcomes().is_empty());
}

#[test]
fn an_attempt_of_another_session_is_not_answered_for_because_it_may_have_run() {
    let mut rig = Rig::heard();
    let mut work = rig.work(1);
    work.session = SessionId(Uuid::from_u128(99));
    let came = rig.order(revoke(&work, true));
    assert!(came.outcomes().is_empty() && came.noted(&What::NotOurs));
}

#[test]
fn an_order_of_an_older_epoch_is_ignored() {
    let mut rig = Rig::heard();
    let work = rig.work(1);
    rig.deliver(&work);
    rig.give(Input::Control(Control {
        epoch: 3,
        order: Order::NoGo { key: work.key(), nonce: first_nonce(), reason: String::new() },
    }));
    let came = rig.give(Input::Control(Control { epoch: 2, order: revoke(&work, true) }));
    assert!(came.stopped().is_empty() && came.noted(&What::StaleEpoch { epoch: 2 }));
    let came = rig.give(Input::Control(Control { epoch: 3, order: revoke(&work, true) }));
    assert_eq!(came.stopped().len(), 1);
}
