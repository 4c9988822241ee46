//! Subscriptions: loss and return, settling, pausing, hostile messages.

use crate::support::proxy::Proxy;
use crate::support::raw;
use crate::support::*;
use std::time::{Duration, Instant};
use switchyard_common::broker::{
    AckResult, ConsumerEvent, ConsumerStream, PublishOutcome, QueueCounts, Subscription, ack_all, declare,
    delete_queue, queue_counts,
};

#[tokio::test]
async fn a_cut_consumer_says_lost_then_ready_and_gets_its_messages_again() {
    let queue = Queue::new("consume").await;
    let publisher = publisher(&config()).await;
    let proxy = Proxy::start(&url()).await;
    let connection = consumer(&config_for(proxy.url()));
    let mut events = connection.subscribe(Subscription::new(&queue.name, 10));
    let first = next_ready(&mut events).await;
    assert!(publisher.publish(queue.message("one")).await.is_acked());
    let before = next_delivery(&mut events).await;
    assert_eq!((before.generation, before.message.redelivered), (first, false));

    proxy.cut();
    next_lost(&mut events).await;
    let second = next_ready(&mut events).await;
    assert!(second > first);
    let again = next_delivery(&mut events).await;
    assert_eq!((body(&again), again.generation, again.message.redelivered), ("one", second, true));

    assert!(before.acker.is_stale());
    assert_eq!(before.acker.ack().await, AckResult::Stale);
    assert_eq!(again.acker.ack().await, AckResult::Sent);
    connection.close(PATIENCE).await;
    let counts = queue_counts(&queue.session, &queue.name).await.unwrap().unwrap();
    assert_eq!(counts, QueueCounts { messages: 0, consumers: 0 });
    queue.delete().await;
}

#[tokio::test]
async fn deliveries_that_became_void_while_they_waited_are_not_handed_out() {
    let queue = Queue::new("void").await;
    let publisher = publisher(&config()).await;
    let proxy = Proxy::start(&url()).await;
    let connection = consumer(&config_for(proxy.url()));
    let mut events = connection.subscribe(Subscription::new(&queue.name, 10));
    next_ready(&mut events).await;
    let messages = (0..10).map(|n| queue.message(&n.to_string())).collect();
    assert!(publisher.publish_pipelined(messages).await.iter().all(PublishOutcome::is_acked));
    let held = next_delivery(&mut events).await;
    proxy.cut();
    wait_for(connection.state(), |state| !state.is_up()).await;
    next_lost(&mut events).await;
    next_ready(&mut events).await;
    let mut batch = vec![next_delivery(&mut events).await];
    while batch.len() < 10 {
        batch.push(next_delivery(&mut events).await);
    }
    assert!(batch.iter().all(|incoming| incoming.message.redelivered || body(incoming) != body(&held)));
    let counts = ack_all(batch.into_iter().map(|incoming| incoming.acker).collect()).await;
    assert_eq!((counts.sent, counts.stale), (10, 0));
    queue.delete().await;
}

#[tokio::test]
async fn a_batch_is_acked_without_touching_what_is_still_in_hand() {
    let queue = Queue::new("batch").await;
    let publisher = publisher(&config()).await;
    let messages = (0..20).map(|n| queue.message(&n.to_string())).collect();
    assert!(publisher.publish_pipelined(messages).await.iter().all(PublishOutcome::is_acked));
    let connection = consumer(&config());
    let mut events = connection.subscribe(Subscription::new(&queue.name, 50));
    next_ready(&mut events).await;
    let mut all = Vec::new();
    while all.len() < 20 {
        all.push(next_delivery(&mut events).await);
    }
    let held = all.remove(5);
    let counts = ack_all(all.into_iter().map(|incoming| incoming.acker).collect()).await;
    assert_eq!((counts.sent, counts.stale), (19, 0));
    assert!(connection.close(PATIENCE).await);
    assert!(held.acker.is_stale());
    let counts = queue_counts(&queue.session, &queue.name).await.unwrap().unwrap();
    assert_eq!(counts.messages, 1, "exactly the one in hand came back");
    queue.delete().await;
}

