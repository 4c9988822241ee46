//! Duplicates, redeliveries, other sessions (protocol B5, B6, G).

use switchyard_common::contract::assignment::Assignment;
use switchyard_common::contract::ids::{AgentId, HandlerName, SessionId};
use switchyard_common::contract::report::NotStarted;
use uuid::Uuid;

use super::rig::{Rig, claim, failed, revoke, succeeded};
use crate::machine::{Input, What};

#[test]
fn a_copy_of_an_attempt_in_hand_is_acked_and_the_original_stays_to_be_settled() {
    let mut rig = Rig::heard();
    let work = rig.work(1);
    let (original, _) = rig.deliver(&work);
    let (copy, came) = rig.deliver(&Assignment { publish_no: 2, ..work.clone() });
    assert_eq!(came.acks(), [copy]);
    assert!(came.started().is_empty());
    let came = rig.end(&work, failed());
    assert_eq!(rig.confirm_outcome(&came).nacks(), [original]);
}

#[test]
fn a_redelivery_is_joined_to_its_running_attempt_and_its_new_tag_is_the_one_that_is_settled() {
    let mut rig = Rig::heard();
    let work = rig.work(1);
    rig.deliver(&work);
    rig.reconnect();
    let (again, came) = rig.deliver(&work);
    assert!(came.started().is_empty() && came.acks().is_empty());
    assert!(came.noted(&What::Reattached));
    let came = rig.end(&work, succeeded());
    assert_eq!(rig.confirm_outcome(&came).acks(), [again]);
}

#[test]
fn when_the_copy_comes_back_before_the_original_exactly_one_of_them_is_nacked() {
    let mut rig = Rig::heard();
    let work = rig.work(1);
    rig.deliver(&work);
    rig.reconnect();
    let (copy, came) = rig.deliver(&Assignment { publish_no: 2, ..work.clone() });
    assert!(came.acks().is_empty());
    let (original, came) = rig.deliver(&work);
    assert_eq!(came.acks(), [original]);
    let came = rig.end(&work, failed());
    assert_eq!(rig.confirm_outcome(&came).nacks(), [copy]);
}

#[test]
fn a_copy_of_a_finished_attempt_is_acked_without_running() {
    for end in [succeeded(), failed()] {
        let mut rig = Rig::heard();
        let work = rig.work(1);
        rig.deliver(&work);
        let came = rig.end(&work, end);
        rig.confirm_outcome(&came);
        let (copy, came) = rig.deliver(&Assignment { publish_no: 2, ..work });
        assert_eq!(came.acks(), [copy]);
        assert!(came.started().is_empty() && came.nacks().is_empty() && came.outcomes().is_empty());
    }
}

#[test]
fn a_failed_original_whose_nack_was_lost_is_nacked_once_more() {
    let mut rig = Rig::heard();
    let work = rig.work(1);
    rig.deliver(&work);
    let came = rig.end(&work, failed());
    rig.confirm_outcome(&came);
    rig.reconnect();
    let (again, came) = rig.deliver(&work);
    assert_eq!(came.nacks(), [again]);
    assert!(came.started().is_empty());
}

#[test]
fn a_failed_attempt_whose_connection_was_lost_before_the_outcome_was_confirmed_is_nacked_when_it_comes_back()
{
    let mut rig = Rig::heard();
    let work = rig.work(1);
    rig.deliver(&work);
    let came = rig.end(&work, failed());
    rig.reconnect();
    assert!(rig.confirm_outcome(&came).nacks().is_empty());
    let (copy, came) = rig.deliver(&Assignment { publish_no: 2, ..work.clone() });
    assert_eq!(came.acks(), [copy]);
    let (original, came) = rig.deliver(&work);
    assert_eq!(came.nacks(), [original]);
}

