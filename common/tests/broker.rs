//! The broker client against a real RabbitMQ.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::proxy::Proxy;
use support::*;
use switchyard_common::broker::headers::{HeaderValue, deaths};
use switchyard_common::broker::topology::{
    ArgumentValue, BindingDecl, ExchangeDecl, ExchangeKind, QueueDecl, QueueKind,
};
use switchyard_common::broker::{
    AckResult, ConnectionState, ConsumeConnection, DeclareError, LostReason, Outgoing, Properties,
    PublishOutcome, QueueCounts, Session, Setup, Subscription, ack_all, declare, delete_queue, queue_counts,
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
    let config = switchyard_common::broker::BrokerConfig { publish_window: 7, ..config() };
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
        matches!(&outcome, PublishOutcome::Lost(LostReason::Unconfirmed(why)) if why.contains("404")),
        "{outcome:?}"
    );
    assert_eq!(within(publisher.publish(queue.message("next"))).await, PublishOutcome::Acked);
    queue.delete().await;
}

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

#[tokio::test]
async fn an_exclusive_queue_is_declared_again_by_the_setup_of_each_connection() {
    let exclusive = exclusive_queue(&name("exclusive"));
    let proxy = Proxy::start(&url()).await;
    let connection =
        ConsumeConnection::start(&config_for(proxy.url()), "test-consume", setup_with(&exclusive)).unwrap();
    let mut events = connection.subscribe(Subscription::new(&exclusive.name, 5).no_ack());
    next_ready(&mut events).await;
    proxy.cut();
    next_lost(&mut events).await;
    next_ready(&mut events).await;
    let publisher = publisher(&config()).await;
    assert!(publisher.publish(to_queue(&exclusive.name, "hello")).await.is_acked());
    assert_eq!(body(&next_delivery(&mut events).await), "hello");
}

#[tokio::test]
async fn a_setup_that_meets_a_lock_says_so_and_succeeds_when_the_lock_is_gone() {
    let exclusive = exclusive_queue(&name("lock"));
    let owner = Session::open(&config(), "owner").await.unwrap();
    declare(&owner, &topology(exclusive.clone())).await.unwrap();

    let other = Session::open(&config(), "other").await.unwrap();
    let error = declare(&other, &topology(exclusive.clone())).await.unwrap_err();
    assert!(matches!(&error, DeclareError::Locked { .. }), "{error:?}");
    assert!(error.to_string().contains(&exclusive.name) && error.to_string().contains("locked"), "{error}");
    let error = queue_counts(&other, &exclusive.name).await.unwrap_err();
    assert!(matches!(&error, DeclareError::Locked { .. }), "{error:?}");

    let connection = ConsumeConnection::start(&config(), "test-consume", setup_with(&exclusive)).unwrap();
    let down = |state: &ConnectionState| matches!(state, ConnectionState::Down { reason, .. } if reason.contains("locked"));
    wait_for(connection.state(), down).await;
    owner.close().await;
    wait_up(connection.state()).await;
}

#[tokio::test]
async fn a_queue_with_other_settings_is_named_with_what_to_do() {
    let queue = Queue::new("differs").await;
    let other = classic(&queue.name, [("x-max-length", ArgumentValue::Integer(5))]);
    let error = declare(&queue.session, &topology(other)).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(&error, DeclareError::Differs { .. }), "{error:?}");
    for expected in [queue.name.as_str(), "x-max-length", "inequivalent", "delete it"] {
        assert!(text.contains(expected), "`{expected}` is missing in: {text}");
    }
    // Declaring the same again changes nothing.
    declare(&queue.session, &topology(classic(&queue.name, []))).await.unwrap();
    queue.delete().await;
}

#[tokio::test]
async fn a_nacked_message_reaches_the_dead_letter_queue_with_its_headers_and_its_death() {
    let session = Session::open(&config(), "test").await.unwrap();
    let (exchange, dead, work) = (name("dlx"), name("dead"), name("work"));
    let mut all =
        topology(classic(&work, [("x-dead-letter-exchange", ArgumentValue::Text(exchange.clone()))]));
    all.exchanges.push(ExchangeDecl { name: exchange.clone(), kind: ExchangeKind::Topic });
    all.queues.push(classic(&dead, []));
    all.bindings.push(BindingDecl { exchange, queue: dead.clone(), routing_key: "#".into() });
    declare(&session, &all).await.unwrap();

    let mut properties =
        Properties { message_id: Some("m-1".into()), ..Properties::persistent("text/plain") };
    properties.headers.insert("traceparent".into(), HeaderValue::from("00-trace"));
    let message = Outgoing::new("", &work, properties, b"work".to_vec(), true).unwrap();
    assert!(publisher(&config()).await.publish(message).await.is_acked());

    let connection = consumer(&config());
    let mut at_work = connection.subscribe(Subscription::new(&work, 1));
    next_ready(&mut at_work).await;
    assert_eq!(next_delivery(&mut at_work).await.acker.nack(false).await, AckResult::Sent);
    let mut at_dead = connection.subscribe(Subscription::new(&dead, 1));
    next_ready(&mut at_dead).await;
    let letter = next_delivery(&mut at_dead).await;
    let headers = &letter.message.properties.headers;
    assert_eq!(letter.message.properties.message_id.as_deref(), Some("m-1"));
    assert_eq!(headers.get("traceparent").and_then(HeaderValue::as_text), Some("00-trace"));
    let death = &deaths(headers)[0];
    assert_eq!((death.queue.as_str(), death.reason.as_str(), death.count), (work.as_str(), "rejected", 1));
    delete_queue(&session, &work).await.unwrap();
    delete_queue(&session, &dead).await.unwrap();
}

#[tokio::test]
async fn a_broker_that_does_not_answer_is_given_up_in_time() {
    // It accepts and then says nothing, like a broken load balancer.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let mut config = config_for(&format!("amqp://user:password@127.0.0.1:{port}/%2f"));
    config.connect_timeout = Duration::from_millis(200);
    let error = within(Session::open(&config, "test")).await.unwrap_err();
    assert!(error.to_string().contains("handshake"), "{error}");
}

#[tokio::test]
async fn a_wrong_password_is_reported_without_showing_it() {
    let (scheme, rest) = url().split_once("://").map(|(s, r)| (s.to_owned(), r.to_owned())).unwrap();
    let place = rest.rsplit_once('@').unwrap().1.to_owned();
    let config = config_for(&format!("{scheme}://nobody:hunter2@{place}"));
    let error = within(Session::open(&config, "test")).await.unwrap_err();
    let shown = format!("{error} {error:?}");
    assert!(shown.contains("403") && !shown.contains("hunter2"), "{shown}");
}

fn exclusive_queue(name: &str) -> QueueDecl {
    QueueDecl {
        name: name.to_owned(),
        kind: QueueKind::Classic,
        durable: false,
        exclusive: true,
        auto_delete: false,
        arguments: [].into(),
    }
}

fn setup_with(queue: &QueueDecl) -> Setup {
    let topology = Arc::new(topology(queue.clone()));
    Arc::new(move |session| {
        let topology = Arc::clone(&topology);
        Box::pin(async move { declare(&session, &topology).await })
    })
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