#[tokio::test]
async fn a_paused_subscription_gets_nothing_new_and_goes_on_when_resumed() {
    let queue = Queue::new("pause").await;
    let publisher = publisher(&config()).await;
    let connection = consumer(&config());
    let mut events = connection.subscribe(Subscription::new(&queue.name, 5));
    let generation = next_ready(&mut events).await;
    assert!(publisher.publish(queue.message("before")).await.is_acked());
    let in_hand = next_delivery(&mut events).await;

    let control = events.handle();
    control.pause();
    wait_for_consumers(&queue, 0).await;
    assert!(publisher.publish(queue.message("while paused")).await.is_acked());
    assert_eq!(in_hand.acker.ack().await, AckResult::Sent, "what is in hand can still be settled");
    assert!(events.try_delivery().is_none());

    control.resume();
    let next = next_delivery(&mut events).await;
    assert_eq!((body(&next), next.generation), ("while paused", generation));
    queue.delete().await;
}

#[tokio::test]
async fn what_is_held_waits_within_the_prefetch_and_the_rest_goes_to_other_consumers() {
    let queue = Queue::quorum("hold").await;
    let publisher = publisher(&config()).await;
    let (connection, other) = (consumer(&config()), consumer(&config()));
    let mut held = connection.subscribe(Subscription::new(&queue.name, 2));
    let generation = next_ready(&mut held).await;
    assert!(held.is_empty());
    held.handle().hold();
    assert!(!held.is_empty(), "it is not known what comes meanwhile");
    let messages = (0..4).map(|n| queue.message(&n.to_string())).collect();
    assert!(publisher.publish_pipelined(messages).await.iter().all(PublishOutcome::is_acked));

    let mut others = other.subscribe(Subscription::new(&queue.name, 10));
    next_ready(&mut others).await;
    for expected in ["2", "3"] {
        let incoming = next_delivery(&mut others).await;
        assert_eq!(body(&incoming), expected);
        assert_eq!(incoming.acker.ack().await, AckResult::Sent);
    }
    assert!(held.try_delivery().is_none());

    held.handle().resume();
    for expected in ["0", "1"] {
        let incoming = next_delivery(&mut held).await;
        assert_eq!((body(&incoming), incoming.generation), (expected, generation));
        assert_eq!(incoming.acker.ack().await, AckResult::Sent);
    }
    until_empty(&mut held).await;
    queue.delete().await;
}