#[test]
fn a_delivery_for_another_session_is_answered_and_then_acked() {
    let mut rig = Rig::heard();
    let work = Assignment { session: SessionId(Uuid::from_u128(99)), ..rig.work(1) };
    let (tag, came) = rig.deliver(&work);
    assert_eq!(came.refusals(), [NotStarted::OtherSession]);
    assert_eq!(came.claims(), [claim(&work)]);
    assert!(came.acks().is_empty());
    assert_eq!(rig.confirm_outcome(&came).acks(), [tag]);
}

#[test]
fn a_delivery_whose_number_was_used_before_a_restore_is_a_different_attempt() {
    let mut rig = Rig::heard();
    let old = rig.work(1);
    rig.deliver(&old);
    let new = Assignment { lease: rig.work(2).lease, epoch: 1, ..old.clone() };
    assert_eq!(rig.deliver(&new).1.started(), ["task-1"]);
    let came = rig.end(&old, succeeded());
    assert_eq!(came.claims(), [claim(&old)]);
}

#[test]
fn an_assignment_of_an_older_epoch_is_refused_and_reports_carry_the_newest() {
    let mut rig = Rig::heard();
    rig.deliver(&Assignment { epoch: 5, ..rig.work(1) });
    let (_, came) = rig.deliver(&Assignment { epoch: 4, ..rig.work(2) });
    assert_eq!(came.refusals(), [NotStarted::OtherSession]);
    assert!(came.noted(&What::StaleEpoch { epoch: 4 }));
    let epochs: Vec<i64> = came
        .0
        .iter()
        .filter_map(
            |e| if let crate::machine::Effect::Publish(publish) = e { Some(publish.epoch) } else { None },
        )
        .collect();
    assert_eq!(epochs, [5]);
}

#[test]
fn what_waits_or_asks_when_a_newer_epoch_is_heard_of_never_starts() {
    let mut rig = Rig::heard();
    let asking = Assignment { epoch: 4, ..rig.once(1) };
    rig.deliver(&asking);
    let (_, came) = rig.deliver(&Assignment { epoch: 5, ..rig.work(2) });
    assert_eq!(came.refusals(), [NotStarted::OtherSession]);
    assert_eq!(came.started().len(), 1, "what carries the newer one starts");
}

#[test]
fn an_assignment_for_another_agent_or_handler_never_runs() {
    let mut rig = Rig::heard();
    let (tag, came) = rig.deliver(&Assignment { agent: AgentId::new("other").unwrap(), ..rig.work(1) });
    assert_eq!((came.acks(), came.outcomes().len()), (vec![tag], 0));
    let (_, came) = rig.deliver(&Assignment { handler: HandlerName::new("unknown").unwrap(), ..rig.work(2) });
    assert_eq!(came.refusals(), [NotStarted::NoHandler]);
}

#[test]
fn an_attempt_that_was_revoked_before_it_came_never_runs() {
    let mut rig = Rig::heard();
    let work = rig.work(1);
    let came = rig.order(revoke(&work, false));
    assert_eq!(came.refusals(), [NotStarted::Revoked]);
    let (early, before_confirm) = rig.deliver(&work);
    assert!(before_confirm.started().is_empty());
    assert_eq!(rig.confirm_outcome(&came).acks(), [early]);
    let (late, came) = rig.deliver(&Assignment { publish_no: 2, ..work });
    assert_eq!((came.acks(), came.started().len()), (vec![late], 0));
}

#[test]
fn incident_58_an_outcome_that_was_not_confirmed_is_published_again_until_it_is_and_acks_nothing_before() {
    let mut rig = Rig::heard();
    let work = rig.work(1);
    let (tag, _) = rig.deliver(&work);
    let mut came = rig.end(&work, succeeded());
    for _ in 0..3 {
        assert!(rig.give(Input::Lost(came.outcome_id())).acks().is_empty());
        came = rig.pass_heard(3_000);
        assert_eq!(came.outcomes().len(), 1);
        assert!(came.acks().is_empty());
    }
    assert_eq!(rig.confirm_outcome(&came).acks(), [tag]);
}
