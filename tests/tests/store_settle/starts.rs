//! Asks, go and no-go.

use switchyard_common::contract::control::Order;
use switchyard_common::contract::ids::Nonce;
use switchyard_common::contract::report::{Ask, ReportBody};
use switchyard_common::task::{Input, LossReason};
use switchyard_dispatcher::settle::Settler;
use uuid::Uuid;

use crate::world::*;

fn nonce(number: u128) -> Nonce {
    Nonce(Uuid::from_u128(number))
}

fn gos(orders: &[Order]) -> Vec<Nonce> {
    let go = |order: &Order| match order {
        Order::Go { nonce, .. } => Some(*nonce),
        Order::NoGo { .. }
        | Order::Cancel { .. }
        | Order::Revoke { .. }
        | Order::Drain
        | Order::EndSession { .. } => None,
    };
    orders.iter().filter_map(go).collect()
}

fn no_gos(orders: &[Order]) -> usize {
    orders.iter().filter(|order| matches!(order, Order::NoGo { .. })).count()
}

#[tokio::test]
async fn go_is_sent_for_the_stored_nonce_alone_and_every_other_ask_is_refused() {
    let mut world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (_, claim) = world.applying("t", &agent).await;
    assert_eq!(gos(&world.told()), [nonce(7)]);
    world.ask(&agent, &claim, nonce(7)).await;
    assert_eq!(gos(&world.told()), [nonce(7)], "the same ask again: its answer may have been lost");
    world.ask(&agent, &claim, nonce(8)).await;
    let orders = world.told();
    assert_eq!((gos(&orders).len(), no_gos(&orders)), (0, 1), "a redelivery after a restart of the agent");
    assert_eq!(world.count("attempts WHERE started_at IS NOT NULL AND NOT repeatable").await, 1);
}

#[tokio::test]
async fn incident_53_of_two_asks_at_two_replicas_one_is_granted() {
    let mut world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let task = world.awaiting_approval("t", &agent).await;
    world.seed().must(&task, Input::Approve { by: "ann".into(), digest: None }).await;
    let claim = world.seed().assign(&task, &agent).await;
    let other = world.database.another_replica();
    let (one, two) = (world.starts(&world.database.db), world.starts(&other));
    let ask = |n| heard(&agent.agent, ReportBody::Ask(Ask { claim: claim.clone(), nonce: nonce(n) }));
    let (first, second) = (ask(1), ask(2));
    let (first, second) = ([&first], [&second]);
    let (first, second) = futures::join!(one.settle(&first), two.settle(&second));
    first.unwrap();
    second.unwrap();
    let orders = world.told();
    assert_eq!((gos(&orders).len(), no_gos(&orders)), (1, 1));
}

#[tokio::test]
async fn an_ask_of_a_stranger_or_for_a_repeatable_step_is_refused() {
    let mut world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let stranger = world.seed().agent("default", "worker-1").await;
    let task = world.awaiting_approval("t", &agent).await;
    world.seed().must(&task, Input::Approve { by: "ann".into(), digest: None }).await;
    let claim = world.seed().assign(&task, &agent).await;
    world.ask(&stranger, &claim, nonce(1)).await;
    let (_, plan) = world.assigned("plan", "plan", &agent).await;
    world.ask(&agent, &plan, nonce(2)).await;
    let orders = world.told();
    assert_eq!((gos(&orders).len(), no_gos(&orders)), (0, 2));
    assert_eq!(world.seed().status(&task).await, "assigned");
}

#[tokio::test]
async fn an_ask_after_the_session_ended_is_refused_so_the_step_starts_at_most_once() {
    let mut world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let task = world.awaiting_approval("t", &agent).await;
    world.seed().must(&task, Input::Approve { by: "ann".into(), digest: None }).await;
    let claim = world.seed().assign(&task, &agent).await;
    world
        .seed()
        .must(&task, Input::SessionEnded { session: agent.session, reason: LossReason::Silent })
        .await;
    world.ask(&agent, &claim, nonce(1)).await;
    let orders = world.told();
    assert_eq!((gos(&orders).len(), no_gos(&orders)), (0, 1));
    assert_eq!(world.count("attempts WHERE NOT repeatable AND started_at IS NOT NULL").await, 0);
}

#[tokio::test]
async fn started_reports_make_attempts_running_once() {
    let world = World::new().await;
    let agent = world.seed().agent("default", "worker-0").await;
    let (task, claim) = world.assigned("t", "plan", &agent).await;
    world.started(&agent, &claim).await;
    assert_eq!(world.seed().status(&task).await, "running");
    let version = || world.value::<i64>("SELECT version FROM tasks");
    let before = version().await;
    world.started(&agent, &claim).await;
    assert_eq!(version().await, before);
}
