//! Parts and manifests.

use std::collections::BTreeMap;

use switchyard_common::contract::limits::{ARTIFACT_PART_MAX_BYTES, ARTIFACTS_TOTAL_MAX_BYTES};
use switchyard_common::contract::report::OutcomeEnd;
use switchyard_dispatcher::settle::{Fate, Settler};

use crate::world::*;

fn files(sizes: &[(&str, usize)]) -> BTreeMap<String, Vec<u8>> {
    sizes.iter().map(|(name, size)| ((*name).to_owned(), vec![7; *size])).collect()
}

#[tokio::test]
async fn a_manifest_is_stored_with_its_digest_when_every_part_is_there() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (task, claim) = world.assigned("t", "plan_and_apply", &agent).await;
    let files = files(&[("empty", 0), ("plan", 2 * ARTIFACT_PART_MAX_BYTES + 1)]);
    world.send_parts(&agent, &claim, &files).await;
    // Copies of parts change nothing.
    world.send_parts(&agent, &claim, &files).await;
    assert_eq!(world.count("artifact_parts").await, 3);
    world.report(&agent, &claim, succeeded(&files)).await;
    assert_eq!(world.seed().status(&task).await, "awaiting_approval");
    let bound = "tasks t JOIN artifacts m ON m.task_id = t.task_id AND m.attempt = t.artifact_attempt \
        AND m.digest = t.artifact_digest";
    assert_eq!(world.count(bound).await, 1);
}

#[tokio::test]
async fn an_outcome_whose_parts_are_missing_waits_and_settles_when_they_come() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (task, claim) = world.assigned("t", "plan_and_apply", &agent).await;
    let files = files(&[("a", 1), ("b", 1)]);
    let mut all = parts(&agent, &claim, &files);
    world.settle(all.remove(0)).await;
    let report = outcome(&agent, &claim, succeeded(&files));
    let fates = world.try_settle(std::slice::from_ref(&report)).await.unwrap();
    assert!(matches!(&fates[..], [Fate::Hold(rest)] if **rest == report), "{fates:?}");
    assert_eq!(world.seed().status(&task).await, "assigned");
    // Another replica stores the part.
    let other = world.database.another_replica();
    world.outcomes(&other).settle(&[&all[0]]).await.unwrap();
    world.settle(report).await;
    assert_eq!(world.seed().status(&task).await, "awaiting_approval");
}

#[tokio::test]
async fn an_outcome_that_waited_long_enough_fails_with_a_message_that_names_what_is_missing() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (task, claim) = world.assigned("t", "plan_and_apply", &agent).await;
    let mut report = outcome(&agent, &claim, succeeded(&files(&[("plan", 1)])));
    report.waited = true;
    world.settle(report).await;
    assert_eq!(world.seed().status(&task).await, "pending", "a repeatable step is tried again");
    let letter = "dead_letters WHERE failure_kind = 'artifacts_refused' AND failure_message LIKE '%\"plan\" is not complete%'";
    assert_eq!(world.count(letter).await, 1);
    assert_eq!(world.seed().notes(&task).await[0], "artifacts refused");
    assert_eq!(world.count("artifacts").await, 0);
}

#[tokio::test]
async fn other_outcomes_of_a_message_do_not_wait_for_the_one_whose_parts_are_missing() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (_, waiting) = world.assigned("waiting", "plan", &agent).await;
    let (other, ready) = world.assigned("ready", "plan", &agent).await;
    let mut report = outcome(&agent, &waiting, succeeded(&files(&[("plan", 1)])));
    let second = outcome(&agent, &ready, done());
    let (first_body, second_body) = (&mut report.body, second.body);
    match (first_body, second_body) {
        (
            switchyard_common::contract::report::ReportBody::Outcome(first),
            switchyard_common::contract::report::ReportBody::Outcome(second),
        ) => first.outcomes.extend(second.outcomes),
        _ => unreachable!(),
    }
    let fates = world.try_settle(&[report]).await.unwrap();
    let Fate::Hold(rest) = &fates[0] else { panic!("{fates:?}") };
    let switchyard_common::contract::report::ReportBody::Outcome(rest) = &rest.body else {
        panic!("{rest:?}")
    };
    assert_eq!(rest.outcomes.len(), 1);
    assert_eq!(rest.outcomes[0].claim, waiting);
    assert_eq!(world.seed().status(&other).await, "succeeded");
}

