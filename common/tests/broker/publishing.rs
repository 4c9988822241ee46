//! Outcomes of publishes, with and without a connection.

use std::time::Duration;

use crate::support::proxy::Proxy;
use crate::support::*;
use switchyard_common::broker::topology::ArgumentValue;
use switchyard_common::broker::{
    AckResult, BrokerConfig, ConnectionState, LostReason, Outgoing, Properties, PublishOutcome, QueueCounts,
    Subscription, queue_counts,
};

#[tokio::test]
async fn a_routed_message_is_acked_and_waits_in_its_queue() {
    let queue = Queue::new("acked").await;
    let publisher = publisher(&config()).await;
    assert_eq!(publisher.publish(queue.message("one")).await, PublishOutcome::Acked);
    let counts = queue_counts(&queue.session, &queue.name).await.unwrap();
    assert_eq!(counts, Some(QueueCounts { messages: 1, consumers: 0 }));
    queue.delete().await;
}

#[tokio::test]
async fn among_many_in_flight_exactly_the_unroutable_ones_are_returned() {
    let queue = Queue::new("returned").await;
    let publisher = publisher(&config()).await;
    let nowhere = name("nowhere");
    for round in 0..10 {
        let unroutable = |n: usize| (n + round).is_multiple_of(3);
        let messages = (0..500).map(|n| {
            let to = if unroutable(n) { &nowhere } else { &queue.name };
            to_queue(to, &n.to_string())
        });
        let outcomes = publisher.publish_pipelined(messages.collect()).await;
        for (n, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                PublishOutcome::Acked => assert!(!unroutable(n), "message {n} had no queue and looks acked"),
                PublishOutcome::Returned { code, text } => {
                    assert!(unroutable(n), "message {n} was routed and looks returned");
                    assert_eq!((code, text.as_str()), (312, "NO_ROUTE"));
                }
                other @ (PublishOutcome::Nacked | PublishOutcome::Lost(_)) => {
                    panic!("message {n}: {other:?}")
                }
            }
        }
    }
    queue.delete().await;
}

#[tokio::test]
async fn a_full_queue_that_rejects_publishes_nacks() {
    let arguments = [
        ("x-max-length", ArgumentValue::Integer(1)),
        ("x-overflow", ArgumentValue::Text("reject-publish".into())),
    ];
    let queue = Queue::declare(classic(&name("full"), arguments)).await;
    let publisher = publisher(&config()).await;
    let messages = (0..5).map(|n| queue.message(&n.to_string())).collect();
    let outcomes = publisher.publish_pipelined(messages).await;
    assert_eq!(outcomes[0], PublishOutcome::Acked);
    assert_eq!(outcomes.last(), Some(&PublishOutcome::Nacked));
    queue.delete().await;
}

#[tokio::test]
async fn what_was_in_flight_when_the_connection_was_cut_is_lost_and_publishing_goes_on() {
    let queue = Queue::new("cut").await;
    let proxy = Proxy::start(&url()).await;
    let publisher = publisher(&config_for(proxy.url())).await;
    proxy.hold_answers();
    let in_flight =
        publisher.publish_pipelined(vec![queue.message("marker-one"), queue.message("marker-two")]);
    let cut = async {
        proxy.saw("marker-two").await;
        proxy.cut();
    };
    let (outcomes, ()) = within(async { tokio::join!(in_flight, cut) }).await;
    for outcome in outcomes {
        assert!(matches!(outcome, PublishOutcome::Lost(LostReason::Unconfirmed(_))), "{outcome:?}");
    }
    assert_eq!(within(publisher.publish(queue.message("three"))).await, PublishOutcome::Acked);
    let state = publisher.state().borrow().clone();
    assert!(matches!(state, ConnectionState::Up { generation } if generation >= 2), "{state:?}");
    queue.delete().await;
}

#[tokio::test]
async fn a_publish_that_is_not_confirmed_in_time_ends_its_connection_before_it_is_called_lost() {
    let queue = Queue::new("unconfirmed").await;
    let proxy = Proxy::start(&url()).await;
    let config = BrokerConfig { confirm_timeout: Duration::from_secs(2), ..config_for(proxy.url()) };
    let publisher = publisher(&config).await;
    proxy.hold_answers();
    let state = publisher.state();
    let soon = tokio::time::Instant::now() + Duration::from_millis(100);
    let settled = publisher.publish_settled(vec![queue.message("marker-unconfirmed")], soon);
    let watch = async {
        proxy.saw("marker-unconfirmed").await;
        // Nothing cuts this connection but the publisher itself.
        wait_for(state.clone(), |state| !state.is_up()).await
    };
    let (outcomes, ended) = within(async { tokio::join!(settled, watch) }).await;
    assert!(matches!(outcomes[0], PublishOutcome::Lost(LostReason::Unconfirmed(_))), "{outcomes:?}");
    assert!(
        matches!(&ended, ConnectionState::Down { reason, .. } if reason.contains("no confirm within")),
        "{ended:?}"
    );
    proxy.cut();
    assert_eq!(within(publisher.publish(queue.message("next"))).await, PublishOutcome::Acked);
    queue.delete().await;
}