#[tokio::test]
async fn what_is_given_back_goes_to_others_and_the_stream_is_not_empty_until_it_has_caught_up() {
    let queue = Queue::quorum("give-back").await;
    let publisher = publisher(&config()).await;
    let (connection, other) = (consumer(&config()), consumer(&config()));
    let mut given = connection.subscribe(Subscription::new(&queue.name, 10));
    let generation = next_ready(&mut given).await;
    let messages = (0..3).map(|n| queue.message(&n.to_string())).collect();
    assert!(publisher.publish_pipelined(messages).await.iter().all(PublishOutcome::is_acked));
    let in_hand = next_delivery(&mut given).await;
    given.handle().give_back();
    assert!(!given.is_empty(), "what was in hand comes again");
    wait_for_consumers(&queue, 0).await;
    assert_eq!(in_hand.acker.ack().await, AckResult::Stale);

    let mut others = other.subscribe(Subscription::new(&queue.name, 10));
    next_ready(&mut others).await;
    for expected in ["0", "1", "2"] {
        let incoming = next_delivery(&mut others).await;
        assert_eq!(body(&incoming), expected);
        assert_eq!(incoming.acker.ack().await, AckResult::Sent);
    }
    // Twice is as good as once, and nothing is taken until it is wanted.
    given.handle().give_back();
    assert!(publisher.publish(queue.message("theirs")).await.is_acked());
    assert_eq!(body(&next_delivery(&mut others).await), "theirs");
    assert!(!given.is_empty());
    assert!(given.try_delivery().is_none());

    given.handle().resume();
    let again = loop {
        match given.next().await {
            Some(ConsumerEvent::Ready { generation }) => break generation,
            Some(ConsumerEvent::Lost { .. }) => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(again > generation);
    until_empty(&mut given).await;
    assert!(other.close(Duration::from_secs(5)).await);
    assert_eq!(body(&next_delivery(&mut given).await), "theirs");
    queue.delete().await;
}

#[tokio::test]
async fn an_idle_subscription_gets_new_channels_and_no_message_is_lost_or_out_of_order() {
    let queue = Queue::quorum("renewed").await;
    let publisher = publisher(&config()).await;
    let connection = consumer(&config());
    let soon = Duration::from_millis(20);
    let subscription = Subscription { renewed_after: soon, ..Subscription::new(&queue.name, 10) };
    let mut events = connection.subscribe(subscription);
    let mut generations = vec![next_ready(&mut events).await];
    let (begun, mut n) = (Instant::now(), 0);
    while generations.len() < 4 {
        assert!(begun.elapsed() < PATIENCE, "{n} messages came by {generations:?}");
        n += 1;
        assert!(publisher.publish(queue.message(&n.to_string())).await.is_acked());
        loop {
            match events.next().await.unwrap() {
                ConsumerEvent::Ready { generation } => generations.push(generation),
                ConsumerEvent::Delivery(incoming) => {
                    assert_eq!(body(&incoming), n.to_string());
                    assert_eq!(incoming.acker.ack().await, AckResult::Sent);
                    break;
                }
                ConsumerEvent::Lost { fault } => panic!("{fault}"),
            }
        }
    }
    assert!(generations.is_sorted(), "{generations:?}");
    until_empty(&mut events).await;
    assert!(connection.close(PATIENCE).await);
    let counts = queue_counts(&queue.session, &queue.name).await.unwrap().unwrap();
    assert_eq!(counts.messages, 0);
    queue.delete().await;
}

/// Until nothing can have come that is not handed over; whatever is said of new channels meanwhile is taken.
async fn until_empty(events: &mut ConsumerStream) {
    let emptied = async {
        while !events.is_empty() {
            let soon = tokio::time::timeout(Duration::from_millis(10), events.next()).await;
            assert!(!matches!(soon, Ok(Some(ConsumerEvent::Delivery(_)) | None)), "{soon:?}");
        }
    };
    tokio::time::timeout(PATIENCE, emptied).await.expect("it is empty at last");
}

#[tokio::test]
async fn a_restarted_subscription_hands_everything_back_and_gets_it_again() {
    let queue = Queue::new("restart").await;
    let publisher = publisher(&config()).await;
    let connection = consumer(&config());
    let mut events = connection.subscribe(Subscription::new(&queue.name, 5));
    next_ready(&mut events).await;
    assert!(publisher.publish(queue.message("one")).await.is_acked());
    let held = next_delivery(&mut events).await;
    events.handle().restart();
    assert!(next_lost(&mut events).await.text.contains("restarted"));
    next_ready(&mut events).await;
    assert!(next_delivery(&mut events).await.message.redelivered);
    assert_eq!(held.acker.nack(true).await, AckResult::Stale);
    queue.delete().await;
}

#[tokio::test]
async fn a_deleted_queue_is_reported_and_only_its_own_subscription_suffers() {
    let doomed = Queue::new("doomed").await;
    let healthy = Queue::new("healthy").await;
    let publisher = publisher(&config()).await;
    let connection = consumer(&config());
    let mut of_doomed = connection.subscribe(Subscription::new(&doomed.name, 5));
    let mut of_healthy = connection.subscribe(Subscription::new(&healthy.name, 5));
    next_ready(&mut of_doomed).await;
    let generation = next_ready(&mut of_healthy).await;

    delete_queue(&doomed.session, &doomed.name).await.unwrap();
    assert!(next_lost(&mut of_doomed).await.text.contains("cancelled"));
    assert!(next_lost(&mut of_doomed).await.is(404));

    declare(&doomed.session, &topology(classic(&doomed.name, []))).await.unwrap();
    next_ready(&mut of_doomed).await;
    assert!(publisher.publish(healthy.message("fine")).await.is_acked());
    assert_eq!(next_delivery(&mut of_healthy).await.generation, generation);
    doomed.delete().await;
    healthy.delete().await;
}

/// Waits until the queue has this many consumers: the broker's own answer, asked again until it is so.
async fn wait_for_consumers(queue: &Queue, wanted: u32) {
    within(async {
        while queue_counts(&queue.session, &queue.name).await.unwrap().unwrap().consumers != wanted {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn hostile_properties_arrive_as_a_message_instead_of_ending_the_consumer() {
    let queue = Queue::new("hostile").await;
    raw::publish(&url(), &queue.name, raw::MESSAGE_ID, &raw::short(b"id-\xff\xfe")).await;
    // 20,000 levels overflow the stack of the client library's thread, which ends the process.
    raw::publish(&url(), &queue.name, raw::HEADERS, &raw::nested_headers(20_000)).await;
    let connection = consumer(&config());
    let mut events = connection.subscribe(Subscription::new(&queue.name, 5));
    next_ready(&mut events).await;
    let not_utf8 = next_delivery(&mut events).await;
    assert_eq!(not_utf8.message.properties.message_id.as_deref(), Some("id-??"));
    let nested = next_delivery(&mut events).await;
    assert!(nested.message.headers_truncated);
    for incoming in [not_utf8, nested] {
        assert_eq!(body(&incoming), "body");
        assert_eq!(incoming.acker.nack(false).await, AckResult::Sent);
    }
    queue.delete().await;
}