#[tokio::test]
async fn bytes_that_are_not_those_of_the_manifest_fail_the_attempt_at_once() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (task, claim) = world.assigned("t", "plan_and_apply", &agent).await;
    let forged = BTreeMap::from([("plan".to_owned(), vec![8; 3])]);
    world.send_parts(&agent, &claim, &forged).await;
    world.report(&agent, &claim, succeeded(&files(&[("plan", 3)]))).await;
    assert_eq!(world.seed().status(&task).await, "pending");
    assert_eq!(
        world.count("dead_letters WHERE failure_message LIKE '%does not match its SHA-256%'").await,
        1
    );
}

#[tokio::test]
async fn parts_are_stored_only_for_an_open_attempt_and_from_its_own_agent() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let stranger = world.seed().agent("default", "worker-1").await;
    let (_, claim) = world.assigned("t", "plan", &agent).await;
    let files = files(&[("plan", 3)]);
    world.send_parts(&stranger, &claim, &files).await;
    assert_eq!(world.count("artifact_parts").await, 0, "another agent");
    world.report(&agent, &claim, done()).await;
    world.send_parts(&agent, &claim, &files).await;
    assert_eq!(world.count("artifact_parts").await, 0, "the attempt has ended");
    // A settled outcome that names parts does not wait for them: its claim waits for nothing.
    world.report(&agent, &claim, succeeded(&files)).await;
}

#[tokio::test]
async fn what_an_attempt_may_leave_is_accepted_up_to_the_total_and_no_further() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (task, claim) = world.assigned("t", "plan_and_apply", &agent).await;
    let full = files(&[("plan", ARTIFACTS_TOTAL_MAX_BYTES)]);
    world.send_parts(&agent, &claim, &full).await;
    let stored = || world.value::<i64>("SELECT sum(octet_length(bytes))::bigint FROM artifact_parts");
    assert_eq!(stored().await, i64::try_from(ARTIFACTS_TOTAL_MAX_BYTES).unwrap());
    world.send_parts(&agent, &claim, &files(&[("more", 1)])).await;
    assert_eq!(stored().await, i64::try_from(ARTIFACTS_TOTAL_MAX_BYTES).unwrap());
    world.report(&agent, &claim, succeeded(&full)).await;
    assert_eq!(world.seed().status(&task).await, "awaiting_approval");
}

#[tokio::test]
async fn a_manifest_over_the_configured_total_fails_with_the_limit_in_its_message() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (_, claim) = world.assigned("t", "plan", &agent).await;
    let mut outcomes = world.outcomes(&world.database.db);
    outcomes.artifacts_total_max_bytes = 10;
    let report = outcome(&agent, &claim, succeeded(&files(&[("plan", 11)])));
    assert_eq!(outcomes.settle(&[&report]).await.unwrap(), [Fate::Done]);
    assert_eq!(
        world
            .count("dead_letters WHERE failure_message LIKE '%11 bytes in total: at most 10 are allowed%'")
            .await,
        1
    );
}

#[tokio::test]
async fn an_apply_that_left_what_cannot_be_kept_is_failed_and_never_run_again() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (task, claim) = world.applying("t", &agent).await;
    let mut report = outcome(&agent, &claim, succeeded(&files(&[("log", 1)])));
    report.waited = true;
    world.settle(report).await;
    assert_eq!(world.seed().status(&task).await, "failed");
    assert!(!matches!(done(), OutcomeEnd::Failed { .. }));
}