#[tokio::test]
async fn what_is_not_written_by_its_time_is_never_sent() {
    let queue = Queue::new("write-by").await;
    let publisher = publisher(&config()).await;
    let past = tokio::time::Instant::now() - Duration::from_millis(1);
    let outcomes = within(publisher.publish_settled(vec![queue.message("stale")], past)).await;
    assert!(matches!(outcomes[0], PublishOutcome::Lost(LostReason::NotSent(_))), "{outcomes:?}");
    let later = tokio::time::Instant::now() + PATIENCE;
    let outcomes = within(publisher.publish_settled(vec![queue.message("fresh")], later)).await;
    assert_eq!(outcomes, [PublishOutcome::Acked]);
    let counts = queue_counts(&queue.session, &queue.name).await.unwrap().unwrap();
    assert_eq!(counts.messages, 1);
    queue.delete().await;
}

#[tokio::test]
async fn without_a_connection_a_publish_waits_and_then_says_that_nothing_was_sent() {
    let queue = Queue::new("down").await;
    let proxy = Proxy::start(&url()).await;
    let publisher = publisher(&config_for(proxy.url())).await;
    proxy.refuse(true);
    proxy.cut();
    wait_for(publisher.state(), |state| matches!(state, ConnectionState::Down { .. })).await;

    let soon = tokio::time::Instant::now() + Duration::from_millis(300);
    let outcome = publisher.publish_until(queue.message("late"), soon).await;
    assert!(
        matches!(&outcome, PublishOutcome::Lost(LostReason::NotSent(why)) if why.contains("down")),
        "{outcome:?}"
    );

    let waiting = publisher.publish(queue.message("patient"));
    let heal = async { proxy.refuse(false) };
    assert_eq!(within(async { tokio::join!(waiting, heal) }).await.0, PublishOutcome::Acked);
    // The abandoned message was not sent later.
    let counts = queue_counts(&queue.session, &queue.name).await.unwrap().unwrap();
    assert_eq!(counts.messages, 1);
    queue.delete().await;
}

#[tokio::test]
async fn more_messages_than_the_window_pass_in_order() {
    let queue = Queue::new("window").await;
    let config = BrokerConfig { publish_window: 7, ..config() };
    let publisher = publisher(&config).await;
    let messages = (0..1_000).map(|n| queue.message(&n.to_string())).collect();
    assert!(publisher.publish_pipelined(messages).await.iter().all(PublishOutcome::is_acked));
    let connection = consumer(&config);
    let mut events = connection.subscribe(Subscription::new(&queue.name, 100));
    next_ready(&mut events).await;
    for expected in 0..1_000 {
        let incoming = next_delivery(&mut events).await;
        assert_eq!(body(&incoming), expected.to_string());
        assert_eq!(incoming.acker.ack().await, AckResult::Sent);
    }
    queue.delete().await;
}

#[tokio::test]
async fn closing_a_publisher_waits_for_what_is_in_flight() {
    let queue = Queue::new("close").await;
    let publisher = publisher(&config()).await;
    let messages = (0..300).map(|n| queue.message(&n.to_string())).collect();
    let other = publisher.clone();
    let (outcomes, closed) =
        within(async { tokio::join!(publisher.publish_pipelined(messages), other.close(PATIENCE)) }).await;
    assert!(closed);
    // Whatever the moment of the close: every message is either acked or was certainly not sent.
    let acked = outcomes.iter().filter(|outcome| outcome.is_acked()).count();
    let not_sent =
        outcomes.iter().filter(|o| matches!(o, PublishOutcome::Lost(LostReason::NotSent(_)))).count();
    assert_eq!(acked + not_sent, 300);
    let counts = queue_counts(&queue.session, &queue.name).await.unwrap().unwrap();
    assert_eq!(usize::try_from(counts.messages).unwrap(), acked);
    assert_eq!(*publisher.state().borrow(), ConnectionState::Closed);
    queue.delete().await;
}

#[tokio::test]
async fn a_publish_to_a_missing_exchange_is_lost_and_does_not_end_the_publisher() {
    let queue = Queue::new("exchange").await;
    let publisher = publisher(&config()).await;
    let lost = Outgoing::new(&name("exchange"), "key", Properties::default(), vec![], true).unwrap();
    let outcome = within(publisher.publish(lost)).await;
    assert!(
        matches!(&outcome, PublishOutcome::Lost(LostReason::NoExchange(why)) if why.contains("404")),
        "{outcome:?}"
    );
    assert_eq!(within(publisher.publish(queue.message("next"))).await, PublishOutcome::Acked);
    queue.delete().await;
}
